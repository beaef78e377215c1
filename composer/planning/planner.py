"""What a planner expert is asked, and what is read out of its reply. Nothing is asked here: functions give requests, and read
drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from composer.answers.found import Stepped
from composer.asker import Asker, Asking
from composer.planning.examples import Example, shown
from composer.planning.plan import SCHEMA, Plan, PlanError, fill, read
from composer.state import Planned, Reply
from composer.types import Draft, Request


def plan_request(
    registry: Asking,
    planner: str,
    question: str,
    asker: Asker,
    *,
    examples: Sequence[Example] = (),
    sample: int = 0,
    temperature: float | None = None,
) -> Request:
    """What the planner is asked: the question, after `examples`. It writes by the schema of a plan, as its registry entry says or with
    this `temperature`; `sample` numbers repeated draws, which need one above 0."""
    own = registry.sampling(planner)
    sampling = replace(
        own,
        schema=own.schema or SCHEMA,
        temperature=own.temperature if temperature is None else temperature,
        seed=own.seed + sample,  # engines draw by the seed alone: with the same one the next draw is the same plan
    )
    stream = registry.stream(planner, registry.messages(planner, shown(question, examples)))
    return asker.request(planner, "plan", stream, sampling, sample=sample)


@dataclass(slots=True)
class Progress:
    """A question on its way through its plan. `why` says why it goes no further; then it is asked as it stands."""

    planner: str
    plan: Plan = field(default_factory=Plan)
    taken: list[Stepped] = field(default_factory=list[Stepped])
    why: str = ""
    like: tuple[str, ...] = ()

    @classmethod
    def of(cls, planner: str, draft: Draft, examples: Sequence[Example] = ()) -> Progress:
        """What the planner's draft, written after these examples, makes of it."""
        like = tuple(one.question for one in examples)
        if draft.error is not None:
            return cls(planner, why=f"the planner failed: {draft.error.message}", like=like)
        if draft.stop != "stop":
            return cls(planner, why=f"the planner did not end its plan ({draft.stop})", like=like)
        try:
            return cls(planner, read(draft.text), like=like)
        except PlanError as why:
            return cls(planner, why=str(why), like=like)

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
        return Planned(self.planner, tuple(self.taken), self.why, self.like)

    @property
    def done(self) -> bool:
        """Whether the last step has given the answer."""
        return bool(self.plan.steps) and not self.why and len(self.taken) == len(self.plan.steps)
