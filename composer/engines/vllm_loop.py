"""vLLM's engine without a server: requests come over a socket, every step is taken here, and what is new goes back.

Run as a script by the interpreter that has vLLM, and it imports nothing of `composer`. What a request means is read by
vLLM's own classes for its server, so both forms say the same. One JSON object a line, `vllm_pipe.py` at the other end:

    in   {"ask": [{"id": …, "chat": …, "body": …}, …]}    all of them are in the engine before its next step; one of
             several streams also has "streams": [{"model": …, "weight": …, "prompt" or "messages": …}, …], "mix": {…}
         {"drop": [id, …]}; {"id": …, "load": {"name": …, "path": …}}; {"id": …, "unload": name}; {"id": …, "state": true}
    out  per id chunks in OpenAI's form, the last with `usage`; or {"status": …, "error": …}; or {"done": …}
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PIECE = 1 << 20
_LEAST = -9999.0  # what the server writes for a log-probability of minus infinity, which JSON has no word for


@dataclass
class Asked:
    """A request under way: what its answer has to show."""

    request: Any
    logprobs: int | None
    parser: Any = None  # parts thoughts from the answer
    written: int = 0


@dataclass
class Loop:
    """The engine, the adapters it may be asked for by name, and what is under way."""

    engine: Any
    template: str | None
    thoughts: type[Any] | None
    names: dict[str, Any]
    asked: dict[str, Asked] = field(default_factory=dict)
    adapters: int = 0
    looked_up: int = 0
    found: int = 0

    def take(self, line: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Do what a line says; what there is to say at once."""
        for one in line.get("ask", ()):
            try:
                self.ask(one["id"], one["chat"], one["body"])
            except Exception as why:  # vLLM has many kinds of refusals, and it is that of one request
                yield {"id": one["id"], "status": 400, "error": {"message": _first_lines(why)}}
        if gone := [name for name in line.get("drop", ()) if self.asked.pop(name, None) is not None]:
            self.engine.abort_request(gone)
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

    def ask(self, name: str, chat: bool, body: dict[str, Any]) -> None:
        """Hand a request to the engine, as the server would. Raises for what cannot be served."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # noqa: PLC0415
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest  # noqa: PLC0415
        from vllm.entrypoints.serve.utils.api_utils import get_max_tokens  # noqa: PLC0415
        from vllm.renderers.inputs.preprocess import parse_model_prompt  # noqa: PLC0415
        from vllm.utils.mistral import is_mistral_tokenizer  # noqa: PLC0415

        engine = self.engine
        model = engine.model_config
        request: Any = (ChatCompletionRequest if chat else CompletionRequest).model_validate(body)
        adapter = self.names[request.model]
        parser = None
        if chat:
            tokens = is_mistral_tokenizer(engine.get_tokenizer()) or model.enable_prompt_embeds
            params = request.build_chat_params(self.template, "auto").with_defaults({"tools": None, "tokenize": tokens})
            if self.thoughts is not None:
                kwargs = params.chat_template_kwargs
                parser = self.thoughts(engine.get_tokenizer(), None, chat_template_kwargs=kwargs, model_config=model)
                request = parser.adjust_request(request)
            words = request.build_tok_params(model)
            _, (prompt,) = engine.renderer.render_chat([request.messages], params, words)
        else:
            words = request.build_tok_params(model)
            (prompt,) = engine.renderer.render_cmpl([parse_model_prompt(model, request.prompt)], words)
        defaults = model.get_diff_sampling_param()
        room = get_max_tokens(model.max_model_len, body.get("max_tokens"), len(prompt["prompt_token_ids"]), defaults)
        sampling = request.to_sampling_params(room, defaults)
        if parser is not None:
            sampling.output_kind = type(sampling.output_kind).FINAL_ONLY  # what is thought shows at the end
        engine.add_request(name, prompt, sampling, lora_request=adapter)
        self.asked[name] = Asked(request, sampling.logprobs, parser)

    def load(self, name: str, path: str) -> dict[str, Any]:
        """Have the engine read an adapter; why not, in its words."""
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        number = self.adapters + 1
        adapter = LoRARequest(name, number, path)
        try:
            self.engine.add_lora(adapter)
        except Exception as why:  # of a file that may hold anything
            return {"status": 400, "error": {"message": _first_lines(why)}}
        self.names[name], self.adapters = adapter, number
        return {"done": {}}

    def step(self) -> Iterator[dict[str, Any]]:
        """One step of everything under way; what has come of it."""
        for told in self.engine.step():
            asked = self.asked.get(told.request_id)
            if asked is None:
                continue
            if not asked.written and self.engine.vllm_config.cache_config.enable_prefix_caching:
                self.looked_up += len(told.prompt_token_ids)
                self.found += told.num_cached_tokens or 0
            yield self.chunk(told, asked)
            if told.finished:
                del self.asked[told.request_id]

    def chunk(self, told: Any, asked: Asked) -> dict[str, Any]:
        """What is new of a request, in the form of OpenAI's streams."""
        output = told.outputs[0]
        text = output.text
        if asked.parser is not None:
            asked.parser.set_prompt_token_ids(told.prompt_token_ids)
            _, text, _ = asked.parser.parse(
                text, asked.request, enable_auto_tools=False, model_output_token_ids=output.token_ids
            )
        choice: dict[str, Any] = {"index": 0, "text": text or "", "finish_reason": output.finish_reason}
        if output.stop_reason is not None:
            choice["stop_reason"] = output.stop_reason
        if asked.logprobs is not None and output.logprobs is not None:
            pairs = zip(output.token_ids, output.logprobs, strict=True)
            choice["logprobs"] = {"content": [_step(token, tops, asked.logprobs) for token, tops in pairs]}
        asked.written += len(output.token_ids)
        chunk: dict[str, Any] = {"id": told.request_id, "choices": [choice]}
        if told.finished:
            details = {"cached_tokens": told.num_cached_tokens or 0}
            counts = {"prompt_tokens": len(told.prompt_token_ids), "completion_tokens": asked.written}
            chunk["usage"] = counts | {"prompt_tokens_details": details}
        return chunk


