"""What the pages of figures are made of: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

STYLE = """
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
WIDE, HIGH, LEFT, DOWN = 640, 320, 56, 40


def document(title: str, intro: str, body: str) -> str:
    """A whole page; `intro` and `body` are HTML, `title` is text."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{intro}</p>{body}</body></html>\n"
    )


def points(gap: tuple[float, float, float] | None) -> str:
    """A paired difference and its interval, in points."""
    return "-" if gap is None else f"{100 * gap[0]:+.2f} [{100 * gap[1]:+.2f}, {100 * gap[2]:+.2f}]"


def heat(table: Mapping[str, Mapping[str, float]], corner: str) -> str:
    """Shares as a table of shaded cells, in per cent."""
    columns = sorted({name for row in table.values() for name in row})
    marks = [value for row in table.values() for value in row.values()]
    low, high = min(marks, default=0.0), max(marks, default=1.0)
    head = "".join(f"<th>{escape(name)}</th>" for name in (corner, *columns))
    body = []
    for arm, own in table.items():
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


def frame(inside: str, below: str, x: tuple[str, str], y: tuple[str, str]) -> str:
    """Axes with their ends named, around what is drawn `inside`."""
    floor, left = HIGH - DOWN, LEFT
    return (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" height="{HIGH}" role="img" aria-label="{escape(below)}">'
        f'<line class="axis" x1="{left}" y1="{floor}" x2="{WIDE - 20}" y2="{floor}"/>'
        f'<line class="axis" x1="{left}" y1="16" x2="{left}" y2="{floor}"/>'
        f'<text x="{left}" y="{floor + 16}">{x[0]}</text><text x="{WIDE - 20}" y="{floor + 16}" text-anchor="end">{x[1]}</text>'
        f'<text x="{(left + WIDE) / 2}" y="{floor + 32}" text-anchor="middle">{escape(below)}</text>'
        f'<text x="{left - 6}" y="{floor}" text-anchor="end">{y[0]}</text><text x="{left - 6}" y="24" text-anchor="end">{y[1]}</text>'
        f"{inside}</svg>"
    )


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """The straight line from [low, high] to [start, end]."""
    span = (high - low) or 1.0
    return lambda value: start + (end - start) * (value - low) / span
