"""Outcomes out of runs: what the store's answers were worth, for questions whose right answer is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from composer.answers.trust import Alarm, dissociated
from composer.errors import InputError
from composer.jsonl import Labelled
from composer.marks import alike, check_programs, mark
from composer.recorded import Recorded
from composer.state import lettered
from composer.traced import said_of
from routers.types import Arm, Outcomes


def from_runs(
    traces: Sequence[Mapping[str, Any]],
    labelled: Sequence[Labelled],
    prices: Mapping[str, float] | None = None,
    *,
    run_code: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> Recorded:
    """The outcomes of the experts that runs asked, without asking anybody again.

    `traces` are what the store keeps of answered questions (`DraftStore.traces`); a question is known by its text. Cells
    that no run asked stay unobserved; the same arm asked again with the same sample counts once. A draft that failed
    says nothing about its arm, one that was cut off or holds no answer is wrong. A draft that a contrast was put onto says
    nothing about the arm as it is: it is left out, and `say` hears how many were; an arm that was asked by the name of its
    contrast is an arm of its own; a draft that spoke as a persona is left out likewise, and so is one that answers the last step of a
    plan, or was written in a discussion. `prices` are per arm; `run_code` allows
    that programs are run here against their tests. Raises InputError when no run asked any of the questions, or one that
    was asked wants a program, and programs may not or cannot be run.
    """
    place = {item.question.text: i for i, item in enumerate(labelled)}
    cells: dict[tuple[int, str, int], Mapping[str, Any]] = {}
    contrasted: Counter[str] = Counter()
    for trace in traces:
        row = place.get(str(trace["question"]))
        for draft in trace["drafts"] if row is not None and not _helped(trace) else ():
            if row is None or draft["error"] is not None:
                continue
            if "persona" in draft or draft.get("contrast", {}).get("why"):  # it has one that its name does not say
                contrasted[str(draft["name"])] += 1
            else:
                cells.setdefault((row, str(draft["name"]), int(draft["sample"])), draft)
    if contrasted:
        told = ", ".join(f"{count} of {arm}" for arm, count in sorted(contrasted.items()))
        say(
            f"drafts that were decoded with a contrast or as a persona say nothing about the expert as it is, and are left out: {told}"
        )
    if not cells:
        all_of_them = " as they are: all drafts have a contrast or a persona" if contrasted else ""
        raise InputError(
            f"no run in the store asked any of these questions{all_of_them}",
            remedy="answer them with `coe run`, or use `coe profile`",
        )
    check_programs([labelled[row] for row, _, _ in cells], "the labelled questions", run_code=run_code)
    marks = {
        cell: mark(labelled[cell[0]], said_of(draft), draft["stop"] == "stop", run_code=run_code)
        for cell, draft in cells.items()
    }
    cells = {cell: draft for cell, draft in cells.items() if marks[cell][1] is not None}
    of_row: dict[int, list[tuple[int, str, int]]] = {}
    for cell in cells:
        of_row.setdefault(cell[0], []).append(cell)
    said: dict[tuple[int, str, int], str | None] = {}
    for row, own in of_row.items():
        said.update(zip(own, alike(labelled[row], [marks[cell][0] for cell in own]), strict=True))
    names = sorted({arm for _, arm, _ in cells})
    known = prices or {}
    return Recorded(
        ids=tuple(item.question.id for item in labelled),
        text=tuple(lettered(item.question.text, item.question.choices) for item in labelled),
        benchmark=("runs",) * len(labelled),
        category=tuple(item.task or "" for item in labelled),
        split=tuple(item.split or "profile" for item in labelled),
        options=np.array([len(item.question.choices) for item in labelled], dtype=np.int64),
        outcomes=Outcomes(
            arms=tuple(Arm(name, known.get(name, 1.0)) for name in names),
            question=np.array([row for row, _, _ in cells], dtype=np.int64),
            arm=np.array([names.index(arm) for _, arm, _ in cells], dtype=np.int64),
            score=np.array([marks[cell][1] for cell in cells], dtype=np.float32),
            sample=np.array([sample for _, _, sample in cells], dtype=np.int64),
            answer=tuple(said[cell] for cell in cells),
            length=np.array([len(str(draft["draft"])) for draft in cells.values()], dtype=np.int64),
            cost=np.full(len(cells), np.nan, dtype=np.float32),
        ),
        voted=True,
    )


def _helped(trace: Mapping[str, Any]) -> bool:
    """Whether the drafts of a trace are no answers of experts to the question as it stands: they answer the last step of a plan
    that was followed, or had seen what others said."""
    plan = trace.get("plan")
    return bool(trace.get("discussed")) or (plan is not None and not plan["why"])


def audit(
    traces: Sequence[Mapping[str, Any]], labelled: Sequence[Labelled], *, run_code: bool = False
) -> tuple[Alarm, ...]:
    """The experts whose answers in runs were sure and wrong in a domain (`dissociated`), by questions whose right answer is
    known; answers that were withheld, or whose confidence is not calibrated, do not count. The window goes over `traces`
    in their order, oldest first."""
    place = {item.question.text: item for item in labelled}
    last: dict[tuple[str, str], tuple[str, str | None, float, float]] = {}  # of a question asked again the newest
    for trace in traces:
        item = place.get(str(trace["question"]))
        if item is not None and trace.get("calibrated") and trace["sure"] is not None and trace["chosen"]:
            _, worth = mark(item, str(trace["answer"]), True, run_code=run_code)
            if worth is not None:
                skills = trace["route"]["reason"]["skills"]
                name = (str(trace["question"]), str(trace["chosen"]))
                last.pop(name, None)
                last[name] = (name[1], str(skills[0][0]) if skills else None, trace["sure"], worth)
    if not last:
        return ()
    arms, domains, sure, right = zip(*last.values(), strict=True)
    return dissociated(arms, domains, np.array(sure, dtype=np.float64), np.array(right, dtype=np.float64))
