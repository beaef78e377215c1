"""What a planner expert is asked, and what is read out of its reply. Nothing is asked here: functions give requests, and read
drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from composer.asker import Asker, Asking
from composer.planning.plan import SCHEMA, Plan, PlanError, fill, read
from composer.state import Planned, Reply, Stepped
from composer.types import Draft, Message, Prompt, Request


@dataclass(frozen=True, slots=True)
class Example:
    """A question with a plan that solved it."""

    question: str
    plan: str


def plan_request(
    registry: Asking, planner: str, question: str, asker: Asker, examples: Sequence[Example] = ()
) -> Request:
    """What the planner is asked: the question, after `examples` in the form of a chat where it takes messages, else before it
    in the text. It writes by the schema of a plan."""
    sampling = registry.sampling(planner)
    return Request(
        id=f"{asker.id}:{planner}:plan:0",
        streams=(registry.stream(planner, _prompt(registry.messages(planner, question), examples)),),
        sampling=replace(sampling, schema=sampling.schema or SCHEMA),
        role="plan",
        arm=planner,
        parent=asker.id,
        deadline=asker.deadline,
        priority=asker.priority,
    )


def _prompt(prompt: Prompt, examples: Sequence[Example]) -> Prompt:
    if isinstance(prompt, str):
        return "".join(f"{one.question}\n{one.plan}\n\n" for one in examples) + prompt
    turns = [turn for one in examples for turn in (Message("user", one.question), Message("assistant", one.plan))]
    return (*prompt[:-1], *turns, prompt[-1])


@dataclass(slots=True)
class Progress:
    """A question on its way through its plan. `why` says why it goes no further; then it is asked as it stands."""

    planner: str
    draft: Draft
    plan: Plan = field(default_factory=Plan)
    taken: list[Stepped] = field(default_factory=list[Stepped])
    why: str = ""

    @classmethod
    def of(cls, planner: str, draft: Draft) -> Progress:
        """What the planner's draft makes of it."""
        if draft.error is not None:
            return cls(planner, draft, why=f"the planner failed: {draft.error.message}")
        if draft.stop != "stop":
            return cls(planner, draft, why=f"the planner did not end its plan ({draft.stop})")
        try:
            return cls(planner, draft, read(draft.text))
        except PlanError as why:
            return cls(planner, draft, why=str(why))

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
        if reply is None:
            self.taken.append(Stepped(asked, "", None))
            self.why = f"step {len(self.taken)} has no answer"
        else:
            self.taken.append(Stepped(asked, reply.answer or "", reply.arm, reply.draft.text, *_cost(reply.draft)))

    @property
    def told(self) -> Planned:
        """For the trace."""
        return Planned(self.planner, tuple(self.taken), self.why, self.draft.text, *_cost(self.draft))

    @property
    def done(self) -> bool:
        """Whether the last step has given the answer."""
        return bool(self.plan.steps) and not self.why and len(self.taken) == len(self.plan.steps)


def _cost(draft: Draft) -> tuple[int, float, bool]:
    return draft.usage.tokens_out, round(draft.usage.seconds, 4), draft.cached
