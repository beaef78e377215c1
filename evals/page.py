"""One page of figures about routers: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evals.routing import Report, RoutingRow

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2433;--dim:#667085;--line:#d0d5dd;--mark:#b42318;--dot:#175cd3;--back:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7ec;--dim:#98a2b3;--line:#344054;--mark:#f97066;--dot:#84adff;--back:#0c111d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem}h3{font-size:1rem;margin:1.5rem 0 .3rem}p{max-width:46rem}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}tr.chosen{font-weight:600}
.wide{overflow-x:auto}.note{color:var(--dim)}svg{max-width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--dim)}svg .chosen{fill:var(--mark)}svg .dot{fill:var(--dot)}
svg .axis{stroke:var(--line)}svg .front{stroke:var(--dot);fill:none;stroke-dasharray:4 3}.heat td{color:#101828}
"""
_WIDE, _HIGH, _LEFT, _DOWN = 640, 320, 56, 40


def page(data: str, reports: Sequence[Report]) -> str:
    """The whole page as HTML. `data` names what was evaluated."""
    parts = [_section(report) for report in reports]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>Routers on {escape(data)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Routers on {escape(data)}</h1>"
        "<p>Every router was fitted on the profile split; per budget of calls one was chosen on a fifth of it that it had "
        "not seen, before the test split was opened. Chosen rows are bold. Intervals: 95 %, paired bootstrap over "
        "questions. All other rows are shown and were not chosen.</p>" + "".join(parts) + "</body></html>\n"
    )


def _section(report: Report) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    return (
        f"<h2>{escape(report.group)}: {report.rows[0].n} test questions</h2>{notes}{_table(report.rows)}"
        f"<h3>Cost and quality</h3>{_front(report.rows)}"
        f"<h3>Accuracy per arm and category</h3>{_heat(report)}"
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
            _points(row.to_best_single),
            _points(row.to_category_best),
            "-" if row.calls is None else f"{row.calls:.2f}",
            "-" if row.cost is None else f"{row.cost:.4g}",
            "-" if most is None else f"{escape(most[0])} {100 * most[1]:.0f} %",
        )
        kind = ' class="chosen"' if row.chosen else ""
        body.append(f"<tr{kind}><td>{escape(row.system)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _points(gap: tuple[float, float, float] | None) -> str:
    return "-" if gap is None else f"{100 * gap[0]:+.2f} [{100 * gap[1]:+.2f}, {100 * gap[2]:+.2f}]"


def _front(rows: Sequence[RoutingRow]) -> str:
    """Accuracy against cost; the line joins what nothing cheaper beats."""
    known = [row for row in rows if row.cost is not None and "hindsight" not in row.system]
    if not known:
        return '<p class="note">No cost is known.</p>'
    costs = [row.cost or 0.0 for row in known]
    marks = [row.accuracy for row in known]
    x = _scale(min(costs), max(costs), _LEFT, _WIDE - 20)
    y = _scale(min(marks), max(marks), _HIGH - _DOWN, 16)
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
    return _frame(
        f'<polyline class="front" points="{" ".join(front)}"/>{dots}',
        "cost per question",
        (f"{min(costs):.3g}", f"{max(costs):.3g}"),
        (f"{100 * min(marks):.1f} %", f"{100 * max(marks):.1f} %"),
    )


def _reliability(report: Report) -> str:
    x, y = _scale(0, 1, _LEFT, _WIDE - 20), _scale(0, 1, _HIGH - _DOWN, 16)
    dots = "".join(
        f'<circle class="dot" cx="{x(stated):.1f}" cy="{y(found):.1f}" r="5">'
        f"<title>stated {100 * stated:.1f} %, found {100 * found:.1f} % of {n}</title></circle>"
        for stated, found, n in report.reliability
    )
    line = f'<line class="axis" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>'
    told = f'<p class="note">Expected calibration error {100 * report.error:.1f} points.</p>'
    return _frame(line + dots, "stated probability of being right", ("0 %", "100 %"), ("0 %", "100 %")) + told


def _heat(report: Report) -> str:
    columns = sorted({name for row in report.heat.values() for name in row})
    marks = [value for row in report.heat.values() for value in row.values()]
    low, high = min(marks, default=0.0), max(marks, default=1.0)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("arm", *columns))
    body = []
    for arm, own in report.heat.items():
        cells = []
        for name in columns:
            value = own.get(name)
            shade = 0.0 if value is None or high <= low else (value - low) / (high - low)
            cells.append(
                f'<td style="background:hsl({40 + 100 * shade:.0f} 65% {88 - 30 * shade:.0f}%)">'
                f"{'-' if value is None else f'{100 * value:.0f}'}</td>"
            )
        body.append(f"<tr><th>{escape(arm)}</th>{''.join(cells)}</tr>")
    return f'<div class="wide"><table class="heat"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


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


def _frame(inside: str, below: str, x: tuple[str, str], y: tuple[str, str]) -> str:
    floor, left = _HIGH - _DOWN, _LEFT
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" width="{_WIDE}" height="{_HIGH}" role="img" aria-label="{escape(below)}">'
        f'<line class="axis" x1="{left}" y1="{floor}" x2="{_WIDE - 20}" y2="{floor}"/>'
        f'<line class="axis" x1="{left}" y1="16" x2="{left}" y2="{floor}"/>'
        f'<text x="{left}" y="{floor + 16}">{x[0]}</text><text x="{_WIDE - 20}" y="{floor + 16}" text-anchor="end">{x[1]}</text>'
        f'<text x="{(left + _WIDE) / 2}" y="{floor + 32}" text-anchor="middle">{escape(below)}</text>'
        f'<text x="{left - 6}" y="{floor}" text-anchor="end">{y[0]}</text><text x="{left - 6}" y="24" text-anchor="end">{y[1]}</text>'
        f"{inside}</svg>"
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The straight line from [low, high] to [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / span
