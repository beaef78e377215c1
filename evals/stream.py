"""Does a planner get better by what came of its plans? A stream of questions with and without feedback: half of them of a form that its
lessons show with examples only (two sums in turn), a quarter of two forms that no lesson shows, a quarter as taught.

`python -m evals.stream` prints the table. Both planners see the same questions in the same order and are charged for every call; the one
with feedback is shown plans that were right before, and after a wrong one may try two others (`composer.fitting.plans`). What counts is
its first try.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np

from composer.command.kit import say as note
from composer.config import load_settings, packaged_registry
from composer.fitting.plans import BATCH, Learner, Tried
from composer.jsonl import Labelled, Question
from composer.pipeline import Pipeline
from composer.settings.specs import Settings
from evals.live import Ran, Spent, ran
from evals.live_systems import PLANNED, VOTE, name_of, with_systems
from evals.metrics import Gap, Result, Row, gap, row
from evals.report import write_json
from evals.tasks.skills import items
from evals.tasks.twoskill import twoskill
from evals.tasks.twoskill_new import CHAIN, NEW, teach

FEEDBACK, ALONE = "planned with feedback", "planned without"
SEED = 5
WHOLE, EXAMPLES, LATER, NEVER = (
    "all",
    "taught with examples only",
    "taught with examples only, second half",
    "never taught",
)


@dataclass(frozen=True, slots=True)
class Report:
    """Rows by group, and what feedback gains there."""

    rows: tuple[Row, ...]
    gaps: dict[str, tuple[Gap, ...]]
    remembered: int


def stream(n: int) -> list[Labelled]:
    """About `n` questions in a random order."""
    new = [lesson.item for lesson in teach(CHAIN, "test", n // 2, SEED)]
    new += [lesson.item for form in NEW for lesson in teach(form, "test", n // 8, SEED)]
    known = [*twoskill("test", n // 8, SEED), *items("arithmetic", "test", n // 8, SEED)]
    made = [*new, *known]
    Random(SEED).shuffle(made)
    return [Labelled(Question(one.id, one.question, (), one.kind, 1), one.answer, one.task, one.split) for one in made]


def measure(settings: Settings, n: int, folder: Path, say: Callable[[str], None]) -> Report:
    """Both planners on the stream, and the experts and the vote beside them. Raises InputError where no expert writes plans."""
    asked = stream(n)
    found: list[Ran] = []
    with Pipeline(settings, store=folder / "stream.sqlite", say=say) as pipeline:
        learner, alone = (Learner(pipeline, name_of(PLANNED)) for _ in range(2))
        first: list[Tried] = []
        plain: list[Tried] = []
        spent, spent_alone = Spent(), Spent()
        more = 0
        for at in range(0, len(asked), BATCH):
            part = asked[at : at + BATCH]
            pipeline.listen(spent)
            tried, others = pipeline.complete(learner.learn(part, f"stream-{at}"))
            pipeline.listen(spent_alone)
            plain += pipeline.complete(alone.attempt(part, [()] * len(part), f"plain-{at}"))
            first += tried
            more += len(others)
            say(
                f"{len(first)} of {n}: {sum(one.right for one in first):g} right with feedback, {sum(one.right for one in plain):g} without"
            )
        say(f"{more} other plans were tried, {len(learner.memory)} are remembered")
        for name, arm in settings.arms.items():
            found.append(pipeline.complete(ran(pipeline, arm.name, name, asked)))
        found.append(pipeline.complete(ran(pipeline, name_of(VOTE), VOTE, asked)))
    systems = [*(one.result for one in found), _result(ALONE, plain, spent_alone), _result(FEEDBACK, first, spent)]
    places = [place for place, one in enumerate(asked) if one.task == CHAIN]
    never = [place for place, one in enumerate(asked) if one.task in NEW]
    groups = {WHOLE: list(range(len(asked))), EXAMPLES: places, LATER: places[len(places) // 2 :], NEVER: never}
    rows = tuple(row(one, group, at) for group, at in groups.items() for one in systems)
    gaps = {group: tuple(gap(systems[-1], one, at) for one in systems[:-1]) for group, at in groups.items()}
    return Report(rows, gaps, len(learner.memory))


def _result(name: str, tried: Sequence[Tried], spent: Spent) -> Result:
    return Result(name, np.array([one.right for one in tried]), *spent.columns([one.id for one in tried]))


def lines(report: Report) -> Iterator[str]:
    """For people."""
    for group, gaps in report.gaps.items():
        own = [one for one in report.rows if one.group == group]
        gains = {one.other: f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]" for one in gaps}
        yield f"{group} ({own[0].n} questions): right at the first try, and what feedback gains (points, paired 95 % intervals)"
        for one in own:
            interval = f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
            costs = f"{one.calls or 0:6.1f} calls{one.tokens or 0:8.0f} tokens"
            yield f"  {one.system:24}{100 * one.accuracy:7.1f}{interval:>15}{gains.get(one.system, '-'):>22}{costs}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m evals.stream", description=__doc__)
    parser.add_argument("--n", type=int, default=192)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    base = load_settings(packaged_registry())
    planner = next(name for name, expert in base.experts.items() if expert.writes == "plans")
    with TemporaryDirectory() as folder:
        report = measure(with_systems(base, base.generalist.name, planner), given.n, Path(folder), note)
    sys.stdout.write("\n".join(lines(report)) + "\n")
    if given.json:
        gaps = {group: [asdict(one) for one in found] for group, found in report.gaps.items()}
        write_json(given.json, "eval stream", f"{given.n} questions", report.rows, gaps=gaps)


if __name__ == "__main__":
    main()
