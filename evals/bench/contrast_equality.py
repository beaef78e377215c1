"""Do the engines decode several streams as it is defined? Their tokens beside those of a loop that is written down plainly
(`contrast_naive.py`: transformers, float32, a cache per stream, run by vLLM's interpreter).

`python -m evals.bench.contrast_equality [--engines NAME …] [--cases N] [--tokens N] [--json FILE]` prints lines per engine,
such as `vllm: equal N of M tokens`: those before the first one that is another. All lines but the first are of fewer and
shorter cases:

- (nothing): all cases at once, greedy; `adapters on both sides`: those of them that have one on each
- `beside plain requests`: contrasted, plain and drawn requests take turns in one batch; contrasted and plain, greedy
- `seeded`: drawn at temperature 0.8, each by itself, and beside others in that batch: the same request has to say the same
- `seeded, by the reference`: beside the loop's scores, drawn from by `Draws`, where the engine draws by it (vLLM has its own)
- `streamed`: the pieces put together beside the text

Of engines that compute in float32 all have to be equal. Of others it is told where they part, and how near the second choice
was there; only their streamed texts have to be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from composer.config import PACKAGED, load_settings, packaged_registry
from composer.engines.base import Engine
from composer.engines.llamacpp import LlamaCppEngine
from composer.engines.transformers import TransformersEngine
from composer.engines.vllm import VllmEngine
from composer.registry.experts import Registry
from composer.registry.vllm_home import find_python
from composer.types import AdapterFile, Draft, Host, Request
from evals.bench.contrast_cases import (
    ADAPTERS,
    CASES,
    END,
    TOKENS,
    Reference,
    drawn,
    ended,
    naive,
    plain,
    requests,
)
from evals.engines import as_folder

CONTEXT = 512
FEW, SHORT, STREAMED = 8, 16, 4  # cases and tokens of all lines but the first; texts that are read along


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are: the interpreter that has vLLM and transformers, and the packaged model as a folder."""

    python: str
    folder: Path

    def host(self, slots: int = 8) -> Host:
        """The model with its adapters."""
        files = tuple(AdapterFile(name, PACKAGED / "adapters" / name, "0" * 64) for name in ADAPTERS)
        return Host("smol", "vllm", self.folder, files, CONTEXT, slots)


@dataclass(frozen=True, slots=True)
class Contender:
    """An engine to be compared: how one is made and its host, whether it has to be equal, and draws by `Draws`."""

    make: Callable[[Place], Engine]
    host: Callable[[Place], Host]
    exact: bool
    draws: bool


def _vllm(place: Place) -> Engine:
    return VllmEngine(python=place.python, dtype="float32", in_process=True)


def _transformers(place: Place) -> Engine:
    return TransformersEngine(python=place.python, dtype="float32")


def _llamacpp(_: Place) -> Engine:
    return LlamaCppEngine()


def _quantised(_: Place) -> Host:
    """The packaged file, of which the folder was made, with the adapters in llama.cpp's form."""
    settings = load_settings(packaged_registry())
    return Registry(settings).host(next(iter(settings.models)), ADAPTERS)


ENGINES: Mapping[str, Contender] = {
    "vllm": Contender(_vllm, Place.host, exact=True, draws=False),
    "transformers": Contender(_transformers, Place.host, exact=True, draws=True),
    # it computes with the weights as they are quantised
    "llamacpp": Contender(_llamacpp, _quantised, exact=False, draws=True),
}


@dataclass(frozen=True, slots=True)
class Equal:
    """What is equal of how many tokens (or texts), and per case that parts (case, token, how far the second choice was
    behind there)."""

    equal: int
    of: int
    parted: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Fared:
    """How an engine fares, by what the module says of each."""

    greedy: Equal
    adapters: Equal
    contrasted: Equal
    plain: Equal
    seeded: Equal
    drawn: Equal | None
    streamed: Equal

    @property
    def tokens(self) -> tuple[Equal, ...]:
        """All but the texts."""
        every = (self.greedy, self.adapters, self.contrasted, self.plain, self.seeded, self.drawn)
        return tuple(one for one in every if one is not None)


