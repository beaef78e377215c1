"""`coe fit answers`: is asking several worth it on your own outcomes? Rehearsed at no tokens, tested, then installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from composer.answers.ballots import TRAITS, Aggregator, Table
from composer.answers.vote import BestScored
from composer.errors import InputError
from composer.folders import mend, replacing
from composer.learning.grid import Grid
from composer.learning.tune import (
    Plan,
    Played,
    aggregators,
    combine,
    cross_scores,
    cross_signals,
    fit_aggregators,
    fit_policies,
    front,
    play,
    policies,
    rehearsed,
    thriftiest,
    with_skills,
)
from composer.places import answers_folder, router_folder
from composer.profile import Profile
from composer.recorded import Recorded
from composer.registry.experts import Registry
from routers.coverage import Coverage, CoveredRouter
from routers.doubting import Doubting
from routers.errors import RouterError
from routers.family import USUAL, family
from routers.records import at_home
from routers.select import ranked
from routers.skills import SkillFinder
from routers.stats import calibration_split, paired_difference
from routers.stopping import Agreeing, Cascade, Posterior, Worth
from routers.store import FILE, HOMES, fingerprint, read, save, write
from routers.types import Arm, Array, Outcomes, Policy, Questions, Router

_HOMES = (*HOMES, "composer.answers.learn", "composer.answers.vote")
_LEAST = 30  # held-out questions, under which a paired test says nothing


@dataclass(frozen=True, slots=True)
class Line:
    """A plan on the front: its share right, mean calls and cost on the questions it was chosen on, and the paired
    difference to the best single arm there (mean, low, high)."""

    plan: str
    accuracy: float
    calls: float
    cost: float
    to_single: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class FittedAnswers:
    """What `fit_answers` found: the front, the plan that was tested and its paired difference to the best single arm on
    `questions` that had no part in the choice, and, if it is `better`, what is installed. `worth` is what the learnt
    combination of all arms loses without each of them (mean, low, high), where it was asked for."""

    front: tuple[Line, ...]
    tested: str
    accuracy: float
    single: str
    calls: float
    difference: tuple[float, float, float]
    questions: int
    better: bool
    options: dict[str, Any]
    by: str
    router: Router
    aggregator: Aggregator
    worth: dict[str, tuple[float, float, float]]

    def lines(self) -> Iterator[str]:
        """For people."""
        width = max([len(line.plan) for line in self.front] + [4])
        yield f"{'plan':{width}}  right  calls       cost  against {self.single} alone"
        for line in self.front:
            mean, low, high = (100 * value for value in line.to_single)
            yield (
                f"{line.plan:{width}}  {100 * line.accuracy:5.1f}  {line.calls:5.2f}  {line.cost:9.4g}  "
                f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
            )
        for name, (mean, low, high) in sorted(self.worth.items(), key=lambda pair: pair[1][0]):
            yield f"without {name}: {100 * mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
        mean, low, high = (100 * value for value in self.difference)
        yield (
            f"{self.tested} - {self.single} alone: {mean:+.1f} points [{low:+.1f}, {high:+.1f}] at {self.calls:.2f} calls, "
            f"on {self.questions} held-out questions"
        )
        yield "that is better" if self.better else "that it is better is not shown: nothing is installed"


def record_of(profile: Profile, arms: tuple[Arm, ...], generalist: str) -> tuple[Recorded, Array]:
    """A profile as a record of answers, with the questions' vectors; the arms that have a record, and the generalist."""
    known = profile.known
    questions, _ = profile.columns()
    outcomes = profile.outcomes(questions, [arm for arm in arms if arm.name in known or arm.name == generalist])
    n = len(questions)
    return (
        Recorded(
            ids=questions.ids,
            text=questions.text,
            benchmark=("profile",) * n,
            category=tuple(own[0] if own else "" for own in questions.skills),
            split=("profile",) * n,
            options=np.zeros(n, dtype=np.int64),
            outcomes=outcomes,
            voted=any(answer is not None for answer in outcomes.answer),
        ),
        questions.vectors,
    )


