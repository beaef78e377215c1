"""What measuring an arm takes beside asking it: what it is given to read, and the programs that it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from composer.answers.extract import infer_kind
from composer.errors import PassageError
from composer.stages.kit import Arms, Encoder, Finder
from composer.state import Query
from composer.types import Draft, Request

if TYPE_CHECKING:
    from composer.answers.sandbox import Sandbox
    from composer.answers.strategies import Worked
    from composer.jsonl import Labelled
    from composer.pool.pool import Pool
    from composer.settings.strategy import Limits


async def worked_out(
    items: Sequence[Labelled],
    requests: Mapping[str, tuple[int, Request]],
    drafts: dict[str, Draft],
    registry: Arms,
    pool: Pool,
    sandbox: Callable[[Limits], Sandbox],
) -> dict[str, Worked]:
    """What became of the drafts of arms with a strategy, by request; `drafts` has the last of each afterwards."""
    from composer.stages.asking import asking  # noqa: PLC0415
    from composer.stages.running import Written, run_all  # noqa: PLC0415

    written = {}
    for name, (row, request) in requests.items():
        question, spec = items[row].question, registry.strategy(request.arm)
        kind = question.kind or infer_kind(items[row].answer, question.choices)
        if spec is not None and kind != "code":
            query = Query(str(row), question.text, question.choices)
            written[name] = Written(query, request.arm, spec, drafts[name], kind)
    attempts = await run_all(registry, asking(pool), sandbox, list(written.values())) if written else []
    for name, attempt in zip(written, attempts, strict=True):
        drafts[name] = attempt.draft
    return {name: attempt.worked for name, attempt in zip(written, attempts, strict=True)}


async def given(
    items: Sequence[Labelled],
    arms: Sequence[str],
    registry: Arms,
    passages: Callable[[Path], Finder],
    pool: Pool,
    embed: Callable[[], Encoder],
) -> dict[tuple[int, str], str]:
    """What each arm that reads is given for each question, by row and arm. Raises PassageError where it cannot be looked
    up, or nobody wrote any: a record without it would be of another arm."""
    from composer.stages.asking import asking  # noqa: PLC0415
    from composer.stages.retrieve import read  # noqa: PLC0415

    places = [(row, arm) for row in range(len(items)) for arm in arms if registry.evidence(arm) is not None]
    questions = [items[row].question for row, _ in places]
    asked = [
        (arm, Query(str(row), question.text, question.choices))
        for (row, arm), question in zip(places, questions, strict=True)
    ]
    found = dict(zip(places, await read(registry, asking(pool), embed, passages, asked), strict=True)) if asked else {}
    for evidence in found.values():
        if evidence.missing is not None:
            raise PassageError(f"nothing can be looked up: {evidence.missing}", remedy="coe index search")
    return {place: evidence.text for place, evidence in found.items()}
