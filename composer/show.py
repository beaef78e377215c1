"""Routes and answers for people: plain text for a terminal, with nothing in it that a terminal would obey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from routers.types import Route


def printable(text: str) -> str:
    """`text` without control characters (colour codes, cursor jumps, direction marks); line breaks and tabs stay."""
    return "".join(char if char in "\n\t" or char.isprintable() else "\ufffd" for char in text)


def runner_up(route: Route) -> tuple[str, float] | None:
    """The best arm that was not chosen, with its score."""
    rest = [(name, score) for name, score in route.scores.items() if name not in route.arms]
    return max(rest, key=lambda pair: pair[1], default=None)


def why(route: Route) -> str:
    """The reason of a route in one sentence."""
    reason = route.reason
    if not route.arms:
        return f"nobody is asked: {reason.fallback or 'the policy abstains'}"
    first, note = route.arms[0], f", {reason.note}" if reason.note else ""
    if not route.scores:  # asked by name
        return reason.note or f"{first} was asked"
    best = max(route.scores, key=lambda name: (route.scores[name], name == first))
    if best != first:
        return f"{first}, though {best} scores higher{note}"
    if reason.fallback:
        return f"{first}: {reason.fallback}{note}"
    if not reason.skills:
        return f"{first} scores best{note}"
    skills = ", ".join(f"{name} {weight:.2f}" for name, weight in reason.skills[:3])
    return f"{first} has the best record on what the question needs ({skills}){note}"


def route_data(question: str, route: Route) -> dict[str, Any]:
    """A route as `coe route --json` prints it."""
    second = runner_up(route)
    best = route.scores.get(route.arms[0], 0.0) if route.arms else 0.0
    return {
        "question": question,
        "chosen": list(route.arms),
        "scores": {name: round(score, 4) for name, score in route.scores.items()},
        "runner_up": second[0] if second else None,
        "margin": round(best - second[1], 4) if second and route.arms else None,
        "skills": [{"name": name, "weight": round(weight, 4)} for name, weight in route.reason.skills],
        "nearest": [{"question": name, "similarity": round(close, 4)} for name, close in route.reason.nearest],
        "fallback": route.reason.fallback,
        "note": route.reason.note,
        "coverage": {
            "gap": route.reason.gap,
            "margin": route.reason.margin,
            "entropy": route.reason.entropy,
            "flags": list(route.reason.flags),
        },
        "why": why(route),
    }


def route_text(route: Route) -> str:
    """A route in one screen: chosen, runner-up, skills, every score, nearest profile questions, why."""
    if not route.scores:
        return printable(f"route    {', '.join(route.arms)}\nwhy      {route.reason.note or 'there is nobody else'}")
    second = runner_up(route)
    lines = ["route    " + (", ".join(f"{name} {route.scores[name]:.2f}" for name in route.arms) or "nobody")]
    if second and route.arms:
        lines[0] += f"  (runner-up {second[0]} {second[1]:.2f}, margin {route.scores[route.arms[0]] - second[1]:.2f})"
    lines.append(
        "skills   " + (", ".join(f"{name} {weight:.2f}" for name, weight in route.reason.skills) or "none found")
    )
    ranked = sorted(route.scores.items(), key=lambda pair: (-pair[1], pair[0]))
    width = max(len(name) for name in route.scores)
    for i, (name, score) in enumerate(ranked):
        mark = "*" if name in route.arms else " "
        bar = "#" * round(30 * max(0.0, min(1.0, score)))
        lines.append(f"{'scores' if i == 0 else '':9}{mark} {name:{width}}  {score:.2f}  {bar}".rstrip())
    if route.reason.nearest:
        near = ", ".join(f"{name} ({close:.2f})" for name, close in route.reason.nearest[:3])
        lines.append(f"nearest  {near}")
    if route.reason.gap is not None:
        flags = f": {', '.join(route.reason.flags)}" if route.reason.flags else ""
        lines.append(
            f"covered  p {route.reason.gap:.2f} of lying inside the profile, "
            f"neighbours' domains mixed {route.reason.entropy or 0.0:.2f}{flags}"
        )
    lines.append(f"why      {why(route)}")
    return printable("\n".join(lines))


def _reading(draft: Mapping[str, Any]) -> list[str]:
    """What a draft's arm was given to read, and which gate decided that it was, or was not."""
    lines = []
    if gate := draft.get("gate"):
        lines.append(
            f"gate     {gate['gate']}: reading adds {gate['gain']:+.2f} to the chance to be right and costs "
            f"{gate['cost']:.2f} s; a right answer is worth {gate['value']:g} s"
        )
    if read := draft.get("evidence"):
        used = [f"{name} (cited)" if name in read["cited"] else name for name in read["used"]]
        left = f"; left out, as they do not fit: {', '.join(read['dropped'])}" if read["dropped"] else ""
        told = f"nothing: {read['missing']}" if read["missing"] else ", ".join(used) or "nothing was found"
        lines.append(f"read     {told}{left}")
    return lines


