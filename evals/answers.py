"""`coe eval answers`: what asking several and combining is worth on recorded answers. Chosen before the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from composer.answers.ballots import Aggregator
from composer.answers.learn import Learnt
from composer.answers.signals import Sureness, aurc, aurc_difference, caught, risk_coverage, selective
from composer.answers.trust import dissociated
from composer.answers.vote import BestScored, Majority
from composer.learning.grid import Grid
from composer.learning.trust import alarm_lines
from composer.learning.tune import (
    Plan,
    Played,
    aggregators,
    choose,
    combine,
    cross_scores,
    cross_signals,
    crossed,
    fit_aggregators,
    fit_policies,
    play,
    policies,
    rehearsed,
    with_skills,
)
from composer.recorded import Recorded
from evals.data import Data, covered, distinct, has_categories, splits
from evals.metrics import Row, known_mean, paired_gap
from routers.calibrate import calibration_error
from routers.coverage import Coverage, Signals
from routers.family import USUAL, family
from routers.records import at_home
from routers.select import ranked
from routers.skills import SkillFinder
from routers.stats import bootstrap_interval, calibration_split
from routers.types import Array

MAJORITY, SINGLE = "majority of all", "best-single"
BLIND = "learnt, blind to looks"
_CONTESTED = 12


@dataclass(frozen=True, slots=True)
class AnswerRow(Row):
    """A row of the common form, and what answering adds. `policy` and `aggregator` name the plan, `budget` what it was
    chosen for; `cost` per question in USD, else characters. `selective_50`: share right of the surer half; `aurc`: area
    under the risk-coverage curve (lower is better); `ece`: expected calibration error of P(right), and of the questions
    inside, on a border of, and outside what the profile covers; `caught_20`: of the errors that 20 % flagging could catch
    at most, the share caught. Differences are paired: (mean, low, high)."""

    policy: str = ""
    aggregator: str = ""
    budget: str | None = None
    cost: float | None = None
    selective_50: float | None = None
    aurc: float | None = None
    ece: float | None = None
    ece_where: Mapping[str, float] | None = None
    caught_20: float | None = None
    to_majority: tuple[float, float, float] | None = None
    to_best_single: tuple[float, float, float] | None = None
    aurc_to_vote_share: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Contested:
    """A question on which the drafts disagree most: its text, (arm, answer, right) of each draft, and what was taken."""

    text: str
    drafts: tuple[tuple[str, str, bool], ...]
    taken: str
    sure: float


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """The evaluation of one pool: rows, notes, and what the page draws: `curves` of risk over coverage, the share of
    questions on which two arms agree, and the most contested questions."""

    group: str
    rows: tuple[AnswerRow, ...]
    notes: tuple[str, ...]
    curves: Mapping[str, tuple[tuple[float, float], ...]]
    agreement: Mapping[str, Mapping[str, float]]
    contested: tuple[Contested, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """Questions of one split with a router's scores of them."""

    grid: Grid
    scores: Array


