"""Drafts that a policy may want later, asked for while their host is open: so stopping early never adds a load.

A policy asks one arm after the other. Where not all hosts fit into memory at once, each of its rounds would open them
again. So all that it may still ask goes to the pool with what it asks now, and when the turn of such a draft comes, the
policy is rehearsed on what has landed before it in the plan: if it would have stopped by then, the draft is withdrawn.
If that cannot be told yet it is drawn, and found in the store should it be wanted: a call too many costs less than a
load. Decisions stay those of the plan's order (LAYOUT idea 4).
"""

from __future__ import annotations

from dataclasses import replace

from composer.stages.kit import Kit, kind_of
from composer.stages.reading import compared, read
from composer.state import Place, Reply, State, told
from composer.types import Draft
from routers.types import Ask, Foreseeing, Seen


class Foresight:
    """What has landed of each row of `state` in this round, and whether its policy still wants an arm.

    Answers that take long to compare (formulas), or to try (programs), are not rehearsed on, nor are those of arms whose
    drafts are run or gone on with: then everything that may be wanted is.
    """

    def __init__(self, kit: Kit, state: State, samples: int) -> None:
        self._state = state
        self._registry = kit.registry
        self._samples = samples
        self._kinds = [kind_of(kit, state, row) for row in range(len(state.queries))]
        self._landed: list[dict[str, list[Reply]]] = [{} for _ in state.queries]
        for row, replies in enumerate(state.replies):
            for reply in replies:
                self._landed[row].setdefault(reply.arm, []).append(reply)

    def land(self, place: Place, draft: Draft) -> None:
        """The draft for this place has come."""
        row, arm, sample = place
        reply = read(Reply(arm, draft, sample), self._state.queries[row], self._kinds[row])
        self._landed[row].setdefault(arm, []).append(reply)

    def wants(self, place: Place) -> bool:
        """Whether the policy wants the draft for this place, or may still come to want it."""
        row, arm, _ = place
        course = self._state.course
        if course is None or self._state.scores is None or self._kinds[row] in ("math", "code"):
            return True
        scores = self._state.scores[[row]]
        asked = self._state.asked[row]  # what it has asked, this round's too
        while arm not in asked:
            if any(self._registry.strategy(one) for one in asked):
                return True
            seen = self._seen(row, asked)
            if seen is None:
                return True  # nobody can tell yet
            [decision] = course.policy.next(scores, course.arms, [seen])
            if not isinstance(decision, Ask):
                return False
            asked = (*asked, *decision.arms)
        return True

    def _seen(self, row: int, asked: tuple[str, ...]) -> Seen | None:
        """What the row has shown once all of `asked` have landed; None before."""
        landed = self._landed[row]
        if any(len(landed.get(arm, ())) < self._samples for arm in asked):
            return None
        replies = [reply for arm in asked for reply in sorted(landed[arm], key=lambda reply: reply.sample)]
        now = replace(self._state.seen_of(row), asked=asked)
        return replace(now, answers=told(compared(replies, self._kinds[row])))


def may_want(state: State) -> list[tuple[str, ...]]:
    """Per row the arms that its policy may ask after those it wants now."""
    found: list[tuple[str, ...]] = [()] * len(state.queries)
    rows = [row for row, wanted in enumerate(state.wanted) if wanted]
    if state.course is None or state.scores is None or not rows:
        return found
    if not isinstance(state.course.policy, Foreseeing):
        return found
    seen = [state.seen_of(row) for row in rows]
    later = state.course.policy.later(state.scores[rows], state.course.arms, seen)
    for row, arms in zip(rows, later, strict=True):
        found[row] = arms
    return found
