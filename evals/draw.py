"""What the pages of figures are made of: no script, nothing fetched, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

WIDE, HIGH, LEFT, DOWN = 640, 320, 56, 40


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
