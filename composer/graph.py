"""Joins the stages into one bounded loop. The only module that knows LangGraph."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, TypedDict, cast

from langgraph.graph import END, START, StateGraph

from composer.errors import plain_errors
from composer.stages.kit import Landing, Stage, Together, Whole
from composer.state import Part, State

Settle = Callable[[State], Awaitable[None]]
"""Told of rows that are answered."""

# In a context, since LangGraph's nodes are tasks of their own and the graph is compiled once for all runs.
_SETTLE: ContextVar[Settle | None] = ContextVar("settle", default=None)


class _Box(TypedDict):
    """LangGraph merges dicts and drops keys it does not know: the state stays ours. `done`: its rows have ended."""

    state: State
    done: bool


class Run:
    """`stages` (name, stage), in order, as a function from State to State.

    All but the last form the loop, which goes round while rows are open, at most `rounds` times; the last one
    (`aggregate`) ends the run. Rows that a stage gives on before it has done with the others (`Landing`) go through what
    comes after it at once, as a run of their own, unless a stage needs all of them (`Whole`, `Together`). A stage's exceptions
    pass through unchanged.
    """

    def __init__(self, stages: Sequence[tuple[str, Stage]], *, rounds: int) -> None:
        self._stages = dict(stages)
        self._rounds = rounds
        self._names = [name for name, _ in stages]
        self._limit = {"recursion_limit": rounds * (len(stages) - 1) + 2}
        # what comes after a stage, and all of it: joined once, since joining takes nearly as long as going through
        self._after = {name: self._compiled(name) for name, stage in stages if isinstance(stage, Landing)}
        self._all = self._compiled(None)

    async def __call__(self, state: State) -> State:
        """The state when every row is answered. Whoever settles the rows of a run around this one hears none of these: a step of a
        plan is no question of the file."""
        token = _SETTLE.set(None)
        try:
            return await self._run(self._all, state)
        finally:
            _SETTLE.reset(token)

    async def settle(self, state: State, settle: Settle) -> None:
        """The same, but nothing is kept: `settle` is told of each row once, as soon as it is answered."""
        token = _SETTLE.set(settle)
        try:
            await self._run(self._all, state)
        finally:
            _SETTLE.reset(token)

    def _compiled(self, after: str | None) -> Any:
        """The graph of what comes after a stage; None: of everything."""
        graph: StateGraph[Any, Any, Any, Any] = StateGraph(_Box)
        for name in self._names:
            graph.add_node(name, cast("Any", self._node(name)))
        first = self._names[0]
        if after is None:
            graph.add_edge(START, first)
        else:
            graph.add_conditional_edges(START, self._next(after), self._names)
        for name, following in pairwise(self._names):
            targets = [following, END] if following != self._names[-1] else [first, following, END]
            graph.add_conditional_edges(name, self._next(name), targets)
        graph.add_edge(self._names[-1], END)
        return graph.compile()

    def _next(self, name: str) -> Callable[[_Box], str]:
        place = self._names.index(name)
        following, last = self._names[place + 1], self._names[-1]

        def choose(box: _Box) -> str:
            state = box["state"]
            if box["done"]:
                return END
            again = following == last and any(state.open) and state.round < self._rounds
            return self._names[0] if again else following

        return choose

    async def _run(self, graph: Any, state: State) -> State:
        box = await graph.ainvoke({"state": state, "done": False}, self._limit)
        result: State = box["state"]
        return result

    def _node(self, name: str) -> Callable[[_Box], Awaitable[_Box]]:
        stage = self._stages[name]

        async def node(box: _Box) -> _Box:
            state = box["state"]
            if isinstance(stage, Landing) and len(state.queries) > 1 and not (self.whole or self._gathers):
                return {"state": await self._apart(name, stage, state), "done": True}
            state, settle = state.apply(await stage(state)), _SETTLE.get()
            if name == self._names[-1] and settle is not None:
                await settle(state)
            return {"state": state, "done": name == self._names[-1]}

        return node

    @property
    def whole(self) -> bool:
        """Whether a row's answer may depend on the others of its batch."""
        return any(isinstance(stage, Whole) and stage.whole for stage in self._stages.values())

    @property
    def _gathers(self) -> bool:
        """Whether a stage takes all rows of a batch at once."""
        return any(isinstance(stage, Together) for stage in self._stages.values())

    async def _apart(self, name: str, stage: Landing, state: State) -> State:
        """Every part that `stage` gives on goes through what comes after it, beside the others."""
        found: list[Part] = []

        async def go_on(rows: tuple[int, ...], part: State) -> None:
            ended = await self._run(self._after[name], part)
            if _SETTLE.get() is None:
                found.append((rows, ended))

        with plain_errors():
            async with asyncio.TaskGroup() as group, aclosing(stage.landing(state)) as parts:
                async for rows, part in parts:
                    group.create_task(go_on(rows, part))
        return state.joined(found) if found else state


def build(stages: Sequence[tuple[str, Stage]], *, rounds: int) -> Run:
    """Compile `stages` into one run; see `Run`."""
    return Run(stages, rounds=rounds)
