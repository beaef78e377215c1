"""The pipeline: reads a registry, builds router and pool once, and answers batches."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from composer.answers.equal import check_installed
from composer.budget import Budget
from composer.config import AUTO, find_registry, load_settings
from composer.errors import InputError
from composer.parts import Parts
from composer.registry.sources import Progress
from composer.settings.specs import Settings, StageSpec
from composer.stages.kit import Kit, Stage, at_once
from composer.state import Answer, Query, State, as_queries
from composer.steps import stage_of, stages_of
from composer.trace import Drafted, Event, nothing
from routers.types import Route

if TYPE_CHECKING:
    import asyncio

    from composer.graph import Run, Settle

# What `coe route` never needs (the event loop, the pool, the store, LangGraph) is imported where it is used.

T = TypeVar("T")
PLAN = "plan"
IN_TURN = frozenset({PLAN, "merge", "judge", "discuss", "score", "refine", "search"})
"""Stages that ask when others have answered."""
EXPECTED = 8
"""Adapters of a model that are loaded for them before anybody asks them."""
Plan = list[tuple[str, Stage]]
Hears = Callable[[Event], None]

# Who hears the events of the run under way, where that is not the pipeline's listener: runs may go on side by side.
_HEARS: ContextVar[Hears | None] = ContextVar("hears", default=None)
_BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


class Pipeline(Parts):
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
        super().__init__(settings, store=store, memory=memory, offline=offline, progress=progress, say=say)
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
            self._expect(by)
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
                self._expect(by)
                await self._graph(by).settle(state, settled)

    def _expect(self, by: str) -> None:
        """Tell the pool whose adapters are asked once others have answered, so that no host is opened again for them: those that
        the pipeline names first."""
        steps = self.settings.pipeline if by == AUTO else self.settings.pipelines.get(by, ())
        if not any(step.use in IN_TURN for step in steps):
            return
        named = {option for step in steps for option in step.options.values() if isinstance(option, str)}
        adapters: dict[str, list[str]] = {}
        for expert in sorted(self.settings.experts.values(), key=lambda one: one.name not in named):
            if expert.adapter is not None:
                adapters.setdefault(expert.model, []).append(expert.name)
        self.pool.expect({model: tuple(names[:EXPECTED]) for model, names in adapters.items()})

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
            self._compiled[by] = self._join(self._plan(by))
        return self._compiled[by]

    def _join(self, stages: Plan) -> Run:
        from composer.graph import build  # noqa: PLC0415 half a CPU second

        # a policy asks each arm once at most, and once more says that it is enough
        return build(stages, rounds=len(self.registry.arms()) + 1)

    def check_model(self, by: str) -> None:
        """Raise InputError for a name that no arm and no pipeline has."""
        if by not in self._plans and by not in (arms := self.settings.arms):
            what, remedy = self.settings.unanswering(by, [*self._plans, *arms], "expert and no pipeline")
            raise InputError(what, remedy=remedy)

    def _plan(self, by: str) -> Plan:
        if by in self._plans:
            return self._plans[by]
        self.check_model(by)
        arms = self.settings.arms
        from composer.stages.decide import alone  # noqa: PLC0415

        look = ("retrieve",) if arms[by].evidence is not None else ()
        run = ("execute",) if arms[by].strategy is not None else ()
        rest = [StageSpec(use, {}, 1) for use in (*look, "generate", *run, "verify", "aggregate")]
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

    # What the stages work with

    @property
    def whole(self) -> bool:
        """Whether an answer may depend on the others of its batch."""
        return self._graph(AUTO).whole

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
            contrasts=lambda: self.contrasts,
            mergers=lambda: self.mergers,
            personas=lambda: self.personas,
            intents=lambda: self.intents,
            scorers=lambda: self.scorers,
            plans=self.plans,
            sandbox=self.sandbox,
        )

    def kit_of(self, by: str) -> tuple[Kit, Sequence[StageSpec]]:
        """What the stages of the pipeline `by` work with, and its steps. Raises KeyError for a name that no pipeline has."""
        at, steps = (
            ("pipeline", self.settings.pipeline) if by == AUTO else (f"pipelines.{by}", self.settings.pipelines[by])
        )
        return replace(self.kit, trust=lambda: None, solve=partial(self._solve, at, steps)), steps

    def check_indexes(self, by: str) -> None:
        """Look at the files of what the arms of the pipeline `by` may read: an arm may want it only when others were
        asked and paid for. Raises PassageError, SourceError and ConfigError, as `passages`."""
        if "retrieve" in dict(self._plan(by)):
            arms = [self.settings.arms[by]] if by not in self._plans else self.settings.reading
            self.check_passages([arm.evidence for arm in arms if arm.evidence is not None])

    async def _check_indexes(self, by: str) -> None:
        """The same beside the event loop: a file that nobody has looked at before is read as a whole."""
        if self.settings.reading:
            import asyncio  # noqa: PLC0415

            await asyncio.to_thread(self.check_indexes, by)

    def _stages(self, steps: Sequence[StageSpec], at: str) -> Plan:
        # what was rehearsed is `pipeline:`; of others, and of experts by name, nobody knows how sure they may be
        kit = self.kit if at == "pipeline" else replace(self.kit, trust=lambda: None)
        return stages_of(self.settings, replace(kit, solve=partial(self._solve, at, steps)), steps, at)

    async def _solve(
        self, at: str, steps: Sequence[StageSpec], queries: Sequence[Query], behalf: Mapping[str, str], run: str
    ) -> State:
        """Questions of a plan through the pipeline `at` without its planning. Who hears the run is told what was drafted, on
        whose behalf."""
        name, heard = f"{at} without {PLAN}", self.hearer
        if name not in self._compiled:
            rest = [step for step in steps if step.use != PLAN]
            self._compiled[name] = self._join(self._stages(rest, at))

        def relay(event: Event) -> None:
            if isinstance(event, Drafted):
                heard(replace(event, id=behalf.get(event.id, event.id), role="step"))

        token = _HEARS.set(relay)
        try:
            return await self._compiled[name](State.of(tuple(queries), run))
        finally:
            _HEARS.reset(token)

    # Ending

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
