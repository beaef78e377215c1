"""The pipeline: reads a registry, builds router and pool once, and answers batches."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from composer.answers.equal import check_installed
from composer.budget import Budget
from composer.config import AUTO, Settings, StageSpec, find_registry, load_settings
from composer.errors import InputError, suggest
from composer.registry.experts import Registry
from composer.registry.sources import Progress
from composer.stages.kit import Kit, Stage, at_once
from composer.state import Answer, Query, State, as_queries
from composer.steps import stage_of, stages_of
from composer.trace import Event, nothing
from routers.types import Route, Router

if TYPE_CHECKING:
    import asyncio

    from composer.answers.ballots import Aggregator
    from composer.answers.trust import Trust
    from composer.graph import Run, Settle
    from composer.pool.ledger import Ledger
    from composer.pool.pool import Pool
    from composer.pool.resolver import Drafts
    from composer.retrieval.index import PassageIndex
    from composer.retrieval.records import GateRecord
    from composer.retrieval.rerank import Reranker
    from composer.store import DraftStore
    from routers.embed import Encoder

# What `coe route` never needs (the event loop, the pool, the store, LangGraph) is imported where it is used.

T = TypeVar("T")
Plan = list[tuple[str, Stage]]
Hears = Callable[[Event], None]

# Who hears the events of the run under way, where that is not the pipeline's listener: runs may go on side by side.
_HEARS: ContextVar[Hears | None] = ContextVar("hears", default=None)
_BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


class Pipeline:
    """Answers queries with the experts of one registry file.

    Used as a context manager (`with`, or `async with` for `arun` and `stream`) its hosts stay open between runs;
    otherwise the last run under way closes what was opened.
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
        for expert in settings.experts.values():
            if expert.answers == "math":
                check_installed(settings.where(f"experts.{expert.name}.answers"))
        self.settings = settings
        self.registry = Registry(settings, offline=offline, progress=progress)
        self._say = say
        self._store_path = store
        self.memory = memory if memory is not None else settings.memory
        self.drafts: Drafts | None = None  # where drafts are kept, where that is not the store
        self._store: DraftStore | None = None
        self._pool: Pool | None = None
        self._encoder: Encoder | None = None
        self._routers: dict[str, Router] = {}
        self._aggregators: dict[str, Aggregator] = {}
        self._indexes: dict[Path, PassageIndex] = {}
        self._checked: set[Path] = set()  # indexes
        self._reranker: Reranker | None = None
        self._opening = threading.Lock()
        self._listener: Hears = nothing
        self._runner: asyncio.Runner | None = None
        self._uses = 0  # open contexts and runs under way
        self._plans = {AUTO: self._stages(settings.pipeline, "pipeline")}
        self._plans |= {name: self._stages(steps, f"pipelines.{name}") for name, steps in settings.pipelines.items()}
        self._compiled: dict[str, Run] = {}

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

    async def astate(
        self,
        queries: Sequence[str | Query],
        *,
        run: str = "",
        by: str = AUTO,
        budget: Budget | None = None,
        hear: Hears | None = None,
    ) -> State:
        """The whole final state: routes, drafts, answers. `run` names the run in trace ids; `by` is who answers: `auto`,
        a pipeline of the registry by name, or an expert, which alone is asked then; `budget` is asked before every request
        (rows it does not allow are `withheld`); `hear` is told the events of this run instead of the listener. Raises
        InputError for a name that nobody has."""
        state = State.of(as_queries(queries), run or secrets.token_hex(8))
        if not state.queries:
            return state
        async with self._heard(budget, hear):
            await self._check_indexes(by)
            return await self._graph(by)(state)

    async def settle(
        self,
        queries: Sequence[Query],
        settled: Settle,
        *,
        run: str,
        by: str = AUTO,
        budget: Budget | None = None,
        hear: Hears | None = None,
    ) -> None:
        """As `astate`, for many queries: nothing is kept, and `settled` is told of each row once, when it is answered (or
        withheld), in states that hold some of the rows."""
        state = State.of(as_queries(queries), run)
        if state.queries:
            async with self._heard(budget, hear):
                await self._check_indexes(by)
                await self._graph(by).settle(state, settled)

    @asynccontextmanager
    async def _heard(self, budget: Budget | None, hear: Hears | None) -> AsyncIterator[None]:
        """A run with its budget and its hearer; what it opens is open as long."""
        heard, bounded = _HEARS.set(hear or _HEARS.get()), _BUDGET.set(budget or _BUDGET.get())
        try:
            async with self._in_use():
                yield
        finally:
            _HEARS.reset(heard)
            _BUDGET.reset(bounded)

    def _graph(self, by: str) -> Run:
        """The stages of `by`, joined once: joining takes nearly as long as going through them."""
        if by not in self._compiled:
            from composer.graph import build  # noqa: PLC0415 half a CPU second

            # a policy asks each arm once at most, and once more says that it is enough
            self._compiled[by] = build(self._plan(by), rounds=len(self.registry.arms()) + 1)
        return self._compiled[by]

    def _plan(self, by: str) -> Plan:
        if by in self._plans:
            return self._plans[by]
        if by not in (arms := self.settings.arms):
            remedy = suggest(by, [*self._plans, *arms])
            raise InputError(f"no expert and no pipeline is called {by!r}", remedy=remedy)
        from composer.stages.decide import alone  # noqa: PLC0415

        look = ("retrieve",) if arms[by].evidence is not None else ()
        rest = [StageSpec(use, {}, 1) for use in (*look, "generate", "verify", "aggregate")]
        kit = replace(self.kit, trust=lambda: None)
        return [
            ("decide", alone(by)),
            *((step.use, stage_of(self.settings, kit, step, f"experts.{by}")) for step in rest),
        ]

    async def stream(self, queries: Sequence[str | Query]) -> AsyncIterator[Event]:
        """The events of this run as they happen: routed, (written,) drafted, answered. `listen` hears none of them.

        Closing the iterator early cancels what is under way, and returns when it has ended.
        """
        import asyncio  # noqa: PLC0415

        events: asyncio.Queue[Event | None] = asyncio.Queue()
        asked = [replace(query, wishes=replace(query.wishes, deltas=True)) for query in as_queries(queries)]
        work = asyncio.create_task(self.astate(asked, hear=events.put_nowait))
        work.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)  # what it opened is closed by then

    def listen(self, listener: Hears) -> None:
        """Tell `listener` everything that happens from now on, but for what is streamed."""
        self._listener = listener

    @property
    def hearer(self) -> Callable[[Event], None]:
        """Who is told what happens: whoever hears this run, else the listener."""
        return _HEARS.get() or self._listener

    def route(self, queries: Sequence[str | Query], by: str = AUTO) -> list[Route]:
        """Whom the pipeline `by` would ask, and why; nothing is generated and no model is loaded but the encoder."""
        state = self.decided(as_queries(queries), by)
        return [state.route(row) for row in range(len(state.queries))]

    def decided(self, queries: tuple[Query, ...], by: str = AUTO) -> State:
        """The state after the first decision of the pipeline `by`: whom it asks first, and nothing asked yet."""
        state = State.of(queries)
        decide = dict(self._plan(by))["decide"]
        return state.apply(at_once(decide(state)))

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of ours to its end on the loop of the open context."""
        assert self._runner is not None, "only inside `with pipeline:`"
        return self._runner.run(work)

    # Parts, each made on first use

    @property
    def ledger(self) -> Ledger:
        """What was called and what it cost so far."""
        return self.pool.ledger

    @property
    def at_once(self) -> int:
        """How many models may compute at a time: as often as the threads of the greediest one fit into the processor."""
        greediest = max(model.threads for model in self.settings.models.values())
        return max(1, len(os.sched_getaffinity(0)) // greediest) if hasattr(os, "sched_getaffinity") else 1

    @property
    def whole(self) -> bool:
        """Whether an answer may depend on the others of its batch."""
        return self._graph(AUTO).whole

    @property
    def opened_pool(self) -> Pool | None:
        """The pool, if anything was asked yet: looking makes none."""
        return self._pool

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
            from composer.pool.calibrate import load_speeds  # noqa: PLC0415
            from composer.pool.pool import Pool  # noqa: PLC0415

            speeds = load_speeds({name: self.registry.weights(name) for name in self.settings.models})
            store = self.drafts or self.store
            self._pool = Pool(self.registry, store, memory=self.memory, speeds=speeds, at_once=self.at_once)
        return self._pool

    @property
    def kit(self) -> Kit:
        """What the stages work with."""
        return Kit(
            registry=self.registry,
            encoder=self.encoder,
            router=self.router,
            pool=lambda: self.pool,
            emit=lambda event: self.hearer(event),
            aggregator=self.aggregator,
            trust=lambda: self.trust,
            budget=lambda: _BUDGET.get() or Budget(),
            typical=lambda: self.typical,
            passages=self.passages,
            gates=lambda: self.gates,
        )

    def passages(self, folder: Path) -> PassageIndex:
        """The index in this folder, opened once and as long as the pipeline is. Raises PassageError, and SourceError or
        ConfigError where the cross-encoder that evidence asks for is not to be had."""
        with self._opening:  # stages look up in threads
            if folder not in self._indexes:
                from composer.retrieval.index import PassageIndex  # noqa: PLC0415

                self._indexes[folder] = PassageIndex.open(folder, self.encoder(), self.reranker())
            return self._indexes[folder]

    def check_indexes(self, by: str) -> None:
        """Look at the files of what the arms of the pipeline `by` may read: an arm may want it only when others were
        asked and paid for. Raises PassageError, SourceError and ConfigError, as `passages`."""
        if "retrieve" not in dict(self._plan(by)):
            return
        self.registry.prints()
        arms = [self.settings.arms[by]] if by not in self._plans else self.settings.reading
        for spec in [arm.evidence for arm in arms if arm.evidence and arm.evidence.index not in self._checked]:
            from composer.retrieval.index import checked  # noqa: PLC0415

            checked(spec.index, self.encoder())
            if spec.rerank:
                self.registry.reranker_files()
            self._checked.add(spec.index)

    async def _check_indexes(self, by: str) -> None:
        """The same beside the event loop: a file that nobody has looked at before is read as a whole."""
        if self.settings.reading:
            import asyncio  # noqa: PLC0415

            await asyncio.to_thread(self.check_indexes, by)

    def reranker(self) -> Reranker | None:
        """The cross-encoder, where any evidence asks for it, fetched if need be."""
        if self._reranker is None and any(arm.evidence and arm.evidence.rerank for arm in self.settings.reading):
            from composer.retrieval.rerank import CrossEncoder  # noqa: PLC0415

            self._reranker = CrossEncoder.open(*self.registry.reranker_files())
        return self._reranker

    def encoder(self) -> Encoder:
        """The sentence encoder, fetched if need be. Where experts read, a question is scored and looked up with the same
        vector."""
        if self._encoder is None:
            from routers.embed import OnnxEncoder, Remembering  # noqa: PLC0415 onnxruntime: only where something is embedded

            own = OnnxEncoder(*self.registry.encoder_files())
            self._encoder = Remembering(own) if self.settings.reading else own
        return self._encoder

    def router(self, name: str) -> Router:
        """The router `name`, fitted on the profile that goes with this registry; where there is nothing to choose, or
        nothing to choose by, one that leaves everything to the generalist."""
        if name not in self._routers:
            from composer.fitted import decider  # noqa: PLC0415 only where somebody is to be chosen

            self._routers[name] = decider(self.registry, name, self._say)
        return self._routers[name]

    def aggregator(self, name: str) -> Aggregator:
        """The aggregator `name`: as `coe fit answers` installed it, else as it is before it has learnt anything; read
        once. Raises InputError for `learnt` where none is installed, or one that cannot be read."""
        if name not in self._aggregators:
            from composer.fitted import combiner  # noqa: PLC0415 pyarrow: only where there is something to combine

            self._aggregators[name] = combiner(self.registry, name)
        return self._aggregators[name]

    @cached_property
    def typical(self) -> Mapping[str, float]:
        """The tokens of an answer per arm, where they were measured."""
        from composer.fitted import typical_tokens  # noqa: PLC0415 only where somebody foretells

        return typical_tokens(self.registry)

    @cached_property
    def gates(self) -> Mapping[str, GateRecord]:
        """The gates that `coe fit gate` installed, by the arm that reads. Raises InputError where they cannot be read."""
        from composer.fitted import gates_of  # noqa: PLC0415 pyarrow: only where there is something to weigh

        return gates_of(self.registry, self._say)

    @cached_property
    def trust(self) -> Trust | None:
        """How far answers of this registry are to be believed; None where nobody has measured it as it stands."""
        from composer.fit_trust import installed_trust  # noqa: PLC0415 pyarrow: only where there are answers

        return installed_trust(self.registry)

    def _stages(self, steps: Sequence[StageSpec], at: str) -> Plan:
        # what was rehearsed is `pipeline:`; of others, and of experts by name, nobody knows how sure they may be
        kit = self.kit if at == "pipeline" else replace(self.kit, trust=lambda: None)
        return stages_of(self.settings, kit, steps, at)

    # Ending

    async def aclose(self) -> None:
        """End every host and the store."""
        pool, self._pool = self._pool, None  # a run that begins meanwhile opens its own
        store, self._store = self._store, None
        try:
            if pool is not None:
                await pool.close()
        finally:
            if store is not None:
                store.close()
            with self._opening:
                indexes, self._indexes = self._indexes, {}
                self._checked = set()
            for index in indexes.values():
                index.close()

    @asynccontextmanager
    async def _in_use(self) -> AsyncIterator[None]:
        """Keep open what is opened meanwhile; whoever is the last to leave closes it."""
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            if not self._uses:
                await self.aclose()

    def __enter__(self) -> Self:
        import asyncio  # noqa: PLC0415

        self._runner = asyncio.Runner()
        self.registry.stopped = False
        self._uses += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        assert self._runner is not None
        self._uses -= 1
        stopped = kind is not None and not issubclass(kind, Exception)
        self.registry.stopped = stopped  # else a download would have to end before we can
        try:
            if stopped:
                self._runner.run(_abandon())
            self._runner.run(self.aclose())
        finally:
            self._runner.close()
            self._runner = None

    async def __aenter__(self) -> Self:
        self._uses += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._uses -= 1
        if not self._uses:
            await self.aclose()


async def _abandon() -> None:
    """End what is under way: a signal may have left the loop without a word to its tasks, and they hold the pool."""
    import asyncio  # noqa: PLC0415

    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
