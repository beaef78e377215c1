"""How many calls the stages of a pipeline may make beside the drafts of `generate`, at most."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.answers.capabilities import CAPABILITIES
from composer.answers.search import first_paths, widths
from composer.planning.plan import MOST
from composer.plugins import load
from composer.settings.specs import StageSpec

_PLAN = "plan"


def most_calls(steps: Sequence[StageSpec], drafts: int, asked: int, arms: int) -> dict[str, int]:
    """Per stage of `steps` the calls that it may make for one question, an upper bound: as if no two answers agreed, nothing were sure,
    and every round went to its end. `drafts` are those that `generate` may have drawn of the question, from `asked` arms, of the
    `arms` there are. Stages that make none, and those of other packages, are left out."""
    found: dict[str, int] = {}
    for step in steps:
        if step.use not in _CALLS:
            continue
        told = {**_defaults(load("stages", step.use)), **step.options}
        calls = _CALLS[step.use](told, drafts, asked, arms)
        found[step.use] = found.get(step.use, 0) + calls
        if step.use == "discuss":
            drafts, asked = (
                max(drafts, min(int(told["k"]), arms)),
                arms,
            )  # what stands after it, and who may have been asked
    if _PLAN in found:  # each of its steps goes through all that follows as a question of its own
        found[_PLAN] += MOST * (drafts + sum(calls for name, calls in found.items() if name != _PLAN))
    return found


def _defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """The options of a stage as they are where the registry says nothing."""
    return {name: own.default for name, own in inspect.signature(factory).parameters.items()}


def _plan(_told: Mapping[str, Any], _drafts: int, _asked: int, _arms: int) -> int:
    return 1  # the plan itself


def _discuss(told: Mapping[str, Any], _drafts: int, _asked: int, arms: int) -> int:
    return int(told["rounds"]) * min(int(told["k"]), arms)


def _judge(told: Mapping[str, Any], drafts: int, _asked: int, _arms: int) -> int:
    answers = min(int(told["most"]), drafts)
    return answers * (answers - 1)  # every two, in both orders


def _merge(_told: Mapping[str, Any], drafts: int, _asked: int, _arms: int) -> int:
    return int(drafts > 1)


def _score(told: Mapping[str, Any], drafts: int, _asked: int, _arms: int) -> int:
    lists = {**CAPABILITIES, **(told["questions"] or {})}
    return min(int(told["most"]), drafts) * max(map(len, lists.values())) if drafts > 1 else 0


def _refine(told: Mapping[str, Any], drafts: int, _asked: int, _arms: int) -> int:
    return 2 * int(told["tries"]) if drafts else 0


def _search(told: Mapping[str, Any], _drafts: int, asked: int, arms: int) -> int:
    """Later rounds may all go on with the widest paths; a verifier sees at most an answer per path and round."""
    paths, rounds = int(told["paths"]), int(told["rounds"])
    among = widths(asked, arms)
    first = sum(path.k for path in first_paths(paths, among, asked))
    return first + (rounds - 1) * paths * max(among) + (rounds * paths if told["by"] is not None else 0)


_CALLS: dict[str, Callable[[Mapping[str, Any], int, int, int], int]] = {
    _PLAN: _plan,
    "discuss": _discuss,
    "judge": _judge,
    "merge": _merge,
    "score": _score,
    "refine": _refine,
    "search": _search,
}
