"""The common form of all evaluations: rows as JSON for programs, as a table for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from composer.jsonl import write_atomic
from evals.answers_page import answers_page
from evals.draw import points
from evals.metrics import Gap, Row
from evals.page import page

if TYPE_CHECKING:
    from evals.answers import AnswerReport, AnswerRow
    from evals.routing import Report, RoutingRow


def write_json(path: Path, command: str, data: str, rows: Sequence[Row], **more: object) -> None:
    """Write `{"command", "data", "rows"}`, and what one command tells beyond rows."""
    with write_atomic(path) as file:
        json.dump({"command": command, "data": data, "rows": [asdict(row) for row in rows], **more}, file, indent=1)
        file.write("\n")


def routing_table(rows: Sequence[RoutingRow]) -> Iterator[str]:
    """One line per system of one group; `*` marks what was chosen before the test split was opened."""
    width = max(len(row.system) for row in rows) + 2
    head = f"{'system':{width}}{'accuracy':>9}{'interval':>15}{'to best single':>24}{'to category-best':>24}"
    yield f"{head}{'calls':>7}{'cost':>11}{'ms/query':>10}"
    for row in rows:
        interval = f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
        calls = "-" if row.calls is None else f"{row.calls:.2f}"
        cost = "-" if row.cost is None else f"{row.cost:.4g}"
        spent = "-" if row.decision_seconds is None else f"{1000 * row.decision_seconds:.3f}"
        name = row.system + (" *" if row.chosen else "")
        yield (
            f"{name:{width}}{100 * row.accuracy:9.2f}{interval:>15}{points(row.to_best_single):>24}"
            f"{points(row.to_category_best):>24}{calls:>7}{cost:>11}{spent:>10}"
        )


def answers_table(rows: Sequence[AnswerRow]) -> Iterator[str]:
    """One line per plan of one group; `*` marks what was chosen before the test split was opened."""
    width = max(len(row.system) for row in rows) + 2
    yield (
        f"{'system':{width}}{'accuracy':>9}{'interval':>15}{'to majority':>24}{'to best single':>24}{'calls':>7}"
        f"{'cost':>11}{'half':>7}{'aurc':>8}{'ece':>7}{'caught':>8}"
    )
    for row in rows:
        interval = f"[{100 * row.low:.1f}, {100 * row.high:.1f}]"
        name = row.system + (" *" if row.chosen else "")
        yield (
            f"{name:{width}}{100 * row.accuracy:9.2f}{interval:>15}{points(row.to_majority):>24}"
            f"{points(row.to_best_single):>24}{_told(row.calls, 7, '.2f')}{_told(row.cost, 11, '.4g')}"
            f"{_told(row.selective_50, 7, '.1%')}{_told(row.aurc, 8, '.4f')}{_told(row.ece, 7, '.3f')}"
            f"{_told(row.caught_20, 8, '.1%')}"
        )


def _told(value: float | None, width: int, form: str) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}{form}}"


def write_page(path: Path, data: str, reports: Sequence[Report]) -> None:
    """Write the figures of `coe eval routers` as one HTML file."""
    with write_atomic(path) as file:
        file.write(page(data, reports))


def write_answers_page(path: Path, data: str, reports: Sequence[AnswerReport]) -> None:
    """Write the figures of `coe eval answers` as one HTML file."""
    with write_atomic(path) as file:
        file.write(answers_page(data, reports))


def table(rows: Sequence[Row], groups: Sequence[str]) -> Iterator[str]:
    """Accuracy in per cent per system and group, the interval below 'all'; `*` marks what was fixed beforehand."""
    systems = list(dict.fromkeys(row.system for row in rows))
    cells = {(row.system, row.group): row for row in rows}
    width = max(len(name) for name in systems) + 2
    yield (
        f"{'system':{width}}"
        + "".join(f"{group:>14}" for group in groups)
        + f"{'interval':>15}{'calls':>7}{'tokens':>8}{'seconds':>9}"
    )
    for system in systems:
        found = [cells.get((system, group)) for group in groups]
        last = next(row for row in reversed(found) if row is not None)
        name = system + (" *" if last.chosen else "")
        values = "".join(f"{100 * row.accuracy:14.1f}" if row else f"{'-':>14}" for row in found)
        interval = f"[{100 * last.low:.1f}, {100 * last.high:.1f}]"
        calls = "-" if last.calls is None else f"{last.calls:.1f}"
        tokens = "-" if last.tokens is None else f"{last.tokens:.0f}"
        seconds = "-" if last.seconds is None else f"{last.seconds:.2f}"
        yield f"{name:{width}}{values}{interval:>15}{calls:>7}{tokens:>8}{seconds:>9}"


def gaps(found: Sequence[Gap]) -> Iterator[str]:
    """A line per comparison, in points."""
    width = max(len(gap.other) for gap in found)
    for gap in found:
        interval = f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]"
        yield f"{gap.system} - {gap.other:{width}} {100 * gap.mean:+6.1f}  {interval}"
