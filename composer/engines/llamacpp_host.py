"""A llama.cpp server as a process of its own: the engine starts it, tells it on stdin what to load, and ends it.

Run as a script, and it imports nothing of `composer`: whatever is installed or lies in the working folder, parent and
child are of one version. One JSON line comes in (`llamacpp.py` writes it), one goes out: `{"address": …,
"context": …}` or `{"error": …}`; the native library's own words go to stderr.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import sys
import threading
from typing import Any

_PR_SET_PDEATHSIG = 1
_ERRORS_ONLY = 1  # llama.cpp's verbosity; at 3 it writes ten lines per request
# A prompt is evaluated at most this many tokens at once. With llama.cpp's 512 a long prompt gets other last bits than
# the same prompt with its prefix cached, and greedy answers change (measured: 16 of 24). With 32 they are equal to the
# last bit for the bare base, and prompt evaluation costs the same.
_TOKENS_AT_ONCE = 32


def main() -> None:
    """Serve until the parent closes our stdin, or dies."""
    config = json.loads(sys.stdin.buffer.readline())
    _die_with(config["parent"])
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever native code prints cannot be taken for our reply
    threading.Thread(target=_wait_for_parent, daemon=True).start()
    try:
        server = _serve(config)
        told = {"address": server.listening_address, "context": _context(server, config["key"])}
    except Exception as why:
        server, told = None, {"error": f"{type(why).__name__}: {why}"}
    print(json.dumps(told), file=reply, flush=True)
    reply.close()
    if server is None:
        os._exit(1)  # not sys.exit: it would wait for native threads
    threading.Event().wait()


def _serve(config: dict[str, Any]) -> Any:
    """The running server; returns when the model is loaded."""
    import xllamacpp  # noqa: PLC0415 its absence is told like every other error

    return xllamacpp.Server(parameters(config))


def parameters(config: dict[str, Any]) -> Any:
    """xllamacpp's parameters for what we are told."""
    import xllamacpp  # noqa: PLC0415

    params = xllamacpp.CommonParams()
    params.verbosity = _ERRORS_ONLY
    params.model.path = config["path"]
    params.hostnames = ["127.0.0.1"]
    params.api_keys = [config["key"]]
    params.ui = False
    params.n_parallel = config["slots"]
    params.n_ctx = config["context"] * config["slots"]
    params.n_ubatch = _TOKENS_AT_ONCE
    params.cpuparams.n_threads = config["threads"]
    params.cpuparams_batch.n_threads = config["threads"]
    params.fit_params = False  # it would shrink the context without a word where memory is short
    params.ctx_shift = False  # nor is the beginning of a prompt dropped to go on writing
    # Prompts kept in RAM are found by their tokens alone, whichever adapter they were evaluated with (llama.cpp issue
    # 26207), and take up to 8 GiB. What a slot still holds is safe: the server drops it when the adapter changes.
    params.cache_ram_mib = 0
    params.enable_chat_template = config["chat"]
    params.use_jinja = True
    if config["template"] is not None:
        params.chat_template = config["template"]
    # All that the model wrote is its text; by default what lies between <think> tags would be taken out.
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    adapters = []
    for path in config["adapters"]:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 0.0
        adapters.append(adapter)
    params.lora_adapters = adapters
    params.lora_init_without_apply = True
    if config["flash_attention"] is not None:  # else llama.cpp decides
        kinds = xllamacpp.llama_flash_attn_type
        wanted = config["flash_attention"]
        params.flash_attn_type = kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if wanted else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params


def _context(server: Any, key: str) -> int:
    """Tokens that one request may hold, as the server says: it rounds up, and down to what the weights were made for."""
    where = server.listening_address.removeprefix("http://")
    connection = http.client.HTTPConnection(where, timeout=60)
    connection.request("GET", "/slots", headers={"Authorization": f"Bearer {key}"})
    slots = json.loads(connection.getresponse().read())
    connection.close()
    return min(int(slot["n_ctx"]) for slot in slots)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when its parent dies, however; where it cannot, stdin's end has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform != "win32" and os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _wait_for_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)  # at once: nothing here is worth saving


if __name__ == "__main__":
    main()
