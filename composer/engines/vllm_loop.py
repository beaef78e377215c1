"""vLLM's engine without a server: requests come over a socket, every step is taken here, and what is new goes back.

Run as a script by the interpreter that has vLLM, and of `composer` it has only the folder (`_lend`). What a request means is
read by vLLM's own classes for its server, so both forms say the same. One JSON object a line, `vllm_pipe.py` at the other end:

    in   {"ask": [{"id": …, "chat": …, "body": …}, …]}    all of them are in the engine before its next step; one of
             several streams also has "streams": [{"model": …, "weight": …, "prompt" or "messages": …}, …], "mix": {…}
         {"drop": [id, …]}; {"id": …, "load": {"name": …, "path": …}}; {"id": …, "unload": name}; {"id": …, "state": true}
    out  per id chunks in OpenAI's form, the last with `usage`; or {"status": …, "error": …}; or {"done": …}; of several
         streams {"again": why} where all that was said of it is void, and with `usage` how often that was ("restarts"),
         and the forward passes of all ("passes")

A request of several streams is one of vLLM's per stream, combined in the batch by `vllm_contrast.py`. They enter together
when all of them can read their prompts in the next step; who is asked later waits behind. At every step all or none of
them have to come to a token, the same one. Where that fails (prompts that take several steps, one put out of a full
cache) nothing of it counts: all are taken out, and begun again.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.engines.vllm_groups import Room
    from composer.engines.vllm_steps import Loop

_PIECE = 1 << 20


def _start(words: list[str]) -> Loop:
    """The engine that these arguments ask for."""
    _lend()
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415 seconds to import, and told in the log if it fails
    from vllm.parser import ParserManager  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415
    from vllm.v1.engine.llm_engine import LLMEngine  # noqa: PLC0415

    from composer.engines.vllm_contrast import Watched  # noqa: PLC0415 lent, and it needs vLLM
    from composer.engines.vllm_lora import install as by_adapter  # noqa: PLC0415
    from composer.engines.vllm_steps import Loop  # noqa: PLC0415

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(prog="vllm"))
    parser.add_argument("--chat-template", type=Path)
    told = parser.parse_args(words)
    arguments = EngineArgs.from_cli_args(told)
    arguments.disable_log_stats = True  # we count ourselves what is asked of us
    watched = Watched if arguments.speculative_config is None else None  # vLLM takes one or the other
    if watched is not None:
        arguments.logits_processors = [*(arguments.logits_processors or ()), watched]
    if os.environ.get("COE_VLLM_ADAPTERS") != "vllm":  # who wants vLLM's own way, such as a bench
        by_adapter()
    engine = LLMEngine.from_engine_args(arguments)
    template = told.chat_template.read_text(encoding="utf-8") if told.chat_template else None
    thoughts = None
    if arguments.reasoning_parser:
        thoughts = ParserManager.get_parser(
            reasoning_parser_name=arguments.reasoning_parser,
            model_name=engine.model_config.model,
            tokenizer=engine.get_tokenizer(),
        )
    return Loop(engine, template, thoughts, dict.fromkeys(_served(arguments)), _room(engine), watched)


def _lend() -> None:
    """Let `composer.x` be imported where `composer` is not installed: its folder as a bare package."""
    package = types.ModuleType("composer")
    package.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["composer"] = package


def _room(engine: Any) -> Room:
    """What it was opened with."""
    from composer.engines.vllm_groups import Room  # noqa: PLC0415 lent when we start

    config = engine.vllm_config
    cache, steps, loras = config.cache_config, config.scheduler_config, config.lora_config
    return Room(
        rows=steps.max_num_seqs,
        step=steps.max_num_batched_tokens,
        cache=(cache.num_gpu_blocks - 1) * cache.block_size,  # one block is vLLM's own
        block=cache.block_size,
        adapters=loras.max_loras if loras else None,
        keeps=cache.enable_prefix_caching,
    )


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
