"""plan: have a planner split questions into steps, and each step answered by whoever is good at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Le

from composer.errors import ConfigError
from composer.planning.examples import MOST, Example
from composer.planning.memory import Known, Memory
from composer.planning.planner import Progress, plan_request
from composer.stages.kit import Kit, Stage
from composer.state import Beside, Planned, Query, Reply, State, Update

_STEP = "\0"
"""Between a question's id and the number of its step: no id of a question holds it, so no step is taken for one."""


def plan(kit: Kit, *, planner: str, examples: Annotated[int, Ge(0), Le(MOST)] = MOST) -> Stage:
    """Ask the expert `planner`, which `writes: plans`, how to split each question. A plan that holds together (at most six
    typed steps) is followed: its steps go through the rest of the pipeline as questions of their own, those of all rows
    together, step by step, so that a step costs one pass over the hosts however many rows take it. The last one's answer is
    the row's, and nobody else is asked. A question whose plan has no steps, does not hold together or breaks off is asked as it
    stands; the trace says why. One with options, tests or turns before it is not split. Where plans were learnt (`coe fit answers
    --plans`), it is shown at most so many `examples` of those that were right. (OpenAGI, Ge et al. 2023; METHODS I.8.)"""
    check_planner(kit, planner)

    async def stage(state: State) -> Update:
        rows = [
            row
            for row, (query, arms) in enumerate(zip(state.queries, state.wanted, strict=True))
            if arms and state.planned[row] is None and not state.replies[row] and splits(query)
        ]
        if not rows:
            return {}
        known = kit.plans(planner) if examples else Known(Memory())
        like = await _remembered(kit, known.memory, [state.queries[row].text for row in rows], examples)
        return _noted(await planned(kit, planner, state, dict(zip(rows, like, strict=True))), rows, known.why)

    return stage


def check_planner(kit: Kit, planner: str) -> None:
    """Raise ConfigError for a name that no expert which writes plans has."""
    if planner not in kit.registry.planners():
        raise ConfigError(
            f"{planner!r} is no expert that writes plans",
            where="planner",
            remedy="write `writes: plans` at an expert, and name it",
        )


async def planned(
    kit: Kit,
    planner: str,
    state: State,
    rows: Mapping[int, Sequence[Example]],
    *,
    sample: int = 0,
    temperature: float | None = None,
) -> Update:
    """These rows planned, each with its examples, and their plans followed; `sample` and `temperature` as in `plan_request`."""
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    cut: set[str] = set()
    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    requests = {
        row: plan_request(
            kit.registry,
            planner,
            (query := state.queries[row]).prompt,
            query.asker,
            examples=examples,
            sample=sample,
            temperature=temperature,
        )
        for row, examples in rows.items()
    }
    drafts = await ask(list(requests.values()))
    under = {row: Progress.of(planner, drafts[request.id], rows[row]) for row, request in requests.items()}
    beside = list(state.beside)
    for row, request in requests.items():
        beside[row] += (Beside(planner, "plan", drafts[request.id]),)
    return await _followed(kit, state, under, cut, beside)


async def _followed(
    kit: Kit, state: State, under: Mapping[int, Progress], cut: set[str], beside: list[tuple[Beside, ...]]
) -> Update:
    last: dict[int, tuple[tuple[str, ...], Reply]] = {}
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


def _noted(update: Update, rows: Sequence[int], why: str) -> Update:
    """With what the traces of these rows say of the examples that were not shown."""
    told: list[Planned | None] = list(update["planned"])
    for row in rows if why else ():
        if (one := told[row]) is not None:
            told[row] = replace(one, note=why)
    return {**update, "planned": tuple(told)}


async def _remembered(kit: Kit, memory: Memory, texts: Sequence[str], most: int) -> Sequence[tuple[Example, ...]]:
    """The examples of each question."""
    if not len(memory):
        return [()] * len(texts)
    import asyncio  # noqa: PLC0415 as above

    return memory.examples(await asyncio.to_thread(kit.encoder().encode, texts), most)


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
        name: list(getattr(state, name)) for name in ("asked", "wanted", "replies", "planned", "open", "withheld")
    }
    for row, one in under.items():
        if state.queries[row].id in cut:  # what is asked at the next start is what an uninterrupted run would ask
            columns["withheld"][row], columns["wanted"][row], columns["open"][row] = True, (), False
        elif one.done:
            asked, reply = last[row]
            columns["asked"][row], columns["replies"][row] = asked, (reply,)
            beside[row] = tuple(own for own in beside[row] if own.draft is not reply.draft)  # it stands itself
            columns["wanted"][row], columns["open"][row] = (), False
            # Read as the plan says, not as whoever answered writes; the question stays the one that was asked.
            columns["planned"][row] = replace(one.told, gives=one.plan.steps[-1].gives)
        elif one.why:
            columns["planned"][row] = one.told
    return {name: tuple(column) for name, column in {**columns, "beside": beside}.items()}


def splits(query: Query) -> bool:
    """Whether its text is all there is to it: options, tests and what was said before belong to the whole, and no step."""
    return not (query.choices or query.tests or query.turns)


def _query(query: Query, one: Progress, text: str) -> Query:
    """The next step as a question. Only the last one is answered as the caller wants his question answered."""
    number = len(one.taken) + 1
    last = number == len(one.plan.steps)
    kind = (query.kind if last else None) or one.plan.steps[number - 1].gives
    return Query(f"{query.id}{_STEP}{number}", text, kind=kind, wishes=replace(query.wishes, deltas=False))


def _taken(state: State, row: int) -> Reply | None:
    """The draft whose answer was taken, if it has one: what settled the step, else of the chosen arm's drafts the one that says
    what was answered."""
    answer, merged = state.answers[row], state.merged[row]
    if (
        answer.chosen is not None
        and merged is not None
        and merged.reply is not None
        and merged.reply.answer is not None
    ):
        return merged.reply
    own = [one for one in state.replies[row] if one.arm == answer.chosen and one.answer is not None]
    return next((one for one in own if answer.text in (one.answer, one.said.strip())), own[0] if own else None)