def _step(token: int, tops: dict[int, Any], most: int) -> dict[str, Any]:
    """A token, its log-probability, and the `most` likeliest in its place."""
    best = [(number, one) for number, one in tops.items() if one.rank is None or one.rank <= most][:most]
    return {
        "token": tops[token].decoded_token or "",
        "logprob": max(tops[token].logprob, _LEAST),
        "id": token,
        "top_logprobs": [
            {"token": one.decoded_token or "", "logprob": max(one.logprob, _LEAST), "id": number}
            for number, one in best
        ],
    }


def _first_lines(why: BaseException) -> str:
    return f"{why}"[:1000] or repr(why)


def _start(words: list[str]) -> Loop:
    """The engine that these arguments ask for."""
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415 seconds to import, and told in the log if it fails
    from vllm.parser import ParserManager  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415
    from vllm.v1.engine.llm_engine import LLMEngine  # noqa: PLC0415

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="vllm"))
    parser.add_argument("--chat-template", type=Path)
    told = parser.parse_args(words)
    arguments = EngineArgs.from_cli_args(told)
    arguments.disable_log_stats = True  # we count ourselves what is asked of us
    engine = LLMEngine.from_engine_args(arguments)
    template = told.chat_template.read_text(encoding="utf-8") if told.chat_template else None
    thoughts = None
    if arguments.reasoning_parser:
        thoughts = ParserManager.get_parser(
            reasoning_parser_name=arguments.reasoning_parser,
            model_name=engine.model_config.model,
            tokenizer=engine.get_tokenizer(),
        )
    return Loop(engine, template, thoughts, dict.fromkeys(_served(arguments)))


def _served(arguments: Any) -> list[str]:
    names = arguments.served_model_name
    return names if isinstance(names, list) else [names]


def main() -> None:
    """Answer until the other end is closed."""
    sys.path.pop(0)  # our folder, where an `http.py` lies
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--socket", type=int, required=True)
    ours, words = parser.parse_known_args()
    with socket.socket(fileno=ours.socket) as wire:
        wire.set_inheritable(False)
        loop = _start(words)
        heard = b""
        while True:
            while not loop.asked or select.select([wire], [], [], 0)[0]:
                piece = _heard(wire)
                if not piece:
                    os._exit(0)  # at once: nothing here is worth saving
                *lines, heard = (heard + piece).split(b"\n")
                for line in lines:
                    _tell(wire, loop.take(json.loads(line)))
            _tell(wire, loop.step())


def _heard(wire: socket.socket) -> bytes:
    try:
        return wire.recv(_PIECE)
    except OSError:
        return b""


def _tell(wire: socket.socket, events: Any) -> None:
    """Send what there is in one piece."""
    told = b"".join(json.dumps(event).encode("ascii") + b"\n" for event in events)
    if told:
        wire.sendall(told)


if __name__ == "__main__":
    main()
