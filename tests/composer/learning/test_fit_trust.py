"""The pipeline rehearsed on its own profile, and what live answers say of themselves after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from test_fit_answers import record

from composer.answers.vote import BestScored, Majority
from composer.config import load_settings, packaged_registry
from composer.learning.trust import install_trust, installed_trust, rehearsed_trust, told
from composer.pipeline import Pipeline
from composer.places import router_folder, trust_folder
from composer.rewrite import with_plan
from routers.calibrate import calibration_error
from routers.coverage import CoveredRouter
from routers.policy import Fixed
from routers.select import TopK
from routers.skill import SkillRouter
from routers.stopping import Abstaining
from routers.testing import GENERALIST


def test_confidence_is_worth_what_was_measured() -> None:
    made, vectors = record(600)
    router = CoveredRouter(SkillRouter(), GENERALIST)

    trust = rehearsed_trust(router, Fixed(TopK(3)), Majority(), made, made.questions(vectors))

    assert trust is not None and trust.questions > 500
    alone, together = trust.sureness.probable(np.array([1 / 3, 1.0]), None)
    assert together < 0.9, "three that agree are not certain to be right, as their share of votes says"
    assert alone > 0.7, "where nobody agrees the specialist is taken, which is right on nine of ten"


def test_what_is_calibrated_on_one_half_holds_on_the_other() -> None:
    made, vectors = record(900)
    half = np.arange(0, 900, 2)
    learn = made.take([int(i) for i in half])
    router = CoveredRouter(SkillRouter(), GENERALIST)
    trust = rehearsed_trust(router, Fixed(TopK(1)), BestScored(), learn, learn.questions(vectors[half]))

    assert trust is not None
    rest = np.arange(1, 900, 2)
    fitted = CoveredRouter(SkillRouter(), GENERALIST).fit(learn.questions(vectors[half]), learn.outcomes)
    asked = made.take([int(i) for i in rest]).questions(vectors[rest])
    scores = fitted.score(asked)
    best = scores.argmax(axis=1)
    right = made.outcomes.matrix(900)[rest, best]
    sure = trust.sureness.probable(scores.max(axis=1).astype(np.float64), fitted.signals(asked))
    assert calibration_error(sure, right) < 0.08


def test_too_few_answers_teach_nothing() -> None:
    made, vectors = record(24)

    assert rehearsed_trust(SkillRouter(), Fixed(TopK(1)), BestScored(), made, made.questions(vectors)) is None
    assert "not calibrated" in told(None)[0]


def test_the_packaged_pipeline_comes_calibrated() -> None:
    pipeline = Pipeline(load_settings(packaged_registry()))

    trust = pipeline.trust

    assert trust is not None and trust.questions > 300
    assert 0.5 < trust.sureness.probable(np.array([0.85]), None)[0] < 0.95


def test_another_registry_knows_nothing_of_it(tmp_path: Path) -> None:
    text = packaged_registry().read_text(encoding="utf-8")
    (tmp_path / "experts.yaml").write_text(text.replace("max_tokens: 64", "max_tokens: 63"), encoding="utf-8")

    assert installed_trust(Pipeline.from_file(tmp_path / "experts.yaml").registry) is None


def test_a_copy_of_the_packaged_registry_may_calibrate_its_own_pipeline(tmp_path: Path) -> None:
    text = packaged_registry().read_text(encoding="utf-8")
    (tmp_path / "experts.yaml").write_text(with_plan(text, {"k": 3}, "majority"), encoding="utf-8")
    pipeline = Pipeline.from_file(tmp_path / "experts.yaml")
    assert installed_trust(pipeline.registry) is None

    trust = install_trust(pipeline)

    assert trust is not None
    found = installed_trust(pipeline.registry)
    assert found is not None and found.questions == trust.questions
    assert found.sureness.weights_.tolist() == trust.sureness.weights_.tolist()


def test_a_damaged_file_is_no_calibration(tmp_path: Path) -> None:
    (tmp_path / "experts.yaml").write_text(packaged_registry().read_text(encoding="utf-8"), encoding="utf-8")
    pipeline = Pipeline.from_file(tmp_path / "experts.yaml")
    install_trust(pipeline)

    (trust_folder(pipeline.registry) / "router.json").write_text(json.dumps({"version": 0}), encoding="utf-8")

    packaged = Pipeline(load_settings(packaged_registry())).trust
    found = installed_trust(pipeline.registry)

    assert found is not None and packaged is not None
    assert found.sureness.weights_.tolist() == packaged.sureness.weights_.tolist(), "the declared profile's is taken"


def test_answers_that_are_withheld_teach_nothing() -> None:
    made, vectors = record(600)
    router = CoveredRouter(SkillRouter(), GENERALIST)

    every = rehearsed_trust(router, Fixed(TopK(2)), Majority(), made, made.questions(vectors))
    some = rehearsed_trust(router, Abstaining(Fixed(TopK(2)), 0.8), Majority(), made, made.questions(vectors))

    assert every is not None and some is not None
    assert some.questions < every.questions


def test_another_router_is_another_pipeline(tmp_path: Path) -> None:
    (tmp_path / "experts.yaml").write_text(packaged_registry().read_text(encoding="utf-8"), encoding="utf-8")
    registry = Pipeline.from_file(tmp_path / "experts.yaml").registry
    assert installed_trust(registry) is not None, "the packaged one"

    router_folder(registry).mkdir(parents=True)
    (router_folder(registry) / "router.json").write_text("{}", encoding="utf-8")

    assert installed_trust(registry) is None
