"""make contrast-equality: what counts as equal, by an engine that says what it is told to. Real ones are asked in
tests/composer/engines/test_vllm_contrast.py (marked vllm)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from composer.engines.base import Engine
from composer.types import Delta, Draft, Host, Measured, Request, TokenLogprob, Usage
from evals.bench.contrast_cases import END, Reference, drawn, ended, plain, requests
from evals.bench.contrast_equality import ENGINES, Cases, Contender, Equal, Fared, Place, compare, fares, kept, report

EOS = 99


class Says:
    """Says each request the tokens of its reference but for `wrong` (id, place); leaves out the token that ends a text if
    `silent`; `crowd`: whatever is drawn beside others, is drawn otherwise; `whole`: nothing comes piece by piece."""

    def __init__(
        self,
        known: dict[str, Reference],
        wrong: tuple[str, int] = ("", 0),
        *,
        silent: bool = False,
        crowd: bool = False,
        whole: bool = False,
    ) -> None:
        self._known, self._wrong = known, wrong
        self._silent, self._crowd, self._whole = silent, crowd, whole

    async def open(self, host: Host) -> Measured:
        return Measured(0.0, 0)

    async def close(self) -> None:
        pass

    async def generate(self, asked: Sequence[Request]) -> AsyncIterator[tuple[str, Delta | Draft]]:
        for one in asked:
            ids = [EOS if token == END else token for token in self._known[one.id].ids]
            if self._wrong[0] == one.id:
                ids[self._wrong[1]] = 77
            if self._crowd and len(asked) > 1 and one.sampling.temperature > 0:
                ids[-1] = 78
            stop = ids[-1:] == [EOS]
            told = ids[:-1] if stop and self._silent else ids
            text = "".join(f"<{token}>" for token in ids)
            pieces = [text] if self._whole else [text[:3], text[3:]]
            if one.deltas:
                for i, piece in enumerate(pieces):
                    yield one.id, Delta(piece, 3 * i)
            steps = tuple(TokenLogprob("", 0.0, id=token) for token in told)
            yield (
                one.id,
                Draft("", text, "stop" if stop else "length", Usage(1, len(ids), passes=2 * len(ids)), logprobs=steps),
            )


def known() -> Cases:
    greedy = requests(4, 3)
    alone, seeded = plain(greedy), drawn(greedy)
    short = [Request(f"{one.id}, short", one.streams, one.sampling, mix=one.mix) for one in greedy]
    every = [*greedy, *alone, *seeded, *short]
    reference = {one.id: Reference((1, i, END if i % 2 else 3), (0.5, 0.25, 0.125)) for i, one in enumerate(every)}
    return Cases(greedy, short, alone, seeded, reference, frozenset({EOS}))


def fared(cases: Cases, engine: Says, *, draws: bool = True) -> Fared:
    contender = Contender(lambda _: cast(Engine, engine), lambda _: Host("smol", "scripted"), exact=True, draws=draws)
    return asyncio.run(fares(contender, Place("python", Path()), cases))


@pytest.mark.parametrize("silent", [False, True])
def test_an_engine_that_says_the_same_is_equal_whether_it_tells_the_end_or_not(silent: bool) -> None:
    cases = known()
    found = fared(cases, Says(dict(cases.reference), silent=silent))

    assert kept("vllm", found) and found.greedy == Equal(12, 12) and found.adapters == Equal(3, 3)
    assert report("vllm", found) == [
        "vllm: equal 12 of 12 tokens (all have to be)",
        "vllm, adapters on both sides: equal 3 of 3 tokens",
        "vllm, beside plain requests: contrasted equal 12 of 12, plain equal 12 of 12 tokens",
        "vllm, seeded: equal 12 of 12 tokens (alone and beside others)",
        "vllm, seeded, by the reference: equal 12 of 12 tokens",
        "vllm, streamed: equal 4 of 4 texts",
    ]
    assert fared(cases, Says(dict(cases.reference)), draws=False).drawn is None


@pytest.mark.parametrize(
    ("wrong", "line", "where"),
    [
        ("case 1", "vllm: equal 10 of 12", "  case 1 parts at token 1, where the second choice is 0.25 behind"),
        ("case 1", "vllm, adapters on both sides: equal 1 of 3", ""),
        (
            "case 2, short",
            "vllm, beside plain requests: contrasted equal 10 of 12, plain equal 12 of 12",
            "  contrasted case 2 parts",
        ),
        (
            "case 2, plain",
            "vllm, beside plain requests: contrasted equal 12 of 12, plain equal 10 of 12",
            "  plain case 2 parts",
        ),
        ("case 3, drawn", "vllm, seeded, by the reference: equal 10 of 12", "  case 3 parts at token 1"),
    ],
)
def test_another_token_is_told_with_its_place_and_fails(wrong: str, line: str, where: str) -> None:
    cases = known()
    found = fared(cases, Says(dict(cases.reference), (wrong, 1)))
    told = report("vllm", found)

    assert any(one.startswith(line) for one in told), told
    assert any(one.startswith(where) for one in told)
    assert not kept("vllm", found) and kept("llamacpp", found), "of engines that are not exact it is told"


def test_a_seed_that_says_something_else_beside_others_fails() -> None:
    cases = known()
    found = fared(cases, Says(dict(cases.reference), crowd=True))

    assert found.seeded == Equal(8, 12, tuple((case, 2, 0.0) for case in range(4)))
    assert found.drawn == Equal(12, 12) and found.plain == Equal(12, 12) and not kept("vllm", found)


def test_a_text_in_one_piece_is_not_streamed_whoever_the_engine_is() -> None:
    cases = known()
    found = fared(cases, Says(dict(cases.reference), whole=True))

    assert found.streamed.equal == 0 and not any(kept(name, found) for name in ENGINES)


def test_a_text_that_ends_sooner_or_later_parts_there() -> None:
    long, short = Reference((1, 2, 3), (0.1, 0.2, 0.3)), Reference((1, END), (0.1, 0.2))

    assert compare([long], [(1, 2)]) == Equal(2, 3, ((0, 2, 0.3),))
    assert compare([short], [(1, END, 4)]) == Equal(2, 2, ((0, 2, 0.0),))
    assert compare([short], [(1, 5, 4)]) == Equal(1, 2, ((0, 1, 0.2),))
    assert ended([1, EOS], {EOS}) == (1, END) and ended([1, 2], {EOS}) == (1, 2) and ended([], {EOS}) == ()
    assert long.first(2) == Reference((1, 2), (0.1, 0.2))


def test_what_is_asked_is_what_the_lines_say() -> None:
    greedy = requests()
    kinds = {(one.streams[0].adapter is None, one.streams[1].adapter is None) for one in greedy}

    assert len(greedy) == 20 and kinds == {(a, b) for a in (True, False) for b in (True, False)}
    assert {one.mix.space for one in greedy if one.mix} == {"logit", "logprob"}
    assert len({one.sampling.seed for one in drawn(greedy)}) == 20
    for alone, one in zip(plain(greedy), greedy, strict=True):
        assert (alone.mix, alone.streams[0].prompt) == (None, one.streams[0].prompt) and alone.streams[0].weight == 1
