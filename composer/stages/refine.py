"""refine: a supervisor looks at the draft that the vote would take, and its author answers again where that is found wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from annotated_types import Ge, Le

from composer.answers.checking import check_request, refine_request, verdict
from composer.answers.found import Checked
from composer.answers.merge import unfenced
from composer.stages.balloting import voted
from composer.stages.disputed import CONVERSATION, check_settler, of_a_plan, proven, settled_rows
from composer.stages.kit import Kit, Stage, Together, kind_of
from composer.stages.reading import compared_aside, read
from composer.state import Beside, Merged, Reply, State, Update
from composer.types import Draft, Kind, Request


@dataclass(slots=True)
class _Course:
    """A row on its way: the reply that stands, what was tried, all drafts, and whether anything is still to be asked."""

    kind: Kind
    first: Reply
    stands: Reply
    tries: list[Checked] = field(default_factory=list[Checked])
    beside: list[Beside] = field(default_factory=list[Beside])
    going: bool = True

    def merged(self, by: str) -> Merged:
        """What came of it."""
        tries = tuple(self.tries)
        if self.stands is not self.first:
            return Merged(by, self.stands, tries=tries)
        last = tries[-1]
        if last.right:
            return Merged(by, why="it finds nothing wrong", tries=tries)
        if last.right is None:
            return Merged(by, why="it does not say whether that is right", tries=tries)
        return Merged(by, why="no other answer came of its remarks", tries=tries)


def refine(kit: Kit, *, by: str, tries: Annotated[int, Ge(1), Le(4)] = 2, vote: str = "majority") -> Stage:
    """Have the expert `by` say of the draft that the aggregator `vote` would take whether it is right, and if not, what is wrong;
    then the expert that wrote it answers again having seen that remark, at most `tries` times. The new draft stands if it holds
    another answer; a row ends where nothing is found wrong, where nothing is said, and where the answer stays the same. Rows without
    an answer, those whose program passes all its tests, and those of a plan, whose steps were looked at, are left out. Each try is two passes over the hosts for all rows, one for the supervisor and one for the authors.
    The caller's wishes hold for what authors write, as that is returned, and not for the supervisor. It comes after `verify`, whose
    comparison of answers it needs."""
    check_settler(kit, by, vote)

    async def stage(state: State) -> Update:
        rows = settled_rows(state)
        own = {row: [reply for reply in state.replies[row] if reply.draft.ok] for row in rows}
        taken = voted(
            kit.aggregator(vote),
            state,
            {row: told for row, told in own.items() if told and _left_out(state, row) is None},
        )
        kinds = {row: kind_of(kit, state, row) for row in taken}
        courses = {row: _Course(kinds[row], reply, reply) for row, reply in taken.items()}
        cut: set[str] = set()
        for number in range(tries):
            await _try(kit, by, state, courses, number, cut)
        return _update(state, by, courses, cut)

    return Together(stage)


async def _try(kit: Kit, by: str, state: State, courses: Mapping[int, _Course], number: int, cut: set[str]) -> None:
    """The supervisor looks at every row that is still on its way, then the authors of what is wrong answer again."""
    from composer.stages.asking import asking  # noqa: PLC0415 - asyncio: `coe route` makes this stage and never runs it

    ask = asking(kit.pool(), budget=kit.budget(), emit=kit.emit, cut=cut)
    going = {row: one for row, one in courses.items() if one.going and state.queries[row].id not in cut}
    checks: dict[int, Request] = {}
    for row, one in going.items():
        query = state.queries[row]
        checks[row] = check_request(kit.registry, by, query.prompt, one.stands.said, query.asker, number)
    seen = await ask(list(checks.values()))
    again: dict[int, Request] = {}
    for row, request in checks.items():
        one, query = going[row], state.queries[row]
        if query.id in cut:
            continue
        draft = seen[request.id]
        right, remark = verdict(draft)
        one.beside.append(Beside(by, "check", draft))
        one.tries.append(Checked(one.stands.arm, one.stands.answer or "", right, remark))
        if right is not False:
            one.going = False
            continue
        text, author = one.stands.said, _author(kit, one.stands.arm)
        if author is None:
            one.going = False
            continue
        again[row] = refine_request(kit.registry, author, query.prompt, text, remark, query.asker, number)
    written = await ask(list(again.values()))
    for row, request in again.items():
        if state.queries[row].id not in cut:
            await _heard(state, row, going[row], request.arm, unfenced(request, written[request.id]))


def _author(kit: Kit, arm: str) -> str | None:
    """Who is asked again for a draft of this arm: of one that answers by a program the expert in prose, nobody (None) where it
    writes nothing but programs."""
    if kit.registry.strategy(arm) is None:
        return arm
    expert = kit.registry.stream(arm, "").expert
    return expert if expert in {one.name for one in kit.registry.arms()} else None


async def _heard(state: State, row: int, one: _Course, author: str, draft: Draft) -> None:
    """What the author wrote: it stands if it holds another answer."""
    one.beside.append(Beside(author, "refine", draft))
    made: Sequence[Reply] = (*state.replies[row], one.stands, read(Reply(author, draft), state.queries[row], one.kind))
    *_, before, new = await compared_aside(made, one.kind)
    one.going = 0 <= new.code != before.code  # who says the same again would say it a third time
    last = one.tries[-1]
    one.tries[-1] = replace(last, revised=new.answer, stands=one.going, author=author)
    if one.going:
        one.stands = new


def _update(state: State, by: str, courses: Mapping[int, _Course], cut: set[str]) -> Update:
    merged, withheld, beside = list(state.merged), list(state.withheld), list(state.beside)
    for row, one in courses.items():
        if state.queries[row].id in cut:
            withheld[row] = True
            continue
        merged[row] = one.merged(by)
        beside[row] += tuple(one.beside)
    for row in settled_rows(state):
        if row not in courses:
            merged[row] = Merged(by, why=_left_out(state, row) or "no draft holds an answer")
    return {"merged": tuple(merged), "withheld": tuple(withheld), "beside": tuple(beside)}


def _left_out(state: State, row: int) -> str | None:
    """Why nobody looks at the row, though it may hold an answer."""
    if state.queries[row].turns:
        return CONVERSATION
    if of_a_plan(state, row):
        return "the steps of its plan were looked at"
    return "its program passes all tests" if proven(state.replies[row]) else None