def _contrast(draft: Mapping[str, Any]) -> list[str]:
    """What was taken off of what the arm says, and why."""
    if (one := draft.get("contrast")) is None:
        return []
    why = f"; {one['why']}" if one["why"] else ""
    return [f"less     {one['partner']} ({one['chosen']}), beta {one['beta']:g}, alpha {one['alpha']:g}{why}"]


def _persona(draft: Mapping[str, Any]) -> list[str]:
    """As whom the expert spoke, and why."""
    one = draft.get("persona")
    return [f"persona  {one['arm']}, as the question is {one['intent']}: {one['why']}"] if one else []


def outcome_of(call: Mapping[str, Any]) -> str:
    """What a program gave, or why it gave nothing."""
    return str(call["gave"]) if call["gave"] else f"nothing: {call['why']}"


def _strategy(draft: Mapping[str, Any]) -> list[str]:
    """The programs in a draft, and what they gave."""
    if (one := draft.get("strategy")) is None:
        return []
    lines = [f"strategy {one['use']}, {many(len(one['calls']), 'program was run', 'programs were run')}"]
    for call in one["calls"]:
        lines += [f"         > {line}" for line in call["program"].splitlines()]
        lines += [f"         = {line}" for line in outcome_of(call).splitlines()]
    if one["why"] and not (one["calls"] and one["calls"][-1]["why"] == one["why"]):
        lines.append(f"         no answer: {one['why']}")
    return lines


def many(count: int, one: str, more: str = "") -> str:
    """`count` of what is called `one`, or else `more` (by default with an s).

    >>> many(1, "load"), many(0, "load"), many(2, "query", "queries")
    ('1 load', '0 loads', '2 queries')
    """
    return f"{count} {one if count == 1 else more or one + 's'}"


def cost_of(told: Mapping[str, Any]) -> str:
    """What a draft cost."""
    return "from the store" if told["cached"] else f"{told['tokens_out']} tokens, {told['seconds']:.2f} s"


def unsplit(trace: Mapping[str, Any]) -> bool:
    """Whether a planner was asked and chose to leave the question whole."""
    return not trace.get("plan") and any(one["role"] == "plan" for one in trace.get("beside", ()))


def _planned(trace: Mapping[str, Any]) -> list[str]:
    """How the question was split, or that its planner left it whole."""
    plan: Mapping[str, Any] | None = trace.get("plan")
    if plan is None:
        return ["plan     the planner did not split the question"] if unsplit(trace) else []
    shown = f", shown {len(plan['like'])} plans that were right" if plan.get("like") else ""
    lines = [f"plan     by {plan['planner']}, {many(len(plan['steps']), 'step', 'steps')} taken{shown}"]
    for number, step in enumerate(plan["steps"], 1):
        lines += [f"         {number}. {step['asked']}", f"            {_answered(step)}"]
    if plan["why"]:
        lines.append(f"         not followed to its end, and the question asked as it stands: {plan['why']}")
    if plan.get("note"):
        lines.append(f"         {plan['note']}")
    return lines


def _answered(step: Mapping[str, Any]) -> str:
    return f"{step['chosen']}: {step['answer']}" if step["chosen"] else "nobody has an answer"


