"""Models computed by transformers: requests come over a socket, every step is taken here, and what is new goes back.

Run as a script by the interpreter that has torch, transformers and peft. Of `composer` it loads single modules of the
folder it lies in, and none that needs anything but numpy. The lines are those of `vllm_loop.py`, `vllm_pipe.py` at the
other end, and three more words: the first line is {"id": …, "open": {"bases": [{"name", "folder", "template", "context"},
…], "dtype", "threads"}}, a "load" names its "base", and a "body" may have a "target" to be scored in place of a reply.

Each stream of each request is computed by itself, as a batch of one with a cache of its own, so that a reply does not
depend on what else is under way: in a batch, padded on the left, the same scores differ by 3e-5 (float32, SmolLM2-135M).
That has its price: one thread computed 13.5 tokens per CPU second so, 37 in a batch of 4 and 62 in one of 8 (2026-11-27,
beside other work). Who wants many replies soon takes vLLM.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.engines.transformers_models import Base
    from composer.engines.transformers_rows import Row

_PIECE = 1 << 20
_QUIET = 20.0  # seconds after which a sign of life is sent: nobody is to give up on a long reply


@dataclass
class Loop:
    """The bases, the names they and their adapters go by, and what is under way."""

    bases: dict[str, Base] = field(default_factory=dict)
    names: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # -> a base and its adapter
    rows: dict[str, Row] = field(default_factory=dict)
    width: int | None = None  # tokens that all bases have in common
    leaving: set[tuple[str, str]] = field(default_factory=set)  # adapters that nobody may ask for any more

    def take(self, line: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Do what a line says; what there is to say at once."""
        for one in line.get("ask", ()):
            try:
                yield from self.ask(one)
            except Exception as why:  # of this request alone: templates and tokenizers raise what they like
                yield {"id": one["id"], **_refusal(why)}
        for name in line.get("drop", ()):
            self.rows.pop(name, None)
        if "open" in line:
            yield {"id": line["id"], "done": self.open(**line["open"])}
        elif "load" in line:
            yield {"id": line["id"], **self.load(**line["load"])}
        elif "unload" in line:
            found = self.names.pop(line["unload"], None)
            if found is not None and found[1] is not None:
                self.leaving.add((found[0], found[1]))
            yield {"id": line["id"], "done": {}}
        elif "state" in line:
            context = min((base.context for base in self.bases.values()), default=0)
            told = {"names": list(self.names), "context": context, "running": len(self.rows)}
            yield {"id": line["id"], "done": told}
        self._forget()

    def open(self, bases: list[dict[str, Any]], dtype: str, threads: int) -> dict[str, Any]:
        """Load the bases; nothing more to say, or why not and what can be done."""
        try:
            import torch  # noqa: PLC0415 their absence is told like any other refusal

            from composer.decoding.vocabulary import shared  # noqa: PLC0415
            from composer.engines.transformers_models import Base  # noqa: PLC0415
            from composer.errors import RequestError  # noqa: PLC0415
        except ImportError as why:
            return {"missing": str(why)}
        torch.set_num_threads(threads)
        try:
            for one in bases:
                self.bases[one["name"]] = Base(
                    one["name"], Path(one["folder"]), dtype=dtype, template=one["template"], context=one["context"]
                )
            if len(self.bases) > 1:
                self.width = shared([(name, base.vocabulary()) for name, base in self.bases.items()])
        except RequestError as why:
            return {"refused": why.what, "remedy": why.remedy}
        except Exception as why:  # of folders that may hold anything
            return {"refused": _words(why), "remedy": None}
        self.names = {name: (name, None) for name in self.bases}
        return {}

    def load(self, name: str, path: str, base: str) -> dict[str, Any]:
        """Attach an adapter; why not, in PEFT's words."""
        adapter = name.replace(".", "_")  # PEFT parts the names of modules at a dot
        try:
            if name in self.names:
                pass
            elif (base, adapter) in self.leaving:  # and was not gone yet: a name stands for one content
                self.leaving.discard((base, adapter))
            else:
                self.bases[base].attach(adapter, Path(path))
        except Exception as why:  # of a file that may hold anything
            return _refusal(why)
        self.names[name] = base, adapter
        return {"done": {}}

    def ask(self, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Begin a request; a score is told at once. Raises for what cannot be served."""
        from composer.engines.transformers_rows import Row, Words  # noqa: PLC0415
        from composer.types import Mix  # noqa: PLC0415

        body = asked["body"]
        mix = Mix(**asked["mix"]) if "mix" in asked else None
        parts = asked.get("streams") or [{**body, "weight": 1.0}]
        options = body.get("chat_template_kwargs") or {}
        sources = []
        for part in parts:
            name, adapter = self.names[part["model"]]
            prompt = self.bases[name].read(part, options)
            if not prompt:
                raise ValueError("the prompt has no tokens")
            sources.append(self.bases[name].stream(adapter, prompt, weak=part.get("routing") == "weak"))
        target = body.get("target")
        short = max(sources, key=lambda source: len(source.prompt) - source.base.context)
        room = short.base.context - len(short.prompt)
        if room < 1:
            counts = {"n_prompt_tokens": len(short.prompt), "n_ctx": short.base.context}
            words = f"the prompt has {len(short.prompt)} tokens"
            yield {"id": asked["id"], "status": 400, "error": {"type": _TOO_LONG, "message": words, **counts}}
            return
        if target is not None:
            yield self._score(asked["id"], sources[0], target, room)
            return
        lead = sources[mix.mask_from if mix else 0].base
        sampling = _sampling(body, chat=asked["chat"])
        several = len({source.base.name for source in sources}) > 1
        self.rows[asked["id"]] = Row(
            asked["id"],
            sources,
            [part["weight"] for part in parts],
            mix,
            sampling,
            Words(lead.decode, sources[0].prompt, sampling.stop),
            lead.spell,
            lead.ends,
            min(room, sampling.max_tokens),
            self.width if several else None,
            piecewise=bool(body.get("stream")),
        )

    def _score(self, name: str, source: Any, target: str, room: int) -> dict[str, Any]:
        """A target with the log-probabilities of its tokens, in the form of a reply."""
        from composer.engines.transformers_rows import step  # noqa: PLC0415

        ids, scores = source.base.after(source.adapter, source.prompt, target)
        if len(ids) > room:
            raise ValueError(f"the target has {len(ids)} tokens, and the context has room for {room}")
        steps = [step(row, token, 0, source.base.spell) for row, token in zip(scores, ids, strict=True)]
        choice = {"index": 0, "text": target, "finish_reason": "stop", "logprobs": {"content": steps}}
        usage = {"prompt_tokens": len(source.prompt), "completion_tokens": len(ids)}
        return {"id": name, "choices": [choice], "usage": usage}

    def step(self) -> Iterator[dict[str, Any]]:
        """A token for everything under way; what has come of it."""
        rows = list(self.rows.values())
        work = [(row, place) for row in rows for place in range(len(row.sources))]
        work.sort(key=lambda pair: pair[0].sources[pair[1]].place)
        scores: dict[tuple[str, int], Any] = {}
        failed: dict[str, Exception] = {}
        for row, place in work:
            try:
                scores[row.name, place] = row.sources[place].next(row.ahead[place])
            except Exception as why:  # memory that is short is this request's failure, and no end of the others
                failed[row.name] = why
        for row in rows:
            try:
                if row.name in failed:
                    raise failed[row.name]
                told = row.take([scores[row.name, place] for place in range(len(row.sources))])
            except Exception as why:
                told = {"id": row.name, "status": 500, "error": {"message": _words(why)}}
            if told is None:
                continue
            if "usage" in told or "error" in told:
                del self.rows[row.name]
            yield told
        self._forget()

    def _forget(self) -> None:
        """Drop adapters that nobody may ask for, once nobody is served by them."""
        if self.leaving:
            used = {source.place for row in self.rows.values() for source in row.sources}
            for base, adapter in self.leaving - used:
                self.bases[base].detach(adapter)
            self.leaving &= used


_TOO_LONG = "exceed_context_size_error"


def _sampling(body: Mapping[str, Any], *, chat: bool) -> Any:
    """What the fields of a request say of how tokens are drawn."""
    from composer.types import Sampling  # noqa: PLC0415

    return Sampling(
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        top_p=body["top_p"],
        top_k=body["top_k"],
        min_p=body["min_p"],
        repetition_penalty=body.get("repetition_penalty", 1.0),
        seed=body["seed"],
        stop=tuple(body.get("stop") or ()),
        logprobs=body.get("top_logprobs" if chat else "logprobs"),
    )


def _refusal(why: Exception) -> dict[str, Any]:
    return {"status": 400, "error": {"message": _words(why)}}


def _words(why: BaseException) -> str:
    return f"{why}"[:1000] or repr(why)


def main() -> None:
    """Answer until the other end is closed."""
    sys.path.pop(0)  # our folder, where a `transformers.py` and an `http.py` lie
    package = types.ModuleType("composer")
    package.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["composer"] = package  # this one, whatever is installed here
    with socket.socket(fileno=int(sys.argv[1])) as wire:
        wire.set_inheritable(False)
        loop, heard, told = Loop(), b"", time.monotonic()
        while True:
            while not loop.rows or select.select([wire], [], [], 0)[0]:
                piece = _heard(wire)
                if not piece:
                    os._exit(0)  # at once: nothing here is worth saving
                *lines, heard = (heard + piece).split(b"\n")
                for line in lines:
                    told = _tell(wire, loop.take(json.loads(line))) or told
            told = _tell(wire, loop.step()) or told
            if time.monotonic() - told > _QUIET:
                told = _tell(wire, [{"id": ""}])


def _heard(wire: socket.socket) -> bytes:
    try:
        return wire.recv(_PIECE)
    except OSError:
        return b""


def _tell(wire: socket.socket, events: Any) -> float:
    """Send what there is in one piece; when, 0 where that is nothing."""
    told = b"".join(json.dumps(event).encode("ascii") + b"\n" for event in events)
    if not told:
        return 0.0
    try:
        wire.sendall(told)
    except OSError:
        os._exit(0)
    return time.monotonic()


if __name__ == "__main__":
    main()
