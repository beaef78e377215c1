"""`coe eval live` for people: a table per group, its notes, and what the columns mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evals.live import TIMED, LiveRow, Report
from evals.live_systems import VOTE
from evals.metrics import Gap

LEGEND = (
    "* the best single expert on calibration. to single, to vote: points more often right than that expert and than the vote of three,",
    "with paired 95 % intervals, each for itself. calls and tokens (read and written) per question; sec: seconds of its drafts, eight at",
    f"a time; loads and wall (seconds): of the first {TIMED} questions, with nothing in the store and no model open.",
)


def lines(report: Report) -> Iterator[str]:
    """The tables."""
    for group, notes in report.notes.items():
        own = [one for one in report.rows if one.group == group]
        if own:
            yield f"{group} ({own[0].n} questions)"
            yield from _table(own, report.gaps[group])
            yield from _others(own, report.gaps[group])
            yield from _tasks(group, report.rows)
        else:
            yield group
        yield from (f"  {note}" for note in notes)
        yield ""
    yield from LEGEND


def _table(own: Sequence[LiveRow], gaps: Sequence[Gap]) -> Iterator[str]:
    single = next(one.system for one in own if one.chosen)
    gains = {(one.system, one.other): _points(one) for one in gaps}
    width = max(len(one.system) for one in own) + 4
    yield (
        f"  {'system':{width}}{'accuracy':>9}{'interval':>15}{'to single':>22}{'to vote':>22}"
        f"{'calls':>7}{'tokens':>8}{'sec':>7}{'loads':>7}{'wall':>7}"
    )
    for one in own:
        name = one.system + (" *" if one.chosen else "")
        first, second = (gains.get((one.system, other), "-") for other in (single, VOTE))
        interval = f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
        loads, wall = ("-" if one.loads is None else f"{one.loads}"), ("-" if one.wall is None else f"{one.wall:.1f}")
        yield (
            f"  {name:{width}}{100 * one.accuracy:9.1f}{interval:>15}{first:>22}{second:>22}"
            f"{one.calls or 0:7.1f}{one.tokens or 0:8.1f}{one.seconds or 0:7.2f}{loads:>7}{wall:>7}"
        )


def _others(own: Sequence[LiveRow], gaps: Sequence[Gap]) -> Iterator[str]:
    """What systems with programs gain over the best single arm, where that is one that answers by programs."""
    shown = {VOTE, *(one.system for one in own if one.chosen)}
    for one in gaps:
        if one.other not in shown and "program" in one.system:
            yield f"  {one.system} to {one.other}: {_points(one)}"


def _tasks(group: str, rows: Sequence[LiveRow]) -> Iterator[str]:
    """Accuracy by task, where there are several."""
    tasks = list(dict.fromkeys(one.group for one in rows if one.group.startswith(f"{group}: ")))
    if not tasks:
        return
    own = [one for one in rows if one.group in tasks]
    width = max(len(one.system) for one in own) + 4
    names = [task.partition(": ")[2] for task in tasks]
    wide = max(map(len, names)) + 2
    yield f"  {'accuracy by task':{width}}" + "".join(f"{name:>{wide}}" for name in names)
    for system in dict.fromkeys(one.system for one in own):
        by_task = {one.group: one for one in own if one.system == system}
        yield f"  {system:{width}}" + "".join(f"{100 * by_task[task].accuracy:{wide}.1f}" for task in tasks)


def _points(one: Gap) -> str:
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
