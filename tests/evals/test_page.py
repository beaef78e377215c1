"""The page of `coe eval routers`, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from browser import opened

from composer.recorded import Recorded
from evals.report import write_page
from evals.routing import evaluate
from routers.testing import simulate
from routers.types import Arm

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_the_page_opens_without_an_error_and_names_stay_text(tmp_path: Path) -> None:
    questions, outcomes = simulate(300)
    arms = (Arm(HOSTILE), *outcomes.arms[1:])
    record = Recorded(
        ids=questions.ids,
        text=questions.text,
        benchmark=("sim",) * 300,
        category=tuple(own[0] for own in questions.skills),
        split=tuple("dev" if i // 3 % 3 == 0 else "profile" for i in range(300)),
        options=np.zeros(300, dtype=np.int64),
        outcomes=replace(outcomes, arms=arms, length=np.full(len(outcomes.score), 10)),
        voted=False,
    )
    report = evaluate(record, questions.vectors, group="sim")
    write_page(tmp_path / "page.html", HOSTILE, [report])

    with opened(tmp_path / "page.html", ("svg", "svg circle", "table.heat td", "script", "img")) as (page, seen):
        assert seen.errors == []
        assert seen.dialogs == []
        assert HOSTILE in seen.title
        assert seen.counts["svg"] == 2
        assert seen.counts["svg circle"] > 10
        assert seen.counts["table.heat td"] == len(arms) * 3
        assert seen.counts["script"] == seen.counts["img"] == 0
        assert HOSTILE in page.inner_text("body")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_browser_would_have_told_of_errors(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<title>bad</title><script>console.error('one'); throw new Error('two')</script>")

    with opened(page) as (_, seen):
        assert len(seen.errors) == 2
