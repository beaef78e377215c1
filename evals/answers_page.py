"""One page of figures about answers: what combining is worth, when to trust it, who agrees with whom, what is contested."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from composer.page import document
from evals.draw import DOWN, HIGH, LEFT, WIDE, frame, heat, points, scale

if TYPE_CHECKING:
    from evals.answers import AnswerReport, AnswerRow, Contested

_COLOURS = ("#667085", "#175cd3", "#b42318", "#067647", "#b54708", "#6938ef")


def answers_page(data: str, reports: Sequence[AnswerReport]) -> str:
    """The whole page as HTML. `data` names what was evaluated."""
    intro = (
        "Every way to ask, to stop and to combine was fitted on four fifths of the profile; per budget of calls one was "
        "chosen on the last fifth, before the test split was opened. Chosen rows are bold. Intervals: 95 %, paired "
        "bootstrap over questions."
    )
    return document(f"Answers on {data}", intro, "".join(map(_section, reports)))


def _section(report: AnswerReport) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)
    return (
        f"<h2>{escape(report.group)}: {report.rows[0].n} test questions</h2>{notes}{_table(report.rows)}"
        f"<h3>Risk and coverage</h3>{_curves(report)}"
        f"<h3>Share of questions on which two arms give the same answer</h3>{heat(dict(sorted(report.agreement.items())), 'arm')}"
        f"<h3>The most contested questions</h3>{''.join(map(_contested, report.contested))}"
    )


def _table(rows: Sequence[AnswerRow]) -> str:
    names = (
        "system",
        "accuracy",
        "to majority",
        "to best single",
        "calls",
        "cost",
        "surer half",
        "aurc",
        "ece",
        "caught",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    body = []
    for row in rows:
        cells = (
            f"{100 * row.accuracy:.2f} [{100 * row.low:.1f}, {100 * row.high:.1f}]",
            points(row.to_majority),
            points(row.to_best_single),
            _told(row.calls, ".2f"),
            _told(row.cost, ".4g"),
            _told(row.selective_50, ".1%"),
            _told(row.aurc, ".4f"),
            _told(row.ece, ".3f"),
            _told(row.caught_20, ".1%"),
        )
        kind = ' class="chosen"' if row.chosen else ""
        body.append(f"<tr{kind}><td>{escape(row.system)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _curves(report: AnswerReport) -> str:
    """The share wrong among the surest answers, over the share that is answered."""
    top = max((risk for curve in report.curves.values() for _, risk in curve), default=1.0) or 1.0
    x, y = scale(0, 1, LEFT, WIDE - 20), scale(0, top, HIGH - DOWN, 16)
    lines, legend = [], []
    for place, (name, curve) in enumerate(report.curves.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        path = " ".join(f"{x(covered):.1f},{y(risk):.1f}" for covered, risk in curve)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend.append(f'<li style="color:{colour}">{escape(name)}</li>')
    drawn = frame(
        "".join(lines), "share of questions answered, surest first", ("0 %", "100 %"), ("0 %", f"{100 * top:.0f} %")
    )
    return f'{drawn}<ul class="note">{"".join(legend)}</ul>'


def _contested(one: Contested) -> str:
    rows = "".join(
        f"<tr><td>{escape(arm)}</td><td>{escape(answer[:200])}</td><td>{'right' if right else 'wrong'}</td></tr>"
        for arm, answer, right in one.drafts
    )
    return (
        f"<details><summary>{escape(one.text[:160])}</summary><p>{escape(one.text[:2000])}</p>"
        f'<p class="note">what was taken is {escape(one.taken)}, {100 * one.sure:.0f} % sure</p>'
        f"<table><thead><tr><th>arm</th><th>answer</th><th></th></tr></thead><tbody>{rows}</tbody></table></details>"
    )
