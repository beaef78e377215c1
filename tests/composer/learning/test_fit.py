"""`coe fit router`: learnt, tested, installed only if it is better."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from crashes import crash_at
from typer.testing import CliRunner

from composer.cli import app
from composer.errors import InputError
from composer.learning.router import Fitted, fit_router, install, installed_router, outcomes_of
from composer.pipeline import Pipeline
from composer.places import router_folder
from composer.profile import find_profile
from composer.registry.experts import Registry
from routers.baselines import BestSingle
from routers.coverage import CoveredRouter
from routers.errors import RouterError
from routers.family import PLAIN, prefer
from routers.testing import GENERALIST, simulate


def test_a_router_that_helps_is_installed() -> None:
    fitted = fit_router(*simulate(400))

    assert fitted.installed == fitted.tested != PLAIN
    assert fitted.difference[1] > 0
    assert "installed: " + fitted.installed in list(fitted.lines())


def test_the_guard_tests_the_router_as_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every question taken for one outside the profile the generalist answers all: as good as the best single arm."""
    monkeypatch.setattr("composer.learning.router.CoveredRouter", partial(CoveredRouter, alarm=1.1))

    fitted = fit_router(*simulate(400), generalist=GENERALIST)

    assert fitted.tested != PLAIN
    assert fitted.difference == (0.0, 0.0, 0.0)
    assert fitted.installed == PLAIN


def test_where_questions_say_nothing_the_best_single_arm_stays() -> None:
    questions, outcomes = simulate(400)
    turned = np.random.default_rng(1).permutation(400)

    fitted = fit_router(questions, replace(outcomes, question=turned[outcomes.question]))

    assert fitted.installed == PLAIN
    assert isinstance(fitted.router, BestSingle)
    assert "best-single" in list(fitted.lines())[-1]


def test_better_at_a_higher_price_is_not_better() -> None:
    questions, outcomes = simulate(400)
    dear = tuple(replace(arm, price=1.0 if arm.name == "generalist" else 50.0) for arm in outcomes.arms)
    single = outcomes.matrix(400).mean(axis=0).argmax()
    assert outcomes.arms[int(single)].name == "generalist"

    fitted = fit_router(questions, replace(outcomes, arms=dear))

    assert fitted.dearer and fitted.installed == PLAIN
    assert "equal price" in list(fitted.lines())[-1]


def test_too_few_questions_are_told() -> None:
    with pytest.raises(InputError, match="too few to test a router on"):
        fit_router(*simulate(60))


def test_the_default_keeps_its_place_unless_clearly_beaten() -> None:
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.5).astype(float)
    hair = base.copy()
    hair[np.flatnonzero(base == 0)[:5]] = 1
    hair[np.flatnonzero(base == 1)[:4]] = 0
    much = np.maximum(base, rng.random(400) < 0.5)

    assert prefer({"usual": base, "hair": hair, PLAIN: base * 0}, "usual") == "usual"
    assert prefer({"usual": base, "much": much.astype(float), PLAIN: base * 0}, "usual") == "much"
    assert prefer({"usual": base, PLAIN: much.astype(float)}, "usual") == PLAIN


def test_without_questions_nothing_is_preferred() -> None:
    with pytest.raises(RouterError, match="no questions to choose on"):
        prefer({"usual": np.zeros(0), PLAIN: np.zeros(0)}, "usual")


def test_the_packaged_profile_passes_the_guard_and_its_router_decides(packaged: Registry) -> None:
    result = CliRunner().invoke(app, ["fit", "router"])

    assert result.exit_code == 0, result.output
    assert router_folder(packaged).exists()
    told: list[str] = []
    [route] = Pipeline.from_file(None, say=told.append).route(["What is 47 + 38?"])
    assert route.arms == ("arithmetic",)
    assert not told

    questions, outcomes = outcomes_of(find_profile(packaged)[0], packaged.arms(), packaged.generalist)
    assert installed_router(packaged, questions, outcomes) is not None
    with pytest.raises(RouterError, match="another outcomes"):
        installed_router(packaged, questions, replace(outcomes, score=1 - outcomes.score))


def test_a_router_of_an_older_profile_is_not_used_and_that_is_told(packaged: Registry) -> None:
    questions, outcomes = outcomes_of(find_profile(packaged)[0], packaged.arms(), packaged.generalist)
    fitted = fit_router(questions, outcomes)
    install(fitted, packaged, questions, replace(outcomes, score=1 - outcomes.score))
    told: list[str] = []

    [route] = Pipeline.from_file(None, say=told.append).route(["What is 47 + 38?"])

    assert route.arms == ("arithmetic",)
    assert any("fitted with another outcomes" in text and "skill router" in text for text in told)


@pytest.mark.parametrize("crash", [1, 2])
def test_a_crash_between_any_two_renames_loses_no_router(packaged: Registry, crash: int) -> None:
    questions, outcomes = outcomes_of(find_profile(packaged)[0], packaged.arms(), packaged.generalist)
    fitted = Fitted({}, PLAIN, (0.0, 0.0, 0.0), 0, False, BestSingle().fit(questions, outcomes), PLAIN)
    install(fitted, packaged, questions, outcomes)

    with crash_at(crash):
        install(fitted, packaged, questions, outcomes)

    [route] = Pipeline.from_file(None).route(["What is 47 + 38?"])
    assert route.reason.fallback == "arms are ranked by overall record"
    assert isinstance(installed_router(packaged, questions, outcomes), BestSingle)


def test_a_folder_that_cannot_be_written_is_told(packaged: Registry, tmp_path: Path) -> None:
    questions, outcomes = outcomes_of(find_profile(packaged)[0], packaged.arms(), packaged.generalist)
    place = router_folder(packaged).parent
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a file is in the way")

    with pytest.raises(InputError, match="no router can be written"):
        install(fit_router(questions, outcomes), packaged, questions, outcomes)
