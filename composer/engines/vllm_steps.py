"""The steps of a vLLM without a server: what is asked waits here for its turn, enters the engine, and is followed at every step.

Loaded by `vllm_loop.py` in the interpreter that has vLLM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from composer.engines.vllm_groups import RESTARTS, Room, Row, Together, apart
from composer.engines.vllm_read import lora, most_tokens, placed, render, step_of, weighed
from composer.engines.vllm_rows import extra_of
from composer.types import Mix


@dataclass
class Asked:
    """A request under way: what its answer has to show, and its requests to vLLM."""

    request: Any
    logprobs: int | None
    rows: list[Row]
    group: Together | None = None  # where several streams are decoded together
    parser: Any = None  # parts thoughts from the answer
    written: int = 0


@dataclass
class Loop:
    """The engine, the adapters it may be asked for by name, and what is under way."""

    engine: Any
    template: str | None
    thoughts: type[Any] | None
    names: dict[str, Any]
    room: Room
    watched: Any = None  # who combines streams; None where vLLM lets nobody
    asked: dict[str, Asked] = field(default_factory=dict)
    waiting: deque[str] = field(default_factory=deque)  # what is asked and not yet in the engine
    here: dict[str, tuple[str, Row]] = field(default_factory=dict)  # what is in the engine: of which request, its row
    adapters: int = 0
    looked_up: int = 0
    found: int = 0

    def take(self, line: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Do what a line says; what there is to say at once."""
        for one in line.get("ask", ()):
            try:
                self.ask(one["id"], one["chat"], one["body"], one.get("streams", ()), one.get("mix"))
            except Exception as why:  # vLLM has many kinds of refusals, and it is that of one request
                yield _refused(one["id"], why)
        for name in line.get("drop", ()):
            self.drop(name)
        if "load" in line:
            yield {"id": line["id"], **self.load(**line["load"])}
        elif "unload" in line:
            self.names.pop(line["unload"], None)  # requests under way keep theirs; vLLM drops what is used least
            yield {"id": line["id"], "done": {}}
        elif "state" in line:
            told = {
                "looked_up": self.looked_up,
                "found": self.found,
                "running": self.engine.get_num_unfinished_requests(),
            }
            more = {"names": list(self.names), "context": self.engine.model_config.max_model_len}
            yield {"id": line["id"], "done": told | more}

    def ask(self, name: str, chat: bool, body: dict[str, Any], streams: Any = (), mix: Any = None) -> None:
        """Have a request wait for its turn, read as the server would. Raises for what cannot be served."""
        request, parser, prompt = render(self.engine, self.template, self.thoughts, chat, body)
        said = [(request, prompt)]
        for stream in streams[1:]:
            rest = {name: value for name, value in stream.items() if name != "weight"}
            other, _, own = render(self.engine, self.template, None, chat, {**body, **rest})
            said.append((other, own))
        lengths = [len(prompt["prompt_token_ids"]) for _, prompt in said]
        defaults = self.engine.model_config.get_diff_sampling_param()
        sampling = request.to_sampling_params(most_tokens(self.engine, body, max(lengths)), defaults)
        if parser is not None:
            sampling.output_kind = type(sampling.output_kind).FINAL_ONLY  # what is thought shows at the end
        if not streams:
            row = Row(name, prompt, sampling, self.names[request.model], lengths[0])
            self.asked[name] = Asked(request, sampling.logprobs, [row], parser=parser)
            self.waiting.append(name)
            return
        rows = [
            Row(f"{name}/{place}", prompt, placed(sampling, place), self.names[other.model], lengths[place])
            for place, (other, prompt) in enumerate(said)
        ]
        if self.watched is None:
            raise ValueError("vLLM combines no streams while it speculates: remove the draft model from `arguments`")
        if (problem := self.room.never(rows)) is not None:
            raise ValueError(problem)
        group = Together([stream["weight"] for stream in streams], Mix(**mix))
        self.asked[name] = Asked(request, sampling.logprobs, rows, group, parser)
        self.waiting.append(name)

    def admit(self) -> Iterator[dict[str, Any]]:
        """Hand over to the engine what can begin, in order; what it refuses."""
        while self.waiting:
            name = self.waiting[0]
            asked = self.asked[name]
            if asked.group is not None:
                here = [row for _, row in self.here.values()]
                if not self.room.begins(asked.rows, here, self.reading(), asked.group):
                    return
            self.waiting.popleft()
            try:
                self.enter(name, asked)
            except Exception as why:  # as of `ask`
                self.drop(name)
                yield _refused(name, why)

    def reading(self) -> int:
        """Tokens of prompts that are in the engine and not all read."""
        states = self.engine.output_processor.request_states.values()
        return sum(state.prompt_len for state in states if state.is_prefilling)

    def enter(self, name: str, asked: Asked) -> None:
        """Hand all rows of a request to the engine. Raises for what it refuses."""
        group, compiling = asked.group, self.at_once() if asked.group is not None else nullcontext()
        with compiling:
            for place, row in enumerate(asked.rows):
                if group is not None:
                    row.sampling.extra_args = extra_of(f"{name}#{group.restarts}", place, group.weights, group.mix)
                self.here[row.name] = name, row
                self.engine.add_request(row.name, row.prompt, row.sampling, lora_request=row.adapter)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Have grammars made when a request enters, not beside the steps: a stream would go ahead of one whose grammar takes
        a moment longer. Where vLLM has no such switch that is noticed as any other loss of step."""
        grammars = self.engine.engine_core.engine_core.structured_output_manager
        before = getattr(grammars, "_use_async_grammar_compilation", None)
        if before is not None:
            grammars._use_async_grammar_compilation = False
        try:
            yield
        finally:
            if before is not None:
                grammars._use_async_grammar_compilation = before

    def drop(self, name: str) -> None:
        """Forget a request, wherever it is."""
        asked = self.asked.pop(name, None)
        if asked is None:
            return
        if name in self.waiting:
            self.waiting.remove(name)
        self.leave(asked.rows)

    def leave(self, rows: list[Row]) -> None:
        """Take rows out of the engine."""
        if gone := [row.name for row in rows if self.here.pop(row.name, None) is not None]:
            self.engine.abort_request(gone)

    def load(self, name: str, path: str) -> dict[str, Any]:
        """Have the engine read an adapter; why not, in its words."""
        number = self.adapters + 1
        adapter = lora(name, number, path)
        try:
            self.engine.add_lora(adapter)
        except Exception as why:  # of a file that may hold anything
            told = _refused(name, why)
            return {"status": told["status"], "error": told["error"]}
        self.names[name], self.adapters = adapter, number
        return {"done": {}}

    def step(self) -> Iterator[dict[str, Any]]:
        """One step of everything under way; what has come of it."""
        yield from self.admit()
        together: dict[str, dict[str, Any]] = {}
        for told in self.engine.step():
            if told.request_id not in self.here:
                continue
            name, row = self.here[told.request_id]
            asked = self.asked[name]
            if not row.begun and self.engine.vllm_config.cache_config.enable_prefix_caching:
                self.looked_up += row.tokens
                self.found += told.num_cached_tokens or 0
            row.begun = True
            if told.finished:
                del self.here[told.request_id]
            if asked.group is not None:
                together.setdefault(name, {})[row.name] = told
                continue
            asked.written += len(told.outputs[0].token_ids)
            yield self.chunk(name, asked, told)
            if told.finished:
                del self.asked[name]
        for name, rows in together.items():
            asked = self.asked[name]
            assert asked.group is not None
            yield from self.follow(name, asked, asked.group, rows)

    def follow(self, name: str, asked: Asked, group: Together, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What has come of a request of several streams, where all of them have come to the same token; else it begins anew."""
        mixed = self.watched.combined.get(f"{name}#{group.restarts}")
        group.passes += len(told)
        if group.left:
            group.left -= told.keys()
            self.leave([row for row in asked.rows if row.name in told])
        elif problem := apart(asked.rows, told, mixed is not None):
            yield from self.again(name, asked, group, told, problem)
        else:
            first = told[asked.rows[0].name]
            asked.written += len(first.outputs[0].token_ids)
            group.cached += sum(one.num_cached_tokens or 0 for one in told.values()) if not group.ids else 0
            group.ids += first.outputs[0].token_ids
            if asked.logprobs is not None:
                group.logprobs += [
                    weighed(self.engine, token, mixed, asked.logprobs) for token in first.outputs[0].token_ids
                ]
            group.text.append(first.outputs[0].text)
            if first.finished:
                self.leave(asked.rows)  # a text that stops is looked for in the first stream alone
                del self.asked[name]
            if first.finished or (asked.request.stream and asked.parser is None):
                yield self.chunk(name, asked, first)
                group.text, group.logprobs = [], []
            return
        if not group.left and name in self.asked:
            for row in asked.rows:
                row.begun = False
            self.waiting.appendleft(name)

    def again(
        self, name: str, asked: Asked, group: Together, told: dict[str, Any], why: str
    ) -> Iterator[dict[str, Any]]:
        """Have a request begin anew whose streams have lost step; or fail, where that was tried often enough."""
        seen = self.watched.apart.get(f"{name}#{group.restarts}")
        why = f"{why} ({seen})" if seen else why
        if group.restarts == RESTARTS:
            self.drop(name)
            told_why = f"its {len(asked.rows)} streams lost step after {len(group.ids)} tokens: {why}"
            remedy = "raise option `cache` or --max-num-batched-tokens, or lower `slots`"
            yield _refused(name, f"{told_why}; it was begun again {RESTARTS} times: {remedy}", 500)
            return
        if not group.ids and self.room.keeps:  # what is being read will be cached then
            group.left = {row.name for row in asked.rows if row.name not in told and row.name in self.here}
        group.anew(why)
        asked.written = 0
        self.leave([row for row in asked.rows if row.name not in group.left])
        yield {"id": name, "again": why}

    def chunk(self, name: str, asked: Asked, told: Any) -> dict[str, Any]:
        """What is new of a request, in the form of OpenAI's streams; `told` is what its first row has come to."""
        output, group = told.outputs[0], asked.group
        text, ids = (output.text, output.token_ids) if group is None else ("".join(group.text), group.ids)
        if asked.parser is not None:
            asked.parser.set_prompt_token_ids(told.prompt_token_ids)
            _, text, _ = asked.parser.parse(text, asked.request, enable_auto_tools=False, model_output_token_ids=ids)
        choice: dict[str, Any] = {"index": 0, "text": text or "", "finish_reason": output.finish_reason}
        if output.stop_reason is not None:
            choice["stop_reason"] = output.stop_reason
        if group is not None and asked.logprobs is not None:
            choice["logprobs"] = {"content": group.logprobs}
        elif asked.logprobs is not None and output.logprobs is not None:
            pairs = zip(output.token_ids, output.logprobs, strict=True)
            choice["logprobs"] = {"content": [step_of(token, tops, asked.logprobs) for token, tops in pairs]}
        chunk: dict[str, Any] = {"id": name, "choices": [choice]}
        if told.finished:
            cached = (told.num_cached_tokens or 0) if group is None else group.cached
            counts = {"prompt_tokens": sum(row.tokens for row in asked.rows), "completion_tokens": asked.written}
            chunk["usage"] = counts | {"prompt_tokens_details": {"cached_tokens": cached}}
            if group is not None:
                chunk |= {"restarts": group.restarts, "why": group.why, "passes": group.passes}
        return chunk


def _refused(name: str, why: object, status: int = 400) -> dict[str, Any]:
    return {"id": name, "status": status, "error": {"message": f"{why}"[:1000] or repr(why)}}