def fit_answers(
    record: Recorded,
    vectors: Array,
    generalist: str | None = None,
    *,
    budget: str = "3",
    leave_one_out: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> FittedAnswers:
    """Rehearse every policy with every aggregator on recorded answers, choose on a part of them the plan with the fewest
    calls that is as good as the best within `budget` (`thriftiest`), and test it against the best single arm on another
    part (the calibration fifth).

    A question's router scores come from a router that was fitted without it. Raises InputError for too few questions, or
    where no answers were recorded.
    """
    if not record.voted:
        raise InputError("there are scores but no answers: nothing can be combined", remedy="use `coe fit router`")
    questions, outcomes, grid = record.questions(vectors), record.outcomes, Grid.of(record)
    held = calibration_split(questions.ids, questions.vectors)
    learn, check = np.flatnonzero(~held), np.flatnonzero(held)
    if len(check) < _LEAST:
        raise InputError(
            f"{len(questions)} questions are too few: {len(check)} of {_LEAST} are held out for the test",
            remedy="measure more with `coe profile labelled.jsonl`",
        )
    labelled = len({name for own in questions.skills for name in own}) > 1 and all(questions.skills)
    make = family(labelled)[USUAL]
    part = questions.take(learn)
    say("scoring every question by a router that has not seen it")
    scores = cross_scores(make, part, outcomes.take(learn))
    arms = at_home(part, outcomes.take(learn)).arms
    own = replace(_skilled(grid.take(learn), part, part, labelled), arms=arms, signals=cross_signals(part, scores))
    fallback = generalist or arms[int(own.right.mean(axis=0).argmax())].name
    again = calibration_split(part.ids, part.vectors, seed=1)
    inner, outer = np.flatnonzero(~again), np.flatnonzero(again)
    say(f"rehearsing every plan on {len(outer)} questions")
    trial = rehearsed((own.take(inner), scores[inner]), (own.take(outer), scores[outer]), fallback)
    name = thriftiest(trial, budget, len(grid.arms))
    means = own.right[inner].mean(axis=0)
    single, alone = _single(means, own.take(outer))
    lines = tuple(
        Line(
            plan.name,
            float(played.right.mean()),
            float(played.calls.mean()),
            float(played.cost.mean()),
            paired_difference(played.right, alone.right),
        )
        for plan, played in front(list(trial.values()))
    )
    say(f"testing {', '.join(name)} on {len(check)} questions")
    plan = _fitted(name, own, scores, fallback)
    there = make().fit(part, outcomes.take(learn)).score(replace(questions.take(check), skills=()))
    around = Coverage().fit(part, scores).signals(questions.vectors[check], there)
    rest = replace(_skilled(grid.take(check), part, questions.take(check), labelled), arms=arms, signals=around)
    played = play(plan, rest, there)
    _, alone = _single(own.right.mean(axis=0), rest)
    difference = paired_difference(played.right, alone.right)
    say("fitting it on everything")
    everywhere = cross_scores(make, questions, outcomes)
    whole = replace(
        _skilled(grid, questions, questions, labelled), arms=arms, signals=cross_signals(questions, everywhere)
    )
    final = _fitted(name, whole, everywhere, fallback)
    return FittedAnswers(
        front=lines,
        tested=plan.name,
        accuracy=float(played.right.mean()),
        single=single.name,
        calls=float(played.calls.mean()),
        difference=difference,
        questions=len(check),
        better=difference[1] > 0,
        options=options_of(final.policy),
        by=final.by,
        router=CoveredRouter(make(), generalist).fit(questions, outcomes),
        aggregator=final.aggregator,
        worth=_worth(own, scores, rest, there) if leave_one_out else {},
    )


def options_of(policy: Policy) -> dict[str, Any]:
    """The options of `decide` that make this policy. Raises InputError for one that the registry cannot name."""
    from routers.policy import Fixed  # noqa: PLC0415 - beside those above it reads better here
    from routers.rules import NullArm, TopK  # noqa: PLC0415

    match policy:
        case Doubting(inner):
            return {**options_of(inner), "doubt": True}
        case Fixed(TopK(k)):
            return {"k": k}
        case Fixed(NullArm(price, most)):
            return {"select": {"use": "null-arm", "price": price, "most": most}}
        case Agreeing(votes, most):
            return {"policy": {"use": "agreeing", "votes": votes, "most": most}}
        case Posterior(confidence, first, most, weighted):
            told = {"use": "posterior", "confidence": confidence, "first": first, "most": most, "weighted": weighted}
            return {"policy": told}
        case Cascade(price, most, thresholds):
            return {"policy": {"use": "cascade", "price": price, "most": most, "thresholds": list(thresholds or ())}}
        case Worth(price, most, weights):
            told = {"use": "worth", "price": price, "most": most, "weights": [list(row) for row in weights or ()]}
            return {"policy": told}
    raise InputError(f"{policy} has no name in a registry", remedy="write it into `pipeline:` by hand")


def install_answers(fitted: FittedAnswers, registry: Registry, questions: Questions, outcomes: Outcomes) -> Path:
    """Put the router and the aggregator where the pipeline finds them. Raises InputError if that cannot be written."""
    keys = {"encoder": registry.encoder_sha, "outcomes": fingerprint(questions, outcomes)}
    folder = answers_folder(registry)
    try:
        with replacing(router_folder(registry)) as fresh:
            save(fitted.router, fresh, keys=keys)
        with replacing(folder) as fresh:
            write(fitted.aggregator, fresh, keys=_keys(registry), homes=_HOMES)
    except OSError as why:
        raise InputError(
            f"nothing can be written here: {why.strerror or why}", where=str(folder), remedy="check the folder"
        ) from why
    return folder


def _keys(registry: Registry) -> dict[str, str]:
    """What a stored aggregator was fitted with: its trees know the traits by their places."""
    return {"encoder": registry.encoder_sha, "traits": "; ".join(TRAITS)}


def installed_aggregator(registry: Registry) -> Aggregator:
    """The aggregator that was fitted for this registry. Raises InputError where there is none, or it cannot be read."""
    folder = answers_folder(registry)
    mend(folder)
    if not (folder / FILE).exists():
        raise InputError("no learnt aggregator is installed for this registry", remedy="coe fit answers")
    try:
        found: Aggregator = read(folder, keys=_keys(registry), homes=_HOMES)
    except RouterError as why:
        raise InputError(str(why).partition("\n")[0], remedy="coe fit answers") from why
    return found


def _skilled(grid: Grid, learn: Questions, asked: Questions, labelled: bool) -> Grid:
    """The grid with skills found as they are at serving time."""
    if not labelled:
        return grid
    return with_skills(grid, SkillFinder(floor=-1.0).fit(learn), asked.vectors)


def _fitted(name: tuple[str, str], grid: Grid, scores: Array, generalist: str) -> Plan:
    asking, by = name
    policy = fit_policies(grid, scores, {asking: policies(len(grid.arms), generalist=generalist)[asking]})[asking]
    every = aggregators()
    made = BestScored() if by not in every else fit_aggregators(grid, scores, {by: every[by]})[by]
    return Plan(asking, policy, by, made)


def _single(means: Table, grid: Grid) -> tuple[Arm, Played]:
    """The arm that is best by these means, and what it does alone."""
    level = np.tile(means.astype(np.float32), (len(grid.right), 1))
    order = ranked(level, grid.arms)[:, :1]
    return grid.arms[int(order[0, 0])], combine(BestScored(), grid, level, order)


def _worth(own: Grid, scores: Array, rest: Grid, there: Array) -> dict[str, tuple[float, float, float]]:
    """Leave one out: what the learnt combination of all arms loses on `rest` without each, paired."""

    def learnt(keep: list[int]) -> Table:
        arms = np.array(keep, dtype=np.int64)
        made = fit_aggregators(own.only(arms), scores[:, arms], {"learnt": aggregators()["learnt"]})["learnt"]
        grid = rest.only(arms)
        return combine(made, grid, there[:, arms], ranked(there[:, arms], grid.arms)).right

    places = list(range(len(own.arms)))
    if len(places) < 3:
        return {}
    whole = learnt(places)
    return {
        arm.name: paired_difference(learnt([other for other in places if other != place]), whole)
        for place, arm in enumerate(own.arms)
    }
