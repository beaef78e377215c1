"""What a caller gets: one choice per answer, streamed or whole, with usage and what the experts did. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from composer.serve.refusal import Refused, of_failure, stopping
from composer.state import State
from composer.types import Draft, Usage

Data = dict[str, Any]


@dataclass(slots=True)
class Passing:
    """A draft that is passed on while it is written: `sent` is what the reader has."""

    sent: str = ""

    def take(self, text: str, at: int | None) -> str:
        """What of this piece the reader does not have yet; nothing where we do not know what stands before it: whoever
        joins another caller's draft hears it from the middle, and gets what it missed with the whole text.

        A draft that is begun again says at first what it said before; one that says something else cannot be joined to
        what was sent: Refused.
        """
        if at is None or at > len(self.sent):
            return ""
        old = min(len(text), len(self.sent) - at)
        if self.sent[at : at + old] != text[:old]:
            raise Refused(502, "the expert's host died, and began another reply", code="host_died")
        self.sent += text[old:]
        return text[old:]

    def rest(self, text: str) -> str:
        """What is left of the whole text."""
        return self.take(text, 0)


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer as it is told. `refusal` is set, and there is no text, where the policy abstained."""

    text: str
    finish: Literal["stop", "length"]
    refusal: str | None
    about: Data

    def message(self) -> Data:
        """The assistant's message."""
        content = None if self.refusal is not None else self.text
        return {"role": "assistant", "content": content, "refusal": self.refusal}


@dataclass(frozen=True, slots=True)
class Told:
    """All that is told of a request: its choices, OpenAI's usage, and what of that was spent now."""

    choices: tuple[Choice, ...]
    usage: Data
    spent: Data


def choice_of(state: State, row: int) -> Choice:
    """The answer at `row`. Raises Refused where the experts that were asked failed.

    Where one draft is all there is, its own words are the reply, streamed or not (they may end for want of tokens); where
    several were combined, or somebody settled the question otherwise than that draft, the answer is.
    """
    answer, drafts = state.answers[row], [reply.draft for reply in state.replies[row]]
    about: Data = {
        "trace_id": answer.trace_id,
        "experts": list(dict.fromkeys([*answer.experts, *(own.arm for own in state.beside[row])])),
        "chosen": answer.chosen,
        "status": "ok" if answer.status == "ok" else "degraded",
        "sure": answer.sure,
        "calibrated": answer.calibrated,
        "marks": list(answer.marks),
        "agreement": round(answer.agreement, 4),
        "cached": sum(draft.cached for draft in (*drafts, *(own.draft for own in state.beside[row]))),
        "failed": [
            {"expert": reply.arm, "kind": reply.draft.error.kind}
            for reply in state.replies[row]
            if reply.draft.error is not None
        ],
    }
    why = state.abstained[row]
    if why is not None:
        refusal = f"not answered: {why}"
        return Choice("", "stop", refusal, about | {"status": "abstained"})
    merged = state.merged[row]
    settled = merged.reply if merged is not None and merged.reply is not None and merged.reply.answer else None
    said = state.replies[row][0].said if len(drafts) == 1 and settled is None else ""
    if said.strip() and drafts[0].error is None:
        if answer.text != said.strip() and answer.status != "failed":
            about["answer"] = answer.text
        return Choice(said, "stop" if drafts[0].ok else "length", None, about)
    if answer.status == "failed":
        raise _failure(state, row)
    taken = [reply.draft for reply in (settled, *state.replies[row]) if reply and reply.arm == answer.chosen]
    whole = any(draft.ok for draft in taken)
    return Choice(answer.text, "stop" if whole else "length", None, about)


def _failure(state: State, row: int) -> Refused:
    for reply in state.replies[row]:
        if reply.draft.error is not None:
            return of_failure(reply.draft.error, reply.arm)
    if any(reply.draft.stop == "cancelled" for reply in state.replies[row]):
        return stopping()  # the pool ends only with us
    for reply in state.replies[row]:
        if reply.worked is not None and reply.worked.why:
            return Refused(502, f"no answer: {reply.arm}: {reply.worked.why}", code="no_value")
    asked = ", ".join(state.asked[row]) or "nobody"
    if any(reply.draft.stop == "length" for reply in state.replies[row]):
        return Refused(502, f"no complete answer ({asked}): all were cut off; raise max_tokens", code="cut_off")
    return Refused(502, f"no answer: {asked} said nothing", code="empty_reply")


def usage_of(state: State, beside: Sequence[Draft] = ()) -> tuple[Data, Data]:
    """OpenAI's usage over all drafts of all experts that were asked, those `beside` the answers too (what experts wrote for
    others to read), and what of it was generated now.

    A draft from the store has its tokens in the first and costs nothing in the second; `cached_tokens` are those of
    prompts that nobody had to read again.
    """
    drafts = [*beside, *(one.draft for column in (state.beside, state.replies) for own in column for one in own)]
    read, written = (sum(getattr(draft.usage, name) for draft in drafts) for name in ("tokens_in", "tokens_out"))
    kept = sum(draft.usage.tokens_in if draft.cached else draft.usage.cached_in for draft in drafts)
    now: list[Usage] = [draft.usage for draft in drafts if not draft.cached]
    usage = {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": kept},
    }
    spent = {"tokens_in": sum(u.tokens_in for u in now), "tokens_out": sum(u.tokens_out for u in now)}
    return usage, spent


def completion(id: str, created: int, model: str, told: Told) -> Data:
    """The whole reply. `x_coe` stands beside the one choice, or in each of several."""
    choices = [
        {"index": i, "message": choice.message(), "logprobs": None, "finish_reason": choice.finish}
        for i, choice in enumerate(told.choices)
    ]
    about = told.choices[0].about
    if len(choices) > 1:
        choices = [row | {"x_coe": choice.about} for row, choice in zip(choices, told.choices, strict=True)]
        about = {}
    head = {"id": id, "object": "chat.completion", "created": created, "model": model}
    return head | {"choices": choices, "usage": told.usage, "x_coe": about | {"spent": told.spent}}


def chunk(id: str, created: int, model: str, choices: Sequence[Data], **more: Any) -> Data:
    """One event of a stream."""
    head = {"id": id, "object": "chat.completion.chunk", "created": created, "model": model}
    return head | {"choices": list(choices)} | more


def part(index: int, delta: Data, finish: str | None = None) -> Data:
    """One choice in an event."""
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
