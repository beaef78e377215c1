"""The pipeline: reads a registry, builds router and pool once, and answers batches."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from composer.config import Settings, find_registry, load_settings
from composer.errors import ConfigError, InputError
from composer.plugins import check_options, load
from composer.registry.experts import Registry
from composer.registry.sources import Progress
from composer.stages.kit import Encoder, Kit, Stage
from composer.state import Answer, Query, State, Update
from composer.trace import Event, nothing
from routers.baselines import Unprofiled
from routers.types import Route, Router

if TYPE_CHECKING:
    import asyncio

    from composer.pool.ledger import Ledger
    from composer.pool.pool import Pool
    from composer.store import DraftStore

# What `coe route` never needs (the event loop, the pool, the store, LangGraph) is imported where it is used.

T = TypeVar("T")
ROUNDS = 1  # the loop's bound; policies that ask again will raise it


class Pipeline:
    """Answers queries with the experts of one registry file.

    Used as a context manager its hosts stay open between runs; otherwise each `run` closes what it opened.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Path | None = None,
        memory: int | None = None,
        offline: bool = False,
        progress: Progress | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`memory` bounds resident models in bytes (None: the registry's, else what is free); `store` is the draft
        store's file; `say` hears what a user should know (a profile that no longer fits, say). Raises ConfigError."""
        self.settings = settings
        self.registry = Registry(settings, offline=offline, progress=progress)
        self._say = say
        self._store_path = store
        self.memory = memory if memory is not None else settings.memory
        self._store: DraftStore | None = None
        self._pool: Pool | None = None
        self._encoder: Encoder | None = None
        self._routers: dict[str, Router] = {}
        self._listener: Callable[[Event], None] = nothing
        self._runner: asyncio.Runner | None = None
        self._stages = [(step.use, self._stage(place)) for place, step in enumerate(settings.pipeline)]

    @classmethod
    def from_file(
        cls,
        path: Path | str | None = None,
        *,
        store: Path | None = None,
        memory: int | None = None,
        offline: bool = False,
        progress: Progress | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """The pipeline of a registry file; without a path, of the one that `coe` would find from here."""
        settings = load_settings(find_registry(Path(path) if path is not None else None))
        return cls(settings, store=store, memory=memory, offline=offline, progress=progress, say=say)

    # Running

    def run(self, queries: Sequence[str | Query]) -> list[Answer]:
        """`arun` for callers without an event loop."""
        if self._runner is not None:
            return self._runner.run(self.arun(queries))
        with self:
            return self.run(queries)

    async def arun(self, queries: Sequence[str | Query]) -> list[Answer]:
        """One answer per query, in their order. Raises ComposerError if nothing could be asked at all."""
        return list((await self.astate(queries)).answers)

    async def astate(self, queries: Sequence[str | Query], *, run: str = "") -> State:
        """The whole final state: routes, drafts, answers. `run` names the run in trace ids."""
        from composer.graph import build  # noqa: PLC0415 half a CPU second

        state = State.of(as_queries(queries), run or secrets.token_hex(8))
        if not state.queries:
            return state
        return await build(self._stages, rounds=ROUNDS)(state)

    async def stream(self, queries: Sequence[str | Query]) -> AsyncIterator[Event]:
        """The events of a run as they happen: routed, (written,) drafted, answered."""
        import asyncio  # noqa: PLC0415

        events: asyncio.Queue[Event | None] = asyncio.Queue()
        before, self._listener = self._listener, events.put_nowait
        work = asyncio.create_task(self.arun(queries))
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await work
        finally:
            self._listener = before
            work.cancel()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Tell `listener` everything that happens from now on."""
        self._listener = listener

    def emit(self, event: Event) -> None:
        """Tell the listener."""
        self._listener(event)

    def route(self, queries: Sequence[str | Query]) -> list[Route]:
        """Who would be asked, and why; nothing is generated and no model is loaded but the encoder."""
        state = State.of(as_queries(queries))
        decide = dict(self._stages)["decide"]
        state = state.apply(_at_once(decide(state)))
        return [state.route(row) for row in range(len(state.queries))]

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of ours to its end on the loop of the open context (`with pipeline:`)."""
        assert self._runner is not None, "only inside `with pipeline:`"
        return self._runner.run(work)

    # Parts, each made on first use

    @property
    def ledger(self) -> Ledger:
        """What was called and what it cost so far."""
        return self.pool.ledger

    @property
    def store(self) -> DraftStore:
        """The draft store."""
        if self._store is None:
            from composer.store import DraftStore  # noqa: PLC0415

            self._store = DraftStore.open(self._store_path)
        return self._store

    @property
    def pool(self) -> Pool:
        """The pool that every draft comes through."""
        if self._pool is None:
            from composer.pool.pool import Pool  # noqa: PLC0415

            self._pool = Pool(self.registry, self.store, memory=self.memory)
        return self._pool

    def encoder(self) -> Encoder:
        """The sentence encoder, fetched if need be."""
        if self._encoder is None:
            from routers.embed import OnnxEncoder  # noqa: PLC0415 onnxruntime: only where something is embedded

            self._encoder = OnnxEncoder(*self.registry.encoder_files())
        return self._encoder

    def router(self, name: str) -> Router:
        """The router `name`, fitted on the profile that goes with this registry."""
        if name not in self._routers:
            from composer.profile import find_profile  # noqa: PLC0415

            profile, notes = find_profile(self.registry)
            for note in notes:
                self._say(note)
            known = profile.known
            if not known:
                self._routers[name] = Unprofiled(self.registry.arms(), self.registry.generalist)
                return self._routers[name]
            arms = [arm for arm in self.registry.arms() if arm.name in known]
            router: Router = load("routers", name)(generalist=self.registry.generalist)
            questions, _ = profile.columns()
            self._routers[name] = router.fit(questions, profile.outcomes(questions, arms))
        return self._routers[name]

    def _stage(self, place: int) -> Stage:
        """The stage at `place` of the pipeline, its options checked; every error names the line."""
        step = self.settings.pipeline[place]
        where = f"pipeline[{place}]"
        kit = Kit(
            registry=self.registry,
            encoder=self.encoder,
            router=self.router,
            pool=lambda: self.pool,
            emit=self.emit,
        )
        factory = load("stages", step.use, self.settings.where(f"{where}.use"))
        options = check_options(factory, step.options, lambda name: self.settings.where(f"{where}.options.{name}"))
        try:
            stage: Stage = factory(kit, **options)
        except ConfigError as why:
            raise ConfigError(why.what, where=self.settings.where(f"{where}.options"), remedy=why.remedy) from why
        return stage

    # Ending

    async def aclose(self) -> None:
        """End every host and the store."""
        if self._pool is not None:
            await self._pool.close()
        if self._store is not None:
            self._store.close()
            self._store = None
        self._pool = None

    def __enter__(self) -> Self:
        import asyncio  # noqa: PLC0415

        self._runner = asyncio.Runner()
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        assert self._runner is not None
        try:
            self._runner.run(self.aclose())
        finally:
            self._runner.close()
            self._runner = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()


def as_queries(queries: Sequence[str | Query]) -> tuple[Query, ...]:
    """Plain texts get their place as id. Raises InputError for an empty question or an id that comes twice."""
    rows = tuple(Query(str(i), query) if isinstance(query, str) else query for i, query in enumerate(queries))
    seen: set[str] = set()
    for row in rows:
        if not row.text.strip():
            raise InputError("the question is empty", where=f"query {row.id!r}", remedy="give it a text")
        if row.id in seen:
            raise InputError("this id comes twice", where=f"query {row.id!r}", remedy="give every query its own id")
        seen.add(row.id)
    return rows


def _at_once(update: Awaitable[Update]) -> Update:
    """The update of a stage that waits for nothing outside this thread, without an event loop if there is none."""
    steps = update.__await__()
    try:
        next(steps)
    except StopIteration as done:
        return cast("Update", done.value)
    raise RuntimeError("this stage waits for something: await it in an event loop")
