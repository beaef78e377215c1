"""What a planner expert is asked, and what is read out of its reply. Nothing is asked here: functions give requests, and read
drafts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from composer.asker import Asker, Asking
from composer.planning.plan import SCHEMA, Plan, PlanError, fill, read
from composer.state import Planned, Reply, Stepped
from composer.types import Draft, Request


def plan_request(registry: Asking, planner: str, question: str, asker: Asker) -> Request:
    """What the planner is asked: the question. It writes by the schema of a plan."""
    sampling = registry.sampling(planner)
    stream = registry.stream(planner, registry.messages(planner, question))
    return asker.request(planner, "plan", stream, replace(sampling, schema=sampling.schema or SCHEMA))


@dataclass(slots=True)
class Progress:
    """A question on its way through its plan. `why` says why it goes no further; then it is asked as it stands."""

    planner: str
    plan: Plan = field(default_factory=Plan)
    taken: list[Stepped] = field(default_factory=list[Stepped])
    why: str = ""

    @classmethod
    def of(cls, planner: str, draft: Draft) -> Progress:
        """What the planner's draft makes of it."""
        if draft.error is not None:
            return cls(planner, why=f"the planner failed: {draft.error.message}")
        if draft.stop != "stop":
            return cls(planner, why=f"the planner did not end its plan ({draft.stop})")
        try:
            return cls(planner, read(draft.text))
        except PlanError as why:
            return cls(planner, why=str(why))

    def next(self) -> str | None:
        """The question of the next step; None where there is none, or it cannot be asked."""
        if self.why or len(self.taken) == len(self.plan.steps):
            return None
        try:
            return fill(self.plan.steps[len(self.taken)], [step.answer for step in self.taken])
        except PlanError as why:
            self.why = f"step {len(self.taken) + 1}: {why}"
            return None

    def heard(self, asked: str, reply: Reply | None) -> None:
        """What a step gave: the reply whose answer was taken; None ends the plan."""
        self.taken.append(Stepped(asked, (reply.answer if reply else None) or "", reply.arm if reply else None))
        if reply is None:
            self.why = f"step {len(self.taken)} has no answer"

    @property
    def told(self) -> Planned:
        """For the trace."""
        return Planned(self.planner, tuple(self.taken), self.why)

    @property
    def done(self) -> bool:
        """Whether the last step has given the answer."""
        return bool(self.plan.steps) and not self.why and len(self.taken) == len(self.plan.steps)
