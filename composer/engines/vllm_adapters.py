"""The adapters of one vLLM: loaded, proved, called by names that tell their numbers apart, and taken off again."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Protocol

from composer.engines.vllm_null import NULL, write_null
from composer.engines.vllm_proof import Answers, prove, same
from composer.errors import ConfigError, EngineError
from composer.types import AdapterFile, Reuse


class Admin(Answers, Protocol):
    """What is asked of a vLLM beside drafts, over HTTP (`vllm_admin.py`) or a pipe (`vllm_pipe.py`). All of it raises
    EngineError but `reuse` and `close`."""

    async def models(self) -> dict[str, int]:
        """The names it answers to, and the tokens a request may hold (0: not told)."""
        ...

    async def load(self, adapter: AdapterFile, alias: str) -> None:
        """Read the adapter's folder, to be asked for as `alias`."""
        ...

    async def unload(self, alias: str) -> None:
        """Forget an adapter; one that it does not know is forgotten."""
        ...

    async def reuse(self) -> Reuse:
        """The counts of its prefix cache since it started; zeros where it does not tell."""
        ...

    async def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        ...


class Adapters:
    """At most `most` at a time, on the model in the folder `folder` (None: it is not here) that the server calls `base`.
    `ours` says that nobody else puts adapters on it, `with_null` that the base needs one among them (`vllm_null.py`)."""

    def __init__(
        self, admin: Admin, where: str, base: str, *, folder: Path | None, most: int, ours: bool, with_null: bool
    ) -> None:
        self.names: dict[str, str] = {}  # of those attached -> what the server calls them
        self.refused: dict[str, str] = {}  # those that could not be attached, and why
        self.base = self._bare = base  # what the server is asked for where no adapter is wanted; and without the zeros
        self._admin, self._where, self._folder, self._most = admin, where, folder, most
        self._ours, self._with_null = ours, with_null
        self._loaded: set[str] = set()  # what we have loaded
        self._scratch: tempfile.TemporaryDirectory[str] | None = None  # a server may read what is there again

    async def attach(self, adapter: AdapterFile) -> None:
        """Load the adapter, and prove that it changes what comes next. Raises EngineError, and remembers why."""
        if adapter.name in self.names:
            return
        self.refused.pop(adapter.name, None)
        try:
            await self._attach(adapter)
        except EngineError as why:
            self.refused[adapter.name] = str(why)
            raise

    async def detach(self, name: str) -> None:
        """Take it off. Raises EngineError where it is not attached."""
        if self.refused.pop(name, None) is not None:
            return
        alias = self.names.pop(name, None)
        if alias is None:
            raise EngineError(f"adapter {name!r} is not attached", where=self._where)
        if alias in self._loaded:
            self._loaded.discard(alias)
            await self._admin.unload(alias)

    async def leave(self, *, alive: bool) -> None:
        """Take all that we have loaded off a server that goes on without us."""
        try:
            if alive and not self._ours:
                for alias in sorted(self._loaded):
                    with contextlib.suppress(EngineError):
                        await self._admin.unload(alias)
        finally:
            if self._scratch is not None:
                self._scratch.cleanup()

    async def _attach(self, adapter: AdapterFile) -> None:
        if len(self.names) >= self._most:
            raise EngineError(
                f"adapter {adapter.name!r}: {len(self.names)} are attached, and no more fit",
                where=self._where,
                remedy="raise option `max_cpu_loras`",
            )
        served = not self._ours and adapter.name in await self._admin.models()
        # With its digest in its name an adapter never meets what the prefix cache keeps of other numbers.
        alias = adapter.name if served else f"{adapter.name}@{adapter.sha256[:12]}"
        if not served:
            await self._admin.load(adapter, alias)
        try:
            await prove(self._admin, adapter, alias, self._bare, self._where, self._folder)
            if self._with_null and self._scratch is None:
                await self._attach_null(adapter)
        except BaseException:
            if not served:
                with contextlib.suppress(EngineError):
                    await self._admin.unload(alias)
            raise
        self.names[adapter.name] = alias
        if not served:
            self._loaded.add(alias)

    async def _attach_null(self, like: AdapterFile) -> None:
        """Load the base as an adapter of zeros, and call it by that name from now on."""
        alias = f"{NULL}@{self.base}"
        scratch = tempfile.TemporaryDirectory(prefix="coe-vllm-", ignore_cleanup_errors=True)
        try:
            try:
                path = await asyncio.to_thread(write_null, like.path, Path(scratch.name) / "null")
            except (ConfigError, OSError, LookupError) as why:
                raise EngineError(
                    f"no adapter of zeros could be made like {like.name!r}: {why}", where=self._where
                ) from why
            await self._admin.load(AdapterFile(NULL, path, ""), alias)
            await same(self._admin, alias, self._bare, self._where)
        except BaseException:
            scratch.cleanup()
            raise
        self._scratch = scratch
        self._loaded.add(alias)
        self.base = alias
