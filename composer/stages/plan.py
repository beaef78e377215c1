"""plan: have a planner split questions into steps, and each step answered by whoever is good at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from composer.errors import ConfigError
from composer.planning.planner import Progress, plan_request
from composer.stages.kit import Kit, Stage
from composer.state import Beside, Query, Reply, State, Update


def plan(kit: Kit, *, planner: str) -> Stage:
    """Ask the expert `planner`, which `writes: plans`, how to split each question. A plan that holds together (at most six
    typed steps) is followed: its steps go through the rest of the pipeline as questions of their own, those of all rows
    together, step by step, so that a step costs one pass over the hosts however many rows take it. The last one's answer is
    the row's, and nobody else is asked. A question whose plan has no steps, does not hold together or breaks off is asked as it
    stands; the trace says why. One with options, tests or turns before it is not split. (OpenAGI, Ge et al. 2023; METHODS I.8.)"""
    if planner not in kit.registry.planners():
        raise ConfigError(
            f"{planner!r} is no expert that writes plans",
            where="planner",
            remedy="write `writes: plans` at an expert, and name it",
        )

    async def stage(state: State) -> Update:
        rows = [
            row
            for row, (query, arms) in enumerate(zip(state.queries, state.wanted, strict=True))
            if arms and state.planned[row] is None and not state.replies[row] and _splits(query)
        ]
        return await _planned(kit, planner, state, rows) if rows else {}

    return stage


async def _planned(kit: Kit, planner: str, state: State, rows: Sequence[int]) -> Update:
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    cut: set[str] = set()
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    requests = {
        row: plan_request(kit.registry, planner, state.queries[row].prompt, state.queries[row].asker) for row in rows
    }
    drafts = await ask(list(requests.values()))
    under = {row: Progress.of(planner, drafts[request.id]) for row, request in requests.items()}
    last: dict[int, tuple[tuple[str, ...], Reply]] = {}
    beside = list(state.beside)
    for row, request in requests.items():
        beside[row] += (Beside(planner, "plan", drafts[request.id]),)
    while asked := {
        row: text for row, one in under.items() if state.queries[row].id not in cut and (text := one.next())
    }:
        queries = {row: _query(state.queries[row], under[row], text) for row, text in asked.items()}
        behalf = {query.id: state.queries[row].id for row, query in queries.items()}
        found = await kit.solve(list(queries.values()), behalf, state.run)
        for place, (row, text) in enumerate(asked.items()):
            beside[row] += _drawn(found, place)
            if found.withheld[place]:
                cut.add(state.queries[row].id)
                continue
            reply = _taken(found, place)
            under[row].heard(text, reply)
            if reply is not None:
                last[row] = found.asked[place], reply
    return _update(state, under, last, cut, beside)


def _drawn(found: State, place: int) -> tuple[Beside, ...]:
    """All drafts of a step."""
    own = tuple(Beside(reply.arm, "step", reply.draft) for reply in found.replies[place])
    return found.beside[place] + own


def _update(
    state: State,
    under: Mapping[int, Progress],
    last: Mapping[int, tuple[tuple[str, ...], Reply]],
    cut: set[str],
    beside: list[tuple[Beside, ...]],
) -> Update:
    columns = {
        name: list(getattr(state, name))
        for name in ("queries", "asked", "wanted", "replies", "planned", "open", "withheld")
    }
    for row, one in under.items():
        if state.queries[row].id in cut:  # what is asked at the next start is what an uninterrupted run would ask
            columns["withheld"][row], columns["wanted"][row], columns["open"][row] = True, (), False
        elif one.done:
            asked, reply = last[row]
            columns["asked"][row], columns["replies"][row] = asked, (reply,)
            beside[row] = tuple(own for own in beside[row] if own.draft is not reply.draft)  # it stands itself
            columns["wanted"][row], columns["open"][row] = (), False
            columns["planned"][row] = one.told
            query = state.queries[row]
            if query.kind is None:  # read as the plan says, not as whoever answered writes
                columns["queries"][row] = replace(query, kind=one.plan.steps[-1].gives)
        elif one.why:
            columns["planned"][row] = one.told
    return {name: tuple(column) for name, column in {**columns, "beside": beside}.items()}


def _splits(query: Query) -> bool:
    """Whether its text is all there is to it: options, tests and what was said before belong to the whole, and no step."""
    return not (query.choices or query.tests or query.turns)


def _query(query: Query, one: Progress, text: str) -> Query:
    """The next step as a question. Only the last one is answered as the caller wants his question answered."""
    number = len(one.taken) + 1
    last = number == len(one.plan.steps)
    kind = (query.kind if last else None) or one.plan.steps[number - 1].gives
    return Query(f"{query.id}/{number}", text, kind=kind, wishes=replace(query.wishes, deltas=False))


def _taken(state: State, row: int) -> Reply | None:
    """The draft whose answer was taken, if it has one."""
    chosen = state.answers[row].chosen
    return next((one for one in state.replies[row] if one.arm == chosen and one.answer is not None), None)
