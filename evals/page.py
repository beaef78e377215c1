"""One page of figures about routers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from composer.page import document
from evals.draw import DOWN, HIGH, LEFT, WIDE, frame, heat, points, scale

if TYPE_CHECKING:
    from evals.routing import Report, RoutingRow


def page(data: str, reports: Sequence[Report]) -> str:
    """The whole page as HTML. `data` names what was evaluated."""
    parts = [_section(report) for report in reports]
    intro = (
        "Every router was fitted on the profile split; per budget of calls one was chosen on a fifth of it that it had "
        "not seen, before the test split was opened. Chosen rows are bold. Intervals: 95 %, paired bootstrap over "
        "questions. All other rows are shown and were not chosen."
    )
    return document(f"Routers on {data}", intro, "".join(parts))


def _section(report: Report) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    return (
        f"<h2>{escape(report.group)}: {report.rows[0].n} test questions</h2>{notes}{_table(report.rows)}"
        f"<h3>Cost and quality</h3>{_front(report.rows)}"
        f"<h3>Accuracy per arm and category</h3>{heat(report.heat, 'arm')}"
        f"<h3>Stated and found probability of the chosen router's first arm</h3>{_reliability(report)}"
        f"{_gaps(report)}"
    )


def _table(rows: Sequence[RoutingRow]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "system",
            "accuracy",
            "interval",
            "to best single",
            "to category-best",
            "calls",
            "cost",
            "most asked",
        )
    )
    body = []
    for row in rows:
        most = max(row.shares.items(), key=lambda pair: pair[1], default=None)
        cells = (
            f"{100 * row.accuracy:.2f}",
            f"[{100 * row.low:.1f}, {100 * row.high:.1f}]",
            points(row.to_best_single),
            points(row.to_category_best),
            "-" if row.calls is None else f"{row.calls:.2f}",
            "-" if row.cost is None else f"{row.cost:.4g}",
            "-" if most is None else f"{escape(most[0])} {100 * most[1]:.0f} %",
        )
        kind = ' class="chosen"' if row.chosen else ""
        body.append(f"<tr{kind}><td>{escape(row.system)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _front(rows: Sequence[RoutingRow]) -> str:
    """Accuracy against cost; the line joins what nothing cheaper beats."""
    known = [row for row in rows if row.cost is not None and "hindsight" not in row.system]
    if not known:
        return '<p class="note">No cost is known.</p>'
    costs = [row.cost or 0.0 for row in known]
    marks = [row.accuracy for row in known]
    x = scale(min(costs), max(costs), LEFT, WIDE - 20)
    y = scale(min(marks), max(marks), HIGH - DOWN, 16)
    best, front = -1.0, []
    for row in sorted(known, key=lambda row: (row.cost or 0.0, -row.accuracy)):
        if row.accuracy > best:
            best = row.accuracy
            front.append(f"{x(row.cost or 0.0):.1f},{y(row.accuracy):.1f}")
    dots = "".join(
        f'<circle class="{"chosen" if row.chosen else "dot"}" cx="{x(row.cost or 0.0):.1f}" cy="{y(row.accuracy):.1f}" r="4">'
        f"<title>{escape(row.system)}: {100 * row.accuracy:.2f} % at {row.cost:.4g}</title></circle>"
        for row in known
    )
    return frame(
        f'<polyline class="front" points="{" ".join(front)}"/>{dots}',
        "cost per question",
        (f"{min(costs):.3g}", f"{max(costs):.3g}"),
        (f"{100 * min(marks):.1f} %", f"{100 * max(marks):.1f} %"),
    )


def _reliability(report: Report) -> str:
    x, y = scale(0, 1, LEFT, WIDE - 20), scale(0, 1, HIGH - DOWN, 16)
    dots = "".join(
        f'<circle class="dot" cx="{x(stated):.1f}" cy="{y(found):.1f}" r="5">'
        f"<title>stated {100 * stated:.1f} %, found {100 * found:.1f} % of {n}</title></circle>"
        for stated, found, n in report.reliability
    )
    line = f'<line class="axis" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>'
    told = f'<p class="note">Expected calibration error {100 * report.error:.1f} points.</p>'
    return frame(line + dots, "stated probability of being right", ("0 %", "100 %"), ("0 %", "100 %")) + told


def _gaps(report: Report) -> str:
    if not report.gaps:
        return ""
    rows = "".join(
        f"<tr><td>{escape(gap.domain)}</td><td>{gap.n}</td><td>{100 * gap.recall:.0f} %</td><td>{100 * gap.false_alarms:.1f} %</td></tr>"
        for gap in report.gaps
    )
    return (
        "<h3>Coverage alarm on a domain left out of the profile</h3><table><thead><tr><th>domain</th><th>questions</th>"
        f"<th>recall</th><th>false alarms</th></tr></thead><tbody>{rows}</tbody></table>"
    )