@dataclass(frozen=True, slots=True)
class Cases:
    """What is asked, and the reference of it by request id."""

    greedy: Sequence[Request]
    contrasted: Sequence[Request]
    plain: Sequence[Request]
    drawn: Sequence[Request]
    reference: Mapping[str, Reference]
    ends: frozenset[int]

    def beside(self, found: Mapping[str, tuple[int, ...]], asked: Sequence[Request]) -> Equal:
        """How far what was found is equal to the reference."""
        return compare([self.reference[one.id] for one in asked], [found[one.id] for one in asked])


def cases(place: Place, n: int, tokens: int) -> Cases:
    """All cases with their references."""
    greedy = requests(n, tokens)
    short = [replace(one, sampling=replace(one.sampling, max_tokens=min(SHORT, tokens))) for one in greedy[:FEW]]
    alone, seeded = plain(short), drawn(short)
    asked = [*greedy, *alone, *seeded]
    found, ends = naive(place.python, place.folder, asked)
    reference = {one.id: known for one, known in zip(asked, found, strict=True)}
    contrasted = [replace(one, id=f"{one.id}, short") for one in short]
    reference |= {mine.id: reference[one.id].first(SHORT) for mine, one in zip(contrasted, short, strict=True)}
    return Cases(greedy, contrasted, alone, seeded, reference, ends)


@dataclass(frozen=True, slots=True)
class Heard:
    """What an engine said: tokens by request id, and of those read along the pieces and the text."""

    ids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pieces: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


async def said(engine: Engine, asked: Sequence[Request], ends: frozenset[int]) -> Heard:
    """What the engine says to all of them at once. Raises RuntimeError for what it does not answer."""
    heard = Heard()
    async for name, piece in engine.generate(asked):
        if not isinstance(piece, Draft):
            if piece.at == 0:  # begun, or begun again
                heard.pieces[name] = []
            heard.pieces.setdefault(name, []).append(piece.text)
            continue
        if piece.error is not None or piece.logprobs is None:
            raise RuntimeError(f"{name}: {piece.error}")
        ids = [-1 if token.id is None else token.id for token in piece.logprobs]
        own = ended(ids, ends)
        heard.ids[name] = (*own, END) if piece.stop == "stop" and own[-1:] != (END,) else own
        heard.texts[name] = piece.text
    return heard


async def fares(contender: Contender, place: Place, known: Cases) -> Fared:
    """Everything, of one engine that is opened once."""
    engine = contender.make(place)
    await engine.open(contender.host(place))
    try:
        greedy = await said(engine, known.greedy, known.ends)
        alone: dict[str, tuple[int, ...]] = {}
        for one in known.drawn:
            alone |= (await said(engine, [one], known.ends)).ids
        turns = [one for three in zip(known.plain, known.contrasted, known.drawn, strict=True) for one in three]
        together = (await said(engine, turns, known.ends)).ids
        along = [replace(one, deltas=True) for one in known.contrasted[:STREAMED]]
        read = await said(engine, along, known.ends)
    finally:
        await engine.close()
    both = [one for one in known.greedy if all(stream.adapter for stream in one.streams)]
    first = [Reference(alone[one.id], ()) for one in known.drawn]
    return Fared(
        known.beside(greedy.ids, known.greedy),
        known.beside(greedy.ids, both),
        known.beside(together, known.contrasted),
        known.beside(together, known.plain),
        compare(first, [together[one.id] for one in known.drawn]),
        known.beside(alone, known.drawn) if contender.draws else None,
        streamed(read),
    )