def _discussed(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was said before experts were asked again."""
    told = (", ".join(f"{one['name']}: {one['answer'] or 'no answer'}" for one in own["drafts"]) for own in rounds)
    return [f"before   {line}" for line in told]


def _beside(trace: Mapping[str, Any]) -> list[str]:
    """What everything cost that is no draft of an answer."""
    own = trace.get("beside", ())
    tokens = sum(one["tokens_out"] for one in own if not one["cached"])
    seconds = sum(one["seconds"] for one in own if not one["cached"])
    roles = ", ".join(dict.fromkeys(one["role"] for one in own))
    return (
        [f"beside   {many(len(own), 'call', 'calls')} ({roles}): {tokens} tokens, waited together {seconds:.2f} s"]
        if own
        else []
    )


def _merged(merge: Mapping[str, Any] | None) -> list[str]:
    """What was made of the drafts."""
    if merge is None:
        return []
    duels = [
        f"judge    {merge['by']}, in both orders: of {one} and {other} {won or 'neither'}"
        for one, other, won in merge.get("duels", ())
    ]
    by = [f"by       {merge['by']}: {merge['chosen']}"] if "chosen" in merge else []
    steps = [*duels, *_rated(merge), *_checked(merge), *_walked(merge)]
    if "why" in merge:
        return [*by, *steps, f"         {merge['why']}: left to the vote"] if steps else [*by, _not_asked(merge)]
    if steps:
        return [*by, *steps, *_wrote(merge)]
    said = merge["draft"] if merge["error"] is None else f"failed: {merge['error']}"
    lines = [f"merge    {merge['by']}:"]
    lines += [f"         | {line}" for line in said.strip().splitlines()]
    return [*by, *lines, *([f"         {left}"] if (left := left_of(merge)) else [])]


def _wrote(merge: Mapping[str, Any]) -> list[str]:
    """The text that the answer came from, where it is none of the drafts above."""
    if merge.get("role", "draft") == "draft" or merge.get("answer") is None:
        return []
    lines = [f"wrote    {merge['author']} ({merge['role']}), and that is the answer:"]
    return [*lines, *(f"         | {line}" for line in merge["draft"].strip().splitlines())]


def left_of(merge: Mapping[str, Any]) -> str:
    """Why what a merger wrote is not the answer; "" where it is."""
    if "why" in merge or merge.get("answer") is not None:
        return ""
    return f"{'it was cut off' if merge.get('stop') == 'length' else 'no answer could be read in it'}: left to the vote"


def _not_asked(merge: Mapping[str, Any]) -> str:
    return f"merge    {merge['by']} was not asked: {merge['why']}"


def _rated(merge: Mapping[str, Any]) -> list[str]:
    """What a scorer rated each answer."""
    lines = [
        f"score    {'-' if one['score'] is None else format(one['score'], '.2f')} by {merge['by']} for {one['arm']}: "
        f"{one['answer']} ({ratings_of(one)})"
        for one in merge.get("ratings", ())
    ]
    return [*lines, f"         {merge['note']}"] if lines and "note" in merge else lines


def ratings_of(rated: Mapping[str, Any]) -> str:
    """The ratings of a draft, question by question."""
    return " ".join("-" if one is None else str(one) for one in rated["ratings"])


def _checked(merge: Mapping[str, Any]) -> list[str]:
    """What a supervisor said of each draft, and what its author made of that."""
    lines = []
    for one in merge.get("tries", ()):
        lines.append(f"checked  {one['arm']}: {one['answer']}: {merge['by']} {found_of(one)}")
        if one["stands"] is not None:
            lines.append(f"         {author_of(one)} again: {revised_of(one)}")
    return lines


def found_of(checked: Mapping[str, Any]) -> str:
    """What a supervisor found."""
    if checked["right"] is None:
        return f"does not say whether that is right: {checked['remark']}"
    return "finds nothing wrong" if checked["right"] else f"finds it wrong: {checked['remark']}"


def author_of(checked: Mapping[str, Any]) -> str:
    """Who answered again: for an arm that writes programs its expert in prose. Traces of earlier versions do not say."""
    return str(checked.get("author") or checked["arm"])


def revised_of(checked: Mapping[str, Any]) -> str:
    """What an author said when asked again."""
    said = checked["revised"] or "no answer"
    return said if checked["stands"] else f"{said}; what was said before stands"


def _walked(merge: Mapping[str, Any]) -> list[str]:
    """The paths of a search, round by round."""
    return [
        f"path     round {one['round']}, {one['k']} at a time: {said_of(one)}; {one['answer'] or 'no answer'} is worth "
        f"{one['value']:.2f}{', kept' if one['kept'] else ''}"
        for one in merge.get("paths", ())
    ]


def said_of(walked: Mapping[str, Any]) -> str:
    """What the experts of a path said in a round."""
    return ", ".join(f"{arm}: {answer or 'no answer'}" for arm, answer in walked["said"])


def drafts_text(trace: Mapping[str, Any]) -> str:
    """The drafts of a trace: who said what, and what it cost."""
    lines = []
    for draft in trace["drafts"]:
        lines.append(f"draft    {draft['name']} ({cost_of(draft)}):")
        said = draft["draft"] if draft["error"] is None else f"failed: {draft['error']['message']}"
        lines += [f"         | {line}" for line in said.strip().splitlines()]
        lines += [*_strategy(draft), *_reading(draft), *_contrast(draft), *_persona(draft)]
    lines += [*_planned(trace), *_discussed(trace.get("discussed", ()))]
    lines += [*_merged(trace.get("merge")), *_beside(trace)]
    if trace["sure"] is not None:
        known = "calibrated on the profile" if trace["calibrated"] else "not calibrated"
        votes = f"; {100 * trace['agreement']:.0f} % of the drafts agree" if len(trace["drafts"]) > 1 else ""
        lines.append(f"sure     {trace['sure']:.2f} ({known}){votes}")
    if trace["marks"]:
        lines.append(f"marked   {', '.join(trace['marks'])}")
    lines.append(f"trace    {trace['trace_id']}")
    return printable("\n".join(lines))
