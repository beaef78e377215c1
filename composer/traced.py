"""What happened to a query as data: for the store, for people, and for pages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from composer.answers.strategies import Worked
from composer.settings.strategy import CODE
from composer.state import Beside, Discussed, Merged, Reply, State
from composer.types import Draft, Evidence


def cited(text: str, evidence: Evidence) -> tuple[str, ...]:
    """The ids of the passages that an answer names as [1], [2, 3], …, in the order of the evidence.

    >>> cited("So it is [2].", Evidence("…", ("a#0", "b#4")))
    ('b#4',)
    """
    groups = re.findall(r"\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]", text)
    named = {int(number) for group in groups for number in group.split(",")}
    return tuple(name for number, name in enumerate(evidence.used, 1) if number in named)


def _read(evidence: Evidence | None, text: str) -> dict[str, Any]:
    if evidence is None:
        return {}
    told = {"used": evidence.used, "dropped": evidence.dropped, "cited": cited(text, evidence)}
    without = {"without": list(evidence.without)} if evidence.without else {}
    return {"evidence": {**{name: list(ids) for name, ids in told.items()}, "missing": evidence.missing, **without}}


def _worked(worked: Worked | None) -> dict[str, Any]:
    if worked is None:
        return {}
    calls = [asdict(call) for call in worked.calls]
    return {"strategy": {"use": worked.use, "calls": calls, "why": worked.why}}


def _anew(state: State, row: int) -> bool:
    """Whether the replies that stand were given in a discussion, where nobody reads passages or has a contrast."""
    rounds = state.discussed[row]
    return bool(rounds) and state.replies[row] != rounds[0].replies


def _first(state: State, row: int, reply: Reply) -> dict[str, Any]:
    """With what help the reply was drawn, if it was before any discussion; else that it was in one."""
    if _anew(state, row):
        return {"role": "discuss"}
    gated, against = state.gated[row].get(reply.arm), state.contrasted[row].get(reply.arm)
    return {
        **_read(state.evidence[row].get(reply.arm), reply.draft.text),
        **({"gate": asdict(gated)} if gated else {}),
        **({"contrast": asdict(against)} if against else {}),
    }


def _discussed(one: Discussed) -> dict[str, Any]:
    said = [{"name": reply.arm, "draft": reply.draft.text, "answer": reply.answer} for reply in one.replies]
    return {"drafts": said, "asked": list(one.asked)}


def _merge(state: State, row: int, merged: Merged) -> dict[str, Any]:
    reply = merged.reply
    told: dict[str, Any] = {"duels": [list(duel) for duel in merged.duels]} if merged.duels else {}
    told |= {
        name: [asdict(one) for one in own] for name in ("ratings", "tries", "paths") if (own := getattr(merged, name))
    }
    told |= {"chosen": merged.chosen} if merged.chosen else {}
    told |= {"note": merged.note} if merged.note else {}
    if reply is None:
        return {"by": merged.by, "why": merged.why, **told}
    error = reply.draft.error
    role = next((own.role for own in state.beside[row] if own.draft is reply.draft), "draft")
    return {
        "by": merged.by,
        **told,
        "author": reply.arm,
        "role": role,
        "stop": reply.draft.stop,
        "draft": reply.draft.text,
        "answer": reply.answer,
        "error": error.message if error else None,
    }


def _cost(draft: Draft) -> dict[str, Any]:
    return {
        "tokens_in": draft.usage.tokens_in,
        "tokens_out": draft.usage.tokens_out,
        "seconds": round(draft.usage.seconds, 4),
        "cached": draft.cached,
    }


def _call(one: Beside) -> dict[str, Any]:
    """A call beside the drafts; one that is not whole, which no store has, with all that came of it."""
    draft = one.draft
    broken = {
        "draft": draft.text,
        "stop": draft.stop,
        "error": asdict(draft.error) if draft.error else None,
        "served_by": draft.served_by,
    }
    return {"name": one.arm, "role": one.role, "key": draft.key, **_cost(draft), **({} if draft.ok else broken)}


def calls_of(trace: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every call of a trace with its `name`, `role` (what it was for), tokens, seconds and whether it was `cached`; those beside the
    drafts first. What experts wrote for others to read is not in it."""
    return [*trace.get("beside", ()), *({"role": "draft", **draft} for draft in trace["drafts"])]


def asked_of(trace: Mapping[str, Any]) -> list[str]:
    """Everybody who was asked for an answer: the arms of its drafts as the policy chose them, then planners, mergers, judges and who
    took the steps of a plan. Who wrote what others read is not in it."""
    return list(dict.fromkeys([*trace["route"]["chosen"], *(call["name"] for call in trace.get("beside", ()))]))


