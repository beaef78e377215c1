"""What is asked of a vLLM server beside drafts: its models, its adapters, its counts."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import httpx

from composer.engines.vllm_proof import PROBE, TOP, refused
from composer.errors import EngineError
from composer.types import AdapterFile, Reuse

# The first adapter of a server is compiled for, on a busy machine for half a minute; later ones take 0.1 s.
_LONGEST = 300.0  # seconds
_COUNT = re.compile(r"^vllm:prefix_cache_(hits|queries)_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class HttpAdmin:
    """Asks one server; `where` is what errors call it. Belongs to the event loop it is first used in."""

    def __init__(self, url: str, key: str, where: str) -> None:
        self._where = where
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=_LONGEST,
            verify=url.startswith("https:"),
            trust_env=False,
            follow_redirects=False,
        )

    async def models(self) -> dict[str, int]:
        """The names it answers to, and the tokens a request may hold (0: not told). Raises EngineError."""
        try:
            rows = (await self._json("GET", "/v1/models")).get("data") or []
        except httpx.HTTPError as why:
            raise EngineError(f"vLLM does not answer: {why!r}", where=self._where) from why
        return {str(row.get("id")): int(row.get("max_model_len") or 0) for row in rows if isinstance(row, dict)}

    async def load(self, adapter: AdapterFile, alias: str) -> None:
        """Have the server load the adapter's folder. Raises EngineError."""
        reply = await self._post("/v1/load_lora_adapter", {"lora_name": alias, "lora_path": str(adapter.path)})
        if reply.status_code == 200:
            return
        told, remedy = _message(reply), None
        if reply.status_code == 404 and "Not Found" in told:
            remedy = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
        raise refused(adapter, told, self._where, remedy=remedy)

    async def unload(self, alias: str) -> None:
        """Have the server forget an adapter; one that it does not know is forgotten. Raises EngineError."""
        reply = await self._post("/v1/unload_lora_adapter", {"lora_name": alias})
        if reply.status_code not in (200, 404):
            raise EngineError(f"vLLM does not drop {alias!r}: {_message(reply)}", where=self._where)

    async def reuse(self) -> Reuse:
        """The counts of its prefix cache since it started; zeros where it does not tell."""
        try:
            text = (await self._http.get("/metrics", timeout=2.0)).text
        except httpx.HTTPError:
            return Reuse()
        sums = {"hits": 0.0, "queries": 0.0}
        for kind, value in _COUNT.findall(text):
            sums[kind] += float(value)
        return Reuse(int(sums["queries"]), int(sums["hits"]))

    async def alternatives(self, model: str) -> dict[str, float]:
        """The likeliest first tokens after the probe, with their log-probabilities. Raises EngineError."""
        body = {"model": model, "prompt": PROBE, "max_tokens": 1, "temperature": 0, "logprobs": TOP}
        reply = await self._post("/v1/completions", body)
        if reply.status_code != 200:
            raise EngineError(f"vLLM does not answer as {model!r}: {_message(reply)}", where=self._where)
        try:
            top = reply.json()["choices"][0]["logprobs"]["top_logprobs"][0]
            return {str(token): float(value) for token, value in top.items() if math.isfinite(value)}
        except (ValueError, LookupError, TypeError, AttributeError):
            return {}

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            return await self._http.post(path, json=body)
        except httpx.HTTPError as why:
            raise EngineError(f"vLLM does not answer {path}: {why!r}", where=self._where) from why

    async def _json(self, method: str, path: str) -> dict[str, Any]:
        reply = await self._http.request(method, path, timeout=10.0)
        try:
            found = reply.json()
        except ValueError:
            found = None
        if reply.status_code != 200 or not isinstance(found, dict):
            remedy = "name the variable that holds its key: option `key`" if reply.status_code == 401 else None
            raise EngineError(f"{path} says: {_message(reply)}", where=self._where, remedy=remedy)
        return found


def _message(reply: httpx.Response) -> str:
    """What the server says went wrong, cut to a length that people read."""
    try:
        told = json.loads(reply.text)
        text = str(told["error"]["message"] if "error" in told else told.get("detail", told))
    except (ValueError, LookupError, TypeError, AttributeError):
        text = reply.text
    return f"HTTP {reply.status_code}: {text[:400]}"