def evaluate(
    record: Recorded,
    vectors: Array,
    *,
    group: str,
    calls: Sequence[str] = ("1", "3", "50%", "75%", "all"),
    test_split: str = "dev",
    strict: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> AnswerReport:
    """Rehearse every policy with every aggregator on a fifth of the profile that they were not fitted on, choose one per
    budget of mean calls, fit it on the whole profile, and open the test split.

    The router is the default of `coe eval routers`; a question's scores come from one that was fitted without it. Where
    only scores were recorded, nobody votes, and one call is all there is. Raises InputError where a split is missing.
    """
    notes: list[str] = []
    if not record.voted:
        notes.append("no answers were recorded, only scores: nobody votes, and every budget is spent on one call")
    profile, test = splits(record, test_split)
    profile = distinct(profile, test, vectors, strict, notes)
    record = covered(record, profile, test, notes)
    data = Data.of(record, vectors)
    learn, check = data.take(profile), data.take(test)
    labelled = has_categories(learn.questions)
    make = family(labelled)[USUAL]
    say(f"{group}: scoring every profile question by a router that has not seen it")
    scores = cross_scores(make, learn.questions, learn.outcomes)
    arms = at_home(learn.questions, learn.outcomes).arms if labelled else learn.outcomes.arms
    grid = replace(learn.grid, arms=arms, signals=cross_signals(learn.questions, scores))
    generalist = arms[int(grid.right.mean(axis=0).argmax())].name
    if labelled:
        finder = SkillFinder(floor=-1.0).fit(learn.questions)
        grid = with_skills(grid, finder, learn.questions.vectors)
    held = calibration_split(learn.questions.ids, learn.questions.vectors)
    inner, outer = np.flatnonzero(~held), np.flatnonzero(held)
    say(f"{group}: choosing on {len(outer)} calibration questions")
    trial = rehearsed((grid.take(inner), scores[inner]), (grid.take(outer), scores[outer]), generalist)
    chosen = {budget: choose(trial, budget, len(grid.arms)) for budget in dict.fromkeys(calls)}
    whole = _Part(grid, scores)
    asking = fit_policies(grid, scores, policies(len(grid.arms), grid.voted, generalist))
    combining = fit_aggregators(grid, scores, aggregators()) if grid.voted else {}
    coverage = Coverage().fit(learn.questions, scores)
    calibrated = {
        (asks, by): _sureness(crossed(asking[asks], _made(by), grid, scores, learn.questions), grid.signals)
        for asks, by in sorted(set(chosen.values()))
    }
    # from here on the test split is open: nothing below changes what was chosen
    say(f"{group}: testing")
    router = make().fit(learn.questions, learn.outcomes)
    there = with_skills(check.grid, finder, check.questions.vectors) if labelled else check.grid
    asked = router.score(check.asked)
    around = coverage.signals(check.questions.vectors, asked)
    tested = _Part(replace(there, arms=arms, signals=around), asked)
    results: dict[str, tuple[Plan | None, Played]] = dict(_references(whole, tested))
    for by, aggregator in combining.items():
        results[f"all at once, {by}"] = _run(Plan("all at once", asking[_every(grid)], by, aggregator), tested)
    if combining:
        blind = fit_aggregators(grid, scores, {BLIND: Learnt(looks=False)})[BLIND]
        results[f"all at once, {BLIND}"] = _run(Plan("all at once", asking[_every(grid)], BLIND, blind), tested)
    for name in ("1 at once, doubting", "until two agree", "until the vote is decided", "posterior 0.95"):
        if name in asking:
            results[f"{name}, learnt"] = _run(Plan(name, asking[name], "learnt", combining["learnt"]), tested)
    budgets: dict[str, str] = {}
    for budget, (policy, by) in chosen.items():
        system = f"chosen for {budget}: {policy}, {by}"
        results[system] = _run(Plan(policy, asking[policy], by, {"best": BestScored(), **combining}[by]), tested)
        budgets[system] = budget
    majority, single = (results[name][1] if name in results else None for name in (MAJORITY, SINGLE))
    rows = []
    for system, (plan, played) in results.items():
        sure = calibrated.get((plan.asking, plan.by)) if plan is not None and system in budgets else None
        rows.append(
            _row(
                system,
                group,
                plan,
                played,
                majority,
                single,
                budgets.get(system),
                sure,
                around,
            )
        )
    best = next(name for name in reversed(results) if name in budgets)
    notes += _alarms(best, results[best], calibrated, tested.grid)
    curves = {name: _curve(results[name][1]) for name in (MAJORITY, *budgets) if name in results}
    return AnswerReport(
        group, tuple(rows), tuple(notes), curves, _agreement(there), _contested(record, test, there, results[best][1])
    )


def _alarms(
    system: str, result: tuple[Plan | None, Played], calibrated: Mapping[tuple[str, str], Sureness], grid: Grid
) -> list[str]:
    """The arms that the system takes answers of, and that are sure and wrong in a domain of the test split."""
    plan, played = result
    if plan is None or grid.skill is None:
        return []
    sure = calibrated[plan.asking, plan.by].probable(played.sure, grid.signals)
    arms = [grid.arms[int(place)].name if place >= 0 else None for place in played.taken]
    domains = [grid.skills[int(place)] if place >= 0 else None for place in grid.skill]
    return [f"{system}: {line}" for line in alarm_lines(dissociated(arms, domains, sure, played.right))]


def _every(grid: Grid) -> str:
    return f"{len(grid.arms)} at once"


def _run(plan: Plan, part: _Part) -> tuple[Plan, Played]:
    return plan, play(plan, part.grid, part.scores)


def _references(learn: _Part, check: _Part) -> dict[str, tuple[Plan | None, Played]]:
    """Chance, the best single arm, majority with ties to the better arm on the profile, and the best that any choice
    among the answers could be."""
    grid = check.grid
    n = len(grid.right)
    means = learn.grid.right.mean(axis=0)
    level = np.tile(means.astype(np.float32), (n, 1))
    order = ranked(level, grid.arms)
    ones = np.ones(n)
    drawn = Played(
        grid.right.mean(axis=1), ones, grid.cost.mean(axis=1), np.zeros(n), np.full((n, 1), -1), np.full(n, -1)
    )
    unknown = np.full(n, np.nan)
    best = Played(grid.right.max(axis=1), unknown, unknown, np.zeros(n), order[:, :0], np.full(n, -1))
    found: dict[str, tuple[Plan | None, Played]] = {
        "random": (None, drawn),
        SINGLE: (None, combine(BestScored(), grid, level, order[:, :1])),
    }
    if grid.voted:
        found[MAJORITY] = (None, combine(Majority(), grid, level, order))
    return {**found, "oracle": (None, best)}


def _made(by: str) -> Aggregator:
    return {"best": BestScored(), **aggregators()}[by]


def _sureness(played: Played, around: Signals | None) -> Sureness:
    return Sureness().fit(played.sure, around, played.right)


def _row(
    system: str,
    group: str,
    plan: Plan | None,
    played: Played,
    majority: Played | None,
    single: Played | None,
    budget: str | None,
    sureness: Sureness | None,
    around: Signals,
) -> AnswerRow:
    low, high = bootstrap_interval(played.right)
    combined = plan is not None or system == MAJORITY
    sure = played.sure
    if sureness is not None:
        sure = sureness.probable(played.sure, around)
    where = {
        "core": ~around.border & ~around.outside,
        "border": around.border & ~around.outside,
        "outside": around.outside,
    }
    return AnswerRow(
        system=system,
        group=group,
        n=len(played.right),
        accuracy=round(float(played.right.mean()), 4),
        low=round(low, 4),
        high=round(high, 4),
        calls=known_mean(played.calls),
        tokens=None,
        seconds=None,
        chosen=budget is not None,
        policy=plan.asking if plan else "",
        aggregator=plan.by if plan else "majority" if system == MAJORITY else "",
        budget=budget,
        cost=known_mean(played.cost, 8),
        selective_50=round(selective(sure, played.right), 4) if combined else None,
        aurc=round(aurc(sure, played.right), 4) if combined else None,
        ece=round(calibration_error(sure, played.right), 4) if combined else None,
        ece_where=(
            {name: round(calibration_error(sure[at], played.right[at]), 4) for name, at in where.items() if at.any()}
            if sureness is not None
            else None
        ),
        caught_20=round(caught(sure, played.right), 4) if combined else None,
        to_majority=None if majority is None else paired_gap(played.right, majority.right),
        to_best_single=None if single is None else paired_gap(played.right, single.right),
        aurc_to_vote_share=(
            _rounded(aurc_difference((sure, played.right), (majority.sure, majority.right)))
            if budget is not None and majority is not None
            else None
        ),
    )


def _rounded(values: tuple[float, float, float]) -> tuple[float, float, float]:
    a, b, c = (round(value, 4) for value in values)
    return a, b, c


def _curve(played: Played) -> tuple[tuple[float, float], ...]:
    risk = risk_coverage(played.sure, played.right)
    at = np.unique(np.linspace(0, len(risk) - 1, 60).astype(np.int64))
    return tuple((round((int(i) + 1) / len(risk), 4), round(float(risk[i]), 4)) for i in at)


def _agreement(grid: Grid) -> dict[str, dict[str, float]]:
    """The share of questions on which two arms give the same answer."""
    names = [arm.name for arm in grid.arms]
    found = {name: {name: 1.0} for name in names}
    for a, b in combinations(range(len(names)), 2):
        same = float(((grid.code[:, a] == grid.code[:, b]) & (grid.code[:, a] >= 0)).mean())
        found[names[a]][names[b]] = found[names[b]][names[a]] = round(same, 4)
    return found


def _contested(
    record: Recorded, test: np.ndarray[tuple[int, ...], np.dtype[np.int64]], grid: Grid, played: Played
) -> tuple[Contested, ...]:
    """The questions whose drafts fall into most answers, at least one of them right."""
    answers: dict[int, str] = {}
    outcomes = record.outcomes
    known: dict[str, int] = {}
    for answer in outcomes.answer:
        if answer is not None:
            answers.setdefault(known.setdefault(answer, len(known)), answer)
    distinct_ = np.array([len({int(code) for code in row if code >= 0}) for row in grid.code])
    some = np.flatnonzero((grid.right > 0).any(axis=1))
    order = some[np.argsort(-distinct_[some], kind="stable")][:_CONTESTED]
    found = []
    for row in order:
        drafts = tuple(
            (arm.name, answers.get(int(code), "no answer"), bool(right >= 0.5))
            for arm, code, right in zip(grid.arms, grid.code[row], grid.right[row], strict=True)
        )
        taken = "right" if played.right[row] >= 0.5 else "wrong"
        found.append(Contested(record.text[int(test[row])], drafts, taken, round(float(played.sure[row]), 4)))
    return tuple(found)