def silence_of(draft: Mapping[str, Any]) -> str:
    """Why a trace's draft holds no answer: its failure, that it ran out of tokens, what became of its program."""
    if draft["error"]:
        return str(draft["error"]["message"])
    if draft["stop"] == "length":
        return "was cut off"
    if (strategy := draft.get("strategy")) and strategy["why"]:
        return str(strategy["why"])
    return "no answer could be read in what it wrote" if draft["draft"].strip() else "said nothing"


def cut_told(trace: Mapping[str, Any]) -> str | None:
    """Whose draft ran out of tokens, and whether the answer rests on it; None where all ended."""
    cut = list(dict.fromkeys(draft["name"] for draft in trace["drafts"] if draft["stop"] == "length"))
    if not cut:
        return None
    own = trace["chosen"] in cut and all(
        draft["stop"] == "length" for draft in trace["drafts"] if draft["name"] == trace["chosen"]
    )
    if own and not settled_text(trace):
        return f"cut off: raise `sampling.max_tokens` of {trace['chosen']} for longer answers"
    return f"the {'draft' if len(cut) == 1 else 'drafts'} of {', '.join(cut)}: cut off, and did not count"


def settled_text(trace: Mapping[str, Any]) -> dict[str, Any] | None:
    """The text that the answer came from, where a merger, an author whom a supervisor corrected, or a search wrote it after the drafts,
    or a judge or the like chose one: who settled it (`by`), who wrote it (`author`) in which `role`. None where the vote stands."""
    merge = trace.get("merge") or {}
    if merge.get("answer") is None or "author" not in merge:  # traces of earlier versions do not say who wrote it
        return None
    return {name: merge[name] for name in ("by", "author", "role", "draft", "answer")}


def said_of(draft: Mapping[str, Any]) -> str:
    """The text of a trace's draft that its answer is read out of: of a program what it gave."""
    if (strategy := draft.get("strategy")) is None:
        return str(draft["draft"])
    if strategy["why"]:
        return ""
    return str(strategy["calls"][-1]["gave"] if strategy["use"] == CODE else draft["draft"])


def settled_of(trace: Mapping[str, Any]) -> str | None:
    """Why no merger, judge or the like was asked for the question of this trace, without its figures; "": one was; None: none was to
    be."""
    if (merge := trace.get("merge")) is None:
        return None
    asked = "why" not in merge or any(merge.get(name) for name in ("duels", "ratings", "tries", "paths"))
    return "" if asked else str(merge["why"]).partition(" (")[0]


def trace_of(state: State, row: int) -> dict[str, Any]:
    """All that happened to one query, as JSON-ready data: its route with reasons, every draft, the answer."""
    answer = state.answers[row]
    route = state.route(row)
    query = state.queries[row]
    return {
        "trace_id": answer.trace_id,
        "id": answer.id,
        "question": query.text,
        **({"turns": [asdict(turn) for turn in query.turns]} if query.turns else {}),
        **({"wishes": told} if (told := query.wishes.told) else {}),
        "choices": list(query.choices),
        "kind": query.kind,
        "tests": list(query.tests),
        "route": {
            "chosen": list(route.arms),
            "scores": {arm: round(score, 6) for arm, score in route.scores.items()},
            "reason": asdict(route.reason),
        },
        "drafts": [
            {
                "name": reply.arm,
                "sample": reply.sample,
                "key": reply.draft.key,
                "draft": reply.draft.text,
                "answer": reply.answer,
                "verdicts": list(reply.verdicts),
                "stop": reply.draft.stop,
                "error": asdict(reply.draft.error) if reply.draft.error else None,
                "served_by": reply.draft.served_by,
                **_cost(reply.draft),
                **_worked(reply.worked),
                **_first(state, row, reply),
                **({"persona": asdict(voice)} if (voice := state.voiced[row].get(reply.arm)) else {}),
            }
            for reply in state.replies[row]
        ],
        **({"plan": asdict(planned)} if (planned := state.planned[row]) else {}),
        **({"discussed": [_discussed(one) for one in rounds]} if (rounds := state.discussed[row]) else {}),
        **({"merge": _merge(state, row, merged)} if (merged := state.merged[row]) else {}),
        **({"beside": [_call(one) for one in own]} if (own := state.beside[row]) else {}),
        "answer": answer.text,
        "status": answer.status,
        "chosen": answer.chosen,
        "agreement": answer.agreement,
        "sure": answer.sure,
        "calibrated": answer.calibrated,
        "marks": list(answer.marks),
        "abstained": state.abstained[row],
    }
