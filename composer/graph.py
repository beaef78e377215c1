"""Joins the stages into one bounded loop. The only module that knows LangGraph."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, TypedDict, cast

from langgraph.graph import END, START, StateGraph

from composer.state import State, Update

Stage = Callable[[State], Awaitable[Update]]
Run = Callable[[State], Awaitable[State]]


class _Box(TypedDict):
    """LangGraph merges dicts and drops keys it does not know: it is handed one key, and the state stays ours."""

    state: State


def build(stages: Sequence[tuple[str, Stage]], *, rounds: int) -> Run:
    """Compile `stages` (name, stage), in order, into a function from State to State.

    All but the last form the loop, which goes round while rows are open, at most `rounds` times; the last one
    (`aggregate`) ends the run. A stage's exceptions pass through unchanged.
    """
    *loop, (last, finish) = stages
    graph: StateGraph[Any, Any, Any, Any] = StateGraph(_Box)
    for name, stage in [*loop, (last, finish)]:
        graph.add_node(name, cast("Any", _node(stage)))
    names = [name for name, _ in loop]
    graph.add_edge(START, names[0])
    for before, after in pairwise(names):
        graph.add_edge(before, after)

    def on(box: _Box) -> str:
        state = box["state"]
        return names[0] if any(state.open) and state.round < rounds else last

    graph.add_conditional_edges(names[-1], on, [names[0], last])
    graph.add_edge(last, END)
    compiled = graph.compile()
    limit = rounds * len(loop) + 2

    async def run(state: State) -> State:
        box = await compiled.ainvoke({"state": state}, {"recursion_limit": limit})
        result: State = box["state"]
        return result

    return run


def _node(stage: Stage) -> Callable[[_Box], Awaitable[_Box]]:
    async def node(box: _Box) -> _Box:
        return {"state": box["state"].apply(await stage(box["state"]))}

    return node
