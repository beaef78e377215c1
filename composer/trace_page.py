"""One question's trace as a page: who was asked and why, the drafts side by side, where they differ, and what each cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from composer.page import document
from composer.show import (
    author_of,
    cost_of,
    found_of,
    left_of,
    outcome_of,
    printable,
    ratings_of,
    revised_of,
    said_of,
    unsplit,
    why,
)
from composer.traced import calls_of
from routers.types import Route

_STYLE = (
    "<style>.drafts{display:flex;gap:1rem;overflow-x:auto}.drafts article{flex:1 1 14rem;min-width:14rem;"
    "border:1px solid var(--line);border-radius:.4rem;padding:.6rem .8rem}.drafts h3{margin:0}"
    ".drafts .taken{border-color:var(--dot);border-width:2px}.differs{color:var(--mark)}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px}"
    ".answer{font-size:1.2rem;border-left:3px solid var(--dot);padding-left:.8rem}"
    "progress{width:8rem;height:.6rem}td.text{white-space:normal}.wide :is(th,td){text-align:left}"
    ":is(.scores :is(th,td):nth-child(2),.costs :is(th,td):is(:nth-child(3),:nth-child(4)),.ratings :is(th,td):nth-child(4),"
    ".paths :is(th,td):nth-child(5)){text-align:right}</style>"
)


def trace_page(trace: Mapping[str, Any], route: Route) -> str:
    """The whole page as HTML, of a trace as `trace_of` gives it; every text in it is escaped."""
    parts = (
        _STYLE,
        _answer(trace),
        _route(route),
        _plan(trace),
        _discussed(trace.get("discussed", ())),
        _drafts(trace),
        _merge(trace.get("merge")),
        _costs(calls_of(trace)),
    )
    return document(
        printable(trace["question"]), f'<span class="note">trace {_text(trace["trace_id"])}</span>', "".join(parts)
    )


def _text(text: object) -> str:
    return escape(printable(str(text)))


def _table(kind: str, head: Sequence[str], rows: str) -> str:
    names = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>'


def _answer(trace: Mapping[str, Any]) -> str:
    told = []
    if trace["sure"] is not None:
        told.append(f"sure {trace['sure']:.2f} ({'' if trace['calibrated'] else 'not '}calibrated)")
    if len(trace["drafts"]) > 1:
        told.append(f"{100 * trace['agreement']:.0f} % of the drafts agree")
    said = _text(trace["answer"]) or f"<em>{_text(trace['abstained'] or trace['status'])}</em>"
    return f'<p class="answer">{said}</p><p class="note">{_text("; ".join([*told, *trace["marks"]]))}</p>'


def _route(route: Route) -> str:
    rows = "".join(
        f"<tr{' class=chosen' if name in route.arms else ''}><td>{_text(name)}</td><td>{score:.2f}</td>"
        f'<td><progress max="1" value="{max(0.0, min(1.0, score)):.3f}"></progress></td></tr>'
        for name, score in sorted(route.scores.items(), key=lambda pair: -pair[1])
    )
    table = _table("scores", ("expert", "score", ""), rows) if rows else ""
    return f"<h2>Who was asked, and why</h2><p>{_text(why(route))}</p>{table}"


def _plan(trace: Mapping[str, Any]) -> str:
    plan: Mapping[str, Any] | None = trace.get("plan")
    if plan is None:
        return "<p>The planner did not split the question.</p>" if unsplit(trace) else ""
    rows = "".join(
        f'<tr><td>{number}</td><td class="text">{_text(step["asked"])}</td><td>{_text(step["chosen"] or "nobody")}</td>'
        f'<td class="text">{_text(step["answer"] or "no answer")}</td></tr>'
        for number, step in enumerate(plan["steps"], 1)
    )
    broken = ""
    if plan["why"]:
        broken = f'<p class="differs">Not followed to its end, and asked as it stands: {_text(plan["why"])}</p>'
    note = f'<p class="note">{_text(plan["note"])}</p>' if plan.get("note") else ""
    table = _table("plan", ("step", "asked", "expert", "answer"), rows)
    return f"<h2>The plan of {_text(plan['planner'])}</h2>{broken}{table}{note}"


def _drafts(trace: Mapping[str, Any]) -> str:
    drafts: Sequence[Mapping[str, Any]] = trace["drafts"]
    cards = "".join(_card(draft, trace) for draft in drafts) or "<p>Nobody was asked.</p>"
    return f'<h2>Drafts side by side</h2><div class="drafts">{cards}</div>'


def _card(draft: Mapping[str, Any], trace: Mapping[str, Any]) -> str:
    differs = draft["answer"] is not None and draft["answer"] != trace["answer"]
    merged = "draft" in (
        trace.get("merge") or {}
    )  # whose text is the answer, also where its author's own draft holds none
    taken = draft["name"] == trace["chosen"] and not differs and not (merged and draft["answer"] is None)
    kind = " class=taken" if taken else ""
    said = draft["draft"] if draft["error"] is None else f"failed: {draft['error']['message']}"
    answer = "<p>no answer was read</p>"
    if draft["answer"] is not None:
        mark = ' <span class="differs">differs</span>' if differs else ""
        answer = f"<p>answer: <b>{_text(draft['answer'])}</b>{mark}</p>"
    if persona := draft.get("persona"):
        answer += f'<p class="note">as {_text(persona["arm"])}: the question is {_text(persona["intent"])}</p>'
    return (
        f"<article{kind}><h3>{_text(draft['name'])}</h3>{answer}<pre>{_text(said)}</pre>"
        f"{_strategy(draft.get('strategy'))}"
        f'<p class="note">{_text(cost_of(draft))}</p></article>'
    )


def _strategy(strategy: Mapping[str, Any] | None) -> str:
    """The programs that were run, and what each gave."""
    if strategy is None:
        return ""
    ran = "".join(
        f"<p>It ran</p><pre><code>{_text(call['program'])}</code></pre><p>which gave"
        f"{' <b>' if call['gave'] else ' <b class=differs>'}{_text(outcome_of(call))}</b></p>"
        for call in strategy["calls"]
    )
    why = f'<p class="differs">No answer: {_text(strategy["why"])}</p>' if strategy["why"] else ""
    return f'<p class="note">strategy: {_text(strategy["use"])}</p>{ran}{why}'


def _merge(merge: Mapping[str, Any] | None) -> str:
    if merge is None:
        return ""
    head = f"<h2>What {_text(merge['by'])} made of them</h2>"
    if "chosen" in merge:
        head += f"<p class=note>Why {_text(merge['by'])}: {_text(merge['chosen'])}.</p>"
    if merge.get("duels"):
        rows = "".join(
            f"<tr><td>{_text(one)}</td><td>{_text(other)}</td><td>{_text(won or 'neither')}</td></tr>"
            for one, other, won in merge["duels"]
        )
        return head + _table("duels", ("of", "and", "it prefers, in both orders"), rows)
    if steps := _ratings(merge) + _tries(merge) + _paths(merge):
        told = "; ".join(filter(None, [merge.get("note"), merge.get("why") and f"{merge['why']}: left to the vote"]))
        return head + steps + (f'<p class="note">{_text(told)}</p>' if told else "") + _wrote(merge)
    if "why" in merge:
        return f"{head}<p>It was not asked: {_text(merge['why'])}.</p>"
    said = merge["draft"] if merge["error"] is None else f"failed: {merge['error']}"
    left = f'<p class="differs">{_text(left_of(merge))}</p>' if left_of(merge) else ""
    return f"{head}<pre>{_text(said)}</pre>{left}"


def _wrote(merge: Mapping[str, Any]) -> str:
    """The text that the answer came from, where it is none of the drafts."""
    if merge.get("role", "draft") == "draft" or merge.get("answer") is None:
        return ""
    return (
        f"<p>{_text(merge['author'])} ({_text(merge['role'])}) wrote the answer:</p><pre>{_text(merge['draft'])}</pre>"
    )


def _ratings(merge: Mapping[str, Any]) -> str:
    """What a scorer rated each answer."""
    rows = "".join(
        f'<tr><td>{_text(one["arm"])}</td><td class="text">{_text(one["answer"])}</td><td>{_text(ratings_of(one))}</td>'
        f"<td>{'-' if one['score'] is None else format(one['score'], '.2f')}</td></tr>"
        for one in merge.get("ratings", ())
    )
    return _table("ratings", ("expert", "answer", "ratings from 1 to 5", "score"), rows) if rows else ""


def _tries(merge: Mapping[str, Any]) -> str:
    """What a supervisor found, and what came of it."""
    rows = "".join(
        f'<tr><td>{_text(one["arm"])}</td><td class="text">{_text(one["answer"])}</td><td class="text">{_text(found_of(one))}'
        f'</td><td class="text">{_text("" if one["stands"] is None else _again(one))}</td></tr>'
        for one in merge.get("tries", ())
    )
    return _table("tries", ("expert", "answer", "the supervisor", "the expert again"), rows) if rows else ""


def _again(tried: Mapping[str, Any]) -> str:
    """What was said again, and by whom, where that is another arm."""
    author = author_of(tried)
    return revised_of(tried) if author == tried["arm"] else f"{author}: {revised_of(tried)}"


def _paths(merge: Mapping[str, Any]) -> str:
    """The paths of a search."""
    rows = "".join(
        f"<tr{' class=chosen' if one['kept'] else ''}><td>{one['round']}</td><td>{one['k']}</td>"
        f'<td class="text">{_text(said_of(one))}</td><td class="text">{_text(one["answer"] or "no answer")}</td>'
        f"<td>{one['value']:.2f}</td></tr>"
        for one in merge.get("paths", ())
    )
    return _table("paths", ("round", "experts", "they said", "answer", "worth"), rows) if rows else ""


def _discussed(rounds: Sequence[Mapping[str, Any]]) -> str:
    """What was said in earlier rounds."""
    rows = "".join(
        f'<tr><td>{number}</td><td>{_text(one["name"])}</td><td class="text">{_text(one["answer"] or "no answer")}</td></tr>'
        for number, own in enumerate(rounds, 1)
        for one in own["drafts"]
    )
    return (
        f"<h2>What was said before they were asked again</h2>{_table('rounds', ('round', 'expert', 'answer'), rows)}"
        if rows
        else ""
    )


def _costs(calls: Sequence[Mapping[str, Any]]) -> str:
    paid = [call for call in calls if not call["cached"]]
    rows = "".join(
        f"<tr><td>{_text(call['name'])}</td><td>{_text(call['role'])}</td><td>{0 if call['cached'] else call['tokens_out']}</td>"
        f"<td>{0.0 if call['cached'] else call['seconds']:.2f}</td><td>{'from the store' if call['cached'] else ''}</td></tr>"
        for call in calls
    )
    tokens, seconds = sum(call["tokens_out"] for call in paid), sum(call["seconds"] for call in paid)
    rows += (
        f"<tr class=chosen><td>all, waited together</td><td></td><td>{tokens}</td><td>{seconds:.2f}</td><td></td></tr>"
    )
    return "<h2>What it cost</h2>" + _table("costs", ("expert", "for", "tokens written", "seconds waited", ""), rows)
