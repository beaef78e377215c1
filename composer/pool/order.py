"""Whose turn it is among queues: urgent work may jump, old work never waits for ever, then the cheapest per request. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queue as the choice sees it: `queued` requests, the `oldest` of which arrived then (seconds, as `deadline`).

    `priority` is the highest among them, `load` the seconds until the first of them could start (0: it is open), `pace`
    the seconds that each takes once it is (0: nobody knows).
    """

    name: str
    queued: int
    oldest: float = 0.0
    priority: int = 0
    deadline: float = math.inf
    load: float = 0.0
    pace: float = 0.0


def first_of(waiting: Sequence[Waiting]) -> Waiting:
    """Smith's rule (METHODS J.2): the least (load + work) per request, which minimises the mean time until a request is
    done. With equal loads that is the hottest queue, and what is open comes before what is not. Ties: most queued, then
    as given."""
    return min(waiting, key=lambda queue: ((queue.load + queue.pace * queue.queued) / queue.queued, -queue.queued))


def eligible(
    waiting: Sequence[Waiting], now: float, *, patience: float, lead: float, urgent: bool = True
) -> list[Waiting]:
    """Those among whom `first_of` may choose.

    With `urgent` a deadline less than `lead` seconds away comes before everything, the earliest first, then higher
    priority before lower, then who has waited longer than `patience` seconds behind a heap that is older still. Of the
    rest nobody is overtaken by a queue whose oldest request arrived more than `patience` seconds after his own: what a
    queue has to wait for is only what came until then.
    """
    found = list(waiting)
    if urgent:
        due = [queue for queue in found if queue.deadline - now <= lead]
        if due:
            first = min(queue.deadline for queue in due)
            return [queue for queue in due if queue.deadline == first]
        top = max(queue.priority for queue in found)
        found = [queue for queue in found if queue.priority == top]
    limit = min(queue.oldest for queue in found) + patience
    late = [queue for queue in found if queue.oldest > limit and now - queue.oldest > patience]
    if urgent and late:
        return [min(late, key=lambda queue: queue.oldest)]
    return [queue for queue in found if queue.oldest <= limit]


def order_of(waiting: Sequence[Waiting], now: float, *, patience: float, lead: float) -> list[str]:
    """The order in which queues would be served if nothing more arrived."""
    left, order = list(waiting), []
    while left:
        queue = first_of(eligible(left, now, patience=patience, lead=lead))
        left.remove(queue)
        order.append(queue.name)
    return order


class Turns:
    """Remembers who jumped. An urgent turn ends after the patience, the next one is ordinary and may last as long before
    it is cut: urgent work takes half of the time at most, however much of it comes."""

    def __init__(self, *, patience: float, lead: float) -> None:
        self._patience, self._lead = patience, lead
        self._jumped: float | None = None  # when the present turn began, if it jumped
        self._owed = -math.inf  # until then ordinary work is not cut

    def choose(self, waiting: Sequence[Waiting], now: float) -> str:
        """Begin the turn of one of `waiting` (not empty)."""
        jumped, self._jumped = self._jumped, None
        calm = first_of(self._eligible(waiting, now, urgent=False))
        if jumped is not None:
            self._owed = now + (now - jumped)
            return calm.name
        chosen = first_of(self._eligible(waiting, now, urgent=now >= self._owed))
        if chosen != calm:
            self._jumped = now
        return chosen.name

    def keeps(self, mine: Waiting, others: Sequence[Waiting], now: float) -> bool:
        """Whether the queue whose turn it is may start another request while `others` wait."""
        urgent = now >= self._owed if self._jumped is None else now - self._jumped <= self._patience
        return mine in self._eligible([mine, *others], now, urgent=urgent)

    def _eligible(self, waiting: Sequence[Waiting], now: float, *, urgent: bool) -> list[Waiting]:
        return eligible(waiting, now, patience=self._patience, lead=self._lead, urgent=urgent)
