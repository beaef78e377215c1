"""Scores that say how often they are right, and questions that no expert has been measured on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from routers.calibrate import CalibratedRouter, Calibrator, calibration_error
from routers.coverage import Coverage, CoveredRouter
from routers.neighbours import NeighbourRouter
from routers.ridge import RidgeRouter
from routers.stats import calibration_split
from routers.testing import GENERALIST, simulate
from routers.types import Arm, Array, Questions, weighed

# Calibration


def test_calibrated_scores_say_how_often_they_are_right() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((2000, 2))
    scores = (0.5 + (true - 0.5) * 0.3).astype(np.float32)  # far too timid
    truth = (rng.random((2000, 2)) < true).astype(float)
    arms = (Arm("a"), Arm("b"))

    better = Calibrator().fit(scores, truth, arms).probable(scores, arms)

    assert calibration_error(better, truth) < 0.03 < calibration_error(scores, truth)


def test_calibration_keeps_the_order_within_an_arm() -> None:
    router = CalibratedRouter(RidgeRouter()).fit(*simulate(200))
    asked = simulate(40, seed=4)[0]

    plain, better = RidgeRouter().fit(*simulate(200)).score(asked), router.score(asked)

    for place in range(4):
        order = np.argsort(plain[:, place], kind="stable")
        assert (np.diff(better[order, place]) >= -1e-6).all()


# Coverage


def test_a_domain_that_was_left_out_raises_the_alarm() -> None:
    questions, outcomes = simulate(1000)
    known = [i for i, own in enumerate(questions.skills) if own[0] != "music"]
    asked, _ = simulate(200, seed=9)
    strange = [i for i, own in enumerate(asked.skills) if own[0] == "music"]
    usual = [i for i, own in enumerate(asked.skills) if own[0] != "music"]
    coverage = Coverage().fit(questions.take(known))
    flat = np.zeros((len(asked), 2), dtype=np.float32)

    outside = coverage.signals(asked.vectors, flat).outside

    assert outside[strange].mean() >= 0.8
    assert outside[usual].mean() <= 0.12

    router = CoveredRouter(NeighbourRouter(), GENERALIST).fit(questions.take(known), outcomes.take(known))
    reasons = router.explain(asked)
    assert "coverage gap" in reasons[strange[0]].flags
    assert reasons[strange[0]].gap is not None and reasons[strange[0]].gap < 0.05
    taken = [router.arms[int(i)].name for i in router.score(asked)[strange].argmax(axis=1)]
    assert taken.count(GENERALIST) >= 0.8 * len(strange)


def test_arms_that_score_alike_raise_the_margin_flag_and_clear_leads_do_not() -> None:
    router = CoveredRouter(NeighbourRouter(), GENERALIST).fit(*simulate(400))
    reasons = router.explain(simulate(200, seed=9)[0])

    close = np.array([reason.margin is not None and reason.margin < router.coverage_.margin_ for reason in reasons])

    assert 0.05 < close.mean() < 0.4  # a fifth, by the percentile
    assert all("boundary" in reasons[row].flags for row in np.flatnonzero(close))
    assert not all("boundary" in reason.flags for reason in reasons)


def test_a_profile_too_small_for_a_second_fit_flags_no_margin() -> None:
    questions, outcomes = simulate(20)
    held = calibration_split(questions.ids, questions.vectors)
    measured = outcomes.take(np.flatnonzero(held))

    router = CoveredRouter(NeighbourRouter()).fit(
        questions, replace(measured, question=np.flatnonzero(held)[measured.question])
    )

    assert router.coverage_.margin_ == 0


def test_scores_and_reasons_together_ask_the_router_once() -> None:
    class Counting(NeighbourRouter):
        asked = 0

        def score(self, questions: Questions) -> Array:
            Counting.asked += 1
            return super().score(questions)

    router = CoveredRouter(Counting(), GENERALIST).fit(*simulate(100))
    Counting.asked = 0

    scores, reasons = weighed(router, simulate(9, seed=1)[0])

    assert Counting.asked == 1
    assert len(scores) == len(reasons) == 9
