"""`coe fit answers`: rehearsed, tested, installed only if it is better, and used by the pipeline from then on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from composer.answers.learn import Learnt
from composer.answers.vote import LogOdds
from composer.cli import app
from composer.config import load_settings, packaged_registry
from composer.errors import ConfigError, InputError
from composer.learning.answers import FittedAnswers, fit_answers, install_answers, installed_aggregator, options_of
from composer.pipeline import Pipeline
from composer.recorded import Recorded
from composer.registry.experts import Registry
from composer.rewrite import with_plan, write_plan
from routers.policy import Fixed
from routers.rules import NullArm, Recruit, TopK
from routers.stopping import Agreeing, Cascade, Posterior, Worth
from routers.testing import simulate
from routers.types import Array, Policy


def record(n: int = 600, *, shuffled: bool = False) -> tuple[Recorded, Array]:
    """A simulation: three specialists and a generalist; wrong answers are spread over four letters."""
    questions, outcomes = simulate(n)
    if shuffled:
        turned = np.random.default_rng(1).permutation(n)
        outcomes = replace(outcomes, question=turned[outcomes.question])
    rng = np.random.default_rng(1)
    answers = tuple("A" if score else rng.choice(list("BCDE")) for score in outcomes.score)
    made = Recorded(
        ids=questions.ids,
        text=questions.text,
        benchmark=("sim",) * n,
        category=tuple(own[0] for own in questions.skills),
        split=("profile",) * n,
        options=np.full(n, 5),
        outcomes=replace(outcomes, answer=answers, length=np.full(len(outcomes.score), 10)),
        voted=True,
    )
    return made, questions.vectors


@pytest.fixture(scope="module")
def fitted() -> FittedAnswers:
    return fit_answers(*record(), "generalist", leave_one_out=True)


def test_a_plan_that_helps_is_better_and_the_front_shows_what_calls_buy(fitted: FittedAnswers) -> None:
    assert fitted.better and fitted.difference[1] > 0
    assert fitted.calls <= 3
    calls = [line.calls for line in fitted.front]
    assert calls == sorted(calls) and calls[0] == 1
    assert [line.accuracy for line in fitted.front] == sorted(line.accuracy for line in fitted.front)
    told = "\n".join(fitted.lines())
    assert "that is better" in told and f"against {fitted.single} alone" in told


def test_each_expert_has_its_worth(fitted: FittedAnswers) -> None:
    assert set(fitted.worth) == {"generalist", "cooking", "sailing", "music"}
    assert min(fitted.worth, key=lambda name: fitted.worth[name][0]) != "generalist"
    assert all(low <= mean <= high for mean, low, high in fitted.worth.values())


def test_where_nothing_can_be_known_nothing_is_better() -> None:
    found = fit_answers(*record(400, shuffled=True), "generalist", budget="1")

    assert not found.better
    assert "nothing is installed" in list(found.lines())[-1]


def test_a_call_that_wins_nothing_is_not_made() -> None:
    assert fit_answers(*record(600), budget="all").calls < 3  # the specialist alone is right on nine of ten


def test_too_few_questions_and_scores_without_answers_are_told() -> None:
    with pytest.raises(InputError, match="too few"):
        fit_answers(*record(60))
    found, vectors = record(300)
    with pytest.raises(InputError, match="no answers"):
        fit_answers(replace(found, voted=False), vectors)


@pytest.mark.parametrize("by", [Learnt(), LogOdds()])
def test_what_was_learnt_is_read_as_it_was_written(
    fitted: FittedAnswers, packaged: Registry, by: Learnt | LogOdds
) -> None:
    from composer.learning.grid import Grid
    from routers.select import ranked

    found, vectors = record(200)
    grid, scores = Grid.of(found), np.full((200, 4), 0.5, dtype=np.float32)
    place = ranked(scores, grid.arms)
    ballots = grid.ballots(place, scores)
    learnt = by.fit(ballots, np.take_along_axis(grid.right, place, axis=1))

    install_answers(replace(fitted, aggregator=learnt), packaged, found.questions(vectors), found.outcomes)

    again = installed_aggregator(packaged)
    assert type(again) is type(by)
    assert np.array_equal(again.combine(ballots).sure, learnt.combine(ballots).sure)


def test_nothing_learnt_is_told_with_what_to_do(packaged: Registry) -> None:
    with pytest.raises(InputError, match="no learnt aggregator is installed") as caught:
        installed_aggregator(packaged)

    assert caught.value.remedy == "coe fit answers"


@pytest.mark.parametrize(
    "policy",
    [
        Fixed(TopK(2)),
        Fixed(NullArm(0.1, 4)),
        Agreeing(2, 4),
        Posterior(0.9, 2, 4),
        Cascade(0.01, 3, (0.8, 0.9)),
        Worth(0.01, 3, ((0.1,) * 8, (0.2,) * 8)),
    ],
)
def test_a_policy_comes_back_from_the_registry_as_it_was(policy: Policy, tmp_path: Path) -> None:
    text = packaged_registry().read_text()
    path = tmp_path / "experts.yaml"
    path.write_text(with_plan(text, options_of(policy), "majority"))

    pipeline = Pipeline(load_settings(path))

    step = pipeline.settings.pipeline[0]
    from composer.stages.decide import _policy, _rule
    from composer.stages.kit import Kit

    kit = Kit(pipeline.registry, pipeline.encoder, pipeline.router, lambda: pipeline.pool, pipeline.hearer)
    _, rule = _rule(kit, step.options.get("select", "top-k"), step.options.get("k"))
    assert _policy(kit, step.options.get("policy", "fixed"), rule, None) == policy


def test_a_policy_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="has no name in a registry"):
        options_of(Fixed(Recruit(3)))


def test_comments_and_the_rest_of_the_file_stay() -> None:
    text = packaged_registry().read_text()

    changed = with_plan(text, {"k": 2}, "majority").splitlines()

    other = [line for line in changed if line not in text.splitlines()]
    assert len(changed) == len(text.splitlines())
    assert [line.strip() for line in other] == [
        "- {use: decide, options: {router: auto, k: 2}}",
        "- {use: aggregate, options: {by: majority}}",
    ]


def test_the_packaged_registry_is_not_changed() -> None:
    with pytest.raises(InputError, match="packaged registry is not changed"):
        write_plan(packaged_registry(), {"k": 2}, "majority")


def test_a_plan_that_would_not_load_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "experts.yaml"
    path.write_text("models: 3\n")

    with pytest.raises(ConfigError, match="models"):
        write_plan(path, {"k": 2}, "majority")

    assert path.read_text() == "models: 3\n"
    assert [one.name for one in tmp_path.iterdir()] == ["experts.yaml"]


def test_the_packaged_experts_are_worth_asking_and_the_registry_says_so_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "experts.yaml"
    path.write_text(packaged_registry().read_text())

    done = CliRunner().invoke(app, ["fit", "answers", "--calls", "2"])

    assert done.exit_code == 0, done.output
    assert "that is better" in done.output
    assert "router: auto" in path.read_text() and path.read_text() != packaged_registry().read_text()
    pipeline = Pipeline.from_file(path)
    [route] = pipeline.route(["Sort out this sum: 23 plus 48"])
    assert route.arms[0] == "arithmetic"


def test_with_the_packaged_registry_what_was_found_is_shown_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(app, ["fit", "answers", "--calls", "1", "--json"])

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["better"] and told["front"]
    assert "copy the packaged registry" in told["installed"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--calls", "none"], "the budget of calls is 'none'"),
        (["--data", "x", "--runs", "y"], "two sources of answers"),
        (["--data", "nowhere"], "there is no *_questions.parquet here"),
    ],
)
def test_what_cannot_be_used_is_told(options: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["fit", "answers", *options])

    assert done.exit_code != 0
    assert told in str(done.exception) or told in done.output