def compare(reference: Sequence[Reference], found: Sequence[Sequence[int]]) -> Equal:
    """How far the tokens are equal. A text that ends sooner or later parts there."""
    equal, parted = 0, []
    for case, (known, own) in enumerate(zip(reference, found, strict=True)):
        same = next((i for i, (one, other) in enumerate(zip(known.ids, own, strict=False)) if one != other), None)
        at = min(len(known.ids), len(own)) if same is None else same
        equal += at
        if known.ids != tuple(own):
            parted.append((case, at, known.gaps[at] if at < len(known.gaps) else 0.0))
    return Equal(equal, sum(len(known.ids) for known in reference), tuple(parted))


def streamed(heard: Heard) -> Equal:
    """Texts that came in more than one piece (but those of one token) which make up the text."""
    parted = [
        case
        for case, (name, text) in enumerate(heard.texts.items())
        if "".join(heard.pieces.get(name, ())) != text or (len(heard.pieces.get(name, ())) < 2 < len(heard.ids[name]))
    ]
    return Equal(len(heard.texts) - len(parted), len(heard.texts), tuple((case, 0, 0.0) for case in parted))


def measure(names: Sequence[str], n: int, tokens: int, say: Callable[[str], None]) -> Iterator[tuple[str, Fared]]:
    """Every engine beside the one reference, as soon as it is through."""
    python = find_python(None)
    place = Place(python, as_folder(load_settings(packaged_registry()), python))
    say(f"the reference: {n} cases of at most {tokens} tokens and some shorter ones, a pass per stream and token")
    known = cases(place, n, tokens)
    for name in names:
        say(f"asking {name}")
        yield name, asyncio.run(fares(ENGINES[name], place, known))


def kept(name: str, one: Fared) -> bool:
    """Whether everything is equal that has to be."""
    wanted = (*one.tokens, one.streamed) if ENGINES[name].exact else (one.streamed,)
    return all(found.equal == found.of and not found.parted for found in wanted)


def report(name: str, one: Fared) -> list[str]:
    """The lines of an engine, and where it parts."""
    wanted = "all have to be" if ENGINES[name].exact else "told, not demanded"
    contrasted, alone = one.contrasted, one.plain
    lines = [f"{name}: equal {one.greedy.equal} of {one.greedy.of} tokens ({wanted})", *_parted(one.greedy)]
    lines.append(f"{name}, adapters on both sides: equal {one.adapters.equal} of {one.adapters.of} tokens")
    lines.append(
        f"{name}, beside plain requests: contrasted equal {contrasted.equal} of {contrasted.of}, "
        f"plain equal {alone.equal} of {alone.of} tokens"
    )
    lines += [*_parted(contrasted, "contrasted case"), *_parted(alone, "plain case")]
    lines.append(f"{name}, seeded: equal {one.seeded.equal} of {one.seeded.of} tokens (alone and beside others)")
    lines += _parted(one.seeded, drawn=True)
    if one.drawn is not None:
        lines.append(f"{name}, seeded, by the reference: equal {one.drawn.equal} of {one.drawn.of} tokens")
        lines += _parted(one.drawn, drawn=True)
    return [*lines, f"{name}, streamed: equal {one.streamed.equal} of {one.streamed.of} texts"]


def _parted(one: Equal, what: str = "case", *, drawn: bool = False) -> list[str]:
    near = "" if drawn else ", where the second choice is {:.2g} behind"
    return [f"  {what} {case} parts at token {at}{near.format(gap)}" for case, at, gap in one.parted]


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(prog="python -m evals.bench.contrast_equality", description=__doc__)
    parser.add_argument("--engines", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    found: dict[str, Fared] = {}
    for name, one in measure(asked.engines, asked.cases, asked.tokens, lambda line: print(line, file=sys.stderr)):
        found[name] = one
        with suppress(BrokenPipeError):
            print("\n".join(report(name, one)), flush=True)
    if asked.json is not None:
        told = {name: asdict(one) for name, one in found.items()}
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if all(kept(name, one) for name, one in found.items()) else 1)


if __name__ == "__main__":
    main()
