"""`coe eval routers`: which router is worth using on recorded answers? Fitted on profile, chosen on calibration, tested once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from composer.learning.grid import Grid
from composer.recorded import Recorded
from evals.data import Data, covered, distinct, has_categories, splits
from evals.metrics import Row, known_mean, paired_gap
from evals.replayed import Played, ask, consistent
from evals.ways import ONE, Way, shown, thrifty, ways
from routers.calibrate import CalibratedRouter, calibration_error
from routers.coverage import Coverage
from routers.family import PLAIN, USUAL, family, prefer
from routers.rules import Balanced
from routers.select import ranked
from routers.stats import bootstrap_interval, calibration_split
from routers.types import Array, Indices, Questions, Router

CONTROL = "control: labels shuffled"


@dataclass(frozen=True, slots=True)
class RoutingRow(Row):
    """A row of the common form, and what routing adds: the `budget` of calls it was chosen for ("cost": for costing
    least), `cost` per question (USD where the record has prices, else characters of answers), what a decision takes in
    CPU seconds, the share of calls per arm, and paired differences (mean, low, high) to the best single arm and to the
    best arm of the question's category, given the label."""

    budget: str | None = None
    cost: float | None = None
    decision_seconds: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    to_best_single: tuple[float, float, float] | None = None
    to_category_best: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Gaps:
    """Recall of the coverage alarm on a domain that was left out of the profile, and false alarms on the others."""

    domain: str
    n: int
    recall: float
    false_alarms: float


@dataclass(frozen=True, slots=True)
class Report:
    """The evaluation of one pool: rows, notes, and what the page draws: `heat` [arm][category] accuracy, `reliability`
    (stated, found, n) of the chosen router's probabilities, and its expected calibration error."""

    group: str
    rows: tuple[RoutingRow, ...]
    notes: tuple[str, ...]
    heat: Mapping[str, Mapping[str, float]]
    reliability: tuple[tuple[float, float, int], ...]
    error: float
    gaps: tuple[Gaps, ...] = ()


def evaluate(
    record: Recorded,
    vectors: Array,
    *,
    group: str,
    calls: Sequence[str] = ("1", "3", "all"),
    test_split: str = "dev",
    strict: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> Report:
    """Fit every candidate on four fifths of the profile, choose one per call budget on the last fifth, fit it on all of
    the profile, and open the test split.

    Profile questions within cosine 0.95 of a test question are dropped and counted; with `strict` they are an error.
    Raises InputError where a split is missing.
    """
    notes: list[str] = []
    profile, test = splits(record, test_split)
    profile = distinct(profile, test, vectors, strict, notes)
    record = covered(record, profile, test, notes)
    data = Data.of(record, vectors)
    learn, check = data.take(profile), data.take(test)
    held = calibration_split(learn.questions.ids, learn.questions.vectors)
    inner, outer = learn.take(np.flatnonzero(~held)), learn.take(np.flatnonzero(held))
    labelled = has_categories(learn.questions)
    if not labelled:
        notes.append("the questions have no categories: routers and references that need them are left out")
    if not record.voted:
        notes.append("no answers were recorded, only scores: nobody votes, and every budget is spent on one call")
    candidates = family(labelled)
    trials: dict[str, Array] = {}
    for name, make in candidates.items():
        say(f"{group}: fitting {name}")
        trials[name] = make().fit(inner.questions, inner.outcomes).score(outer.asked)
    picks = {budget: _choose(trials, outer, budget, USUAL) for budget in dict.fromkeys(calls)}
    saver = _cheapest(trials, outer)
    if saver is None:
        unknown = np.isnan(outer.grid.cost).any()
        why = (
            "costs are not known" if unknown else f"nothing cheaper than {PLAIN} was shown to be as good on calibration"
        )
        notes.append(f"{why}: no row is chosen for cost")
    # from here on the test split is open: nothing below changes what was chosen
    results: list[_Result] = _references(learn, check, labelled)
    scores: dict[str, tuple[Array, float]] = {}
    for name, make in candidates.items():
        say(f"{group}: testing {name}")
        scores[name] = _timed(make().fit(learn.questions, learn.outcomes), check.asked)
        if name == PLAIN:
            continue  # it is among the references
        results.append(_Result(name, ONE.play(check.grid, scores[name][0], check.questions.ids), scores[name][1]))
    for way in shown(len(check.grid.arms), record.voted):
        played = way.play(check.grid, scores[USUAL][0], check.questions.ids)
        results.append(_Result(f"{USUAL}, {way.name}", played, scores[USUAL][1]))
    level = Balanced()
    played = Way("balanced", level).play(check.grid, scores[USUAL][0], check.questions.ids)
    results.append(_Result(f"{USUAL}, balanced over the batch", played, scores[USUAL][1]))
    given = level.given_up(scores[USUAL][0], check.grid.arms)
    notes.append(f"balancing the calls over the arms gives up {100 * given:.2f} points of expected accuracy")
    for budget, (name, way) in picks.items():
        played = way.play(check.grid, scores[name][0], check.questions.ids)
        results.append(_Result(f"chosen for {budget}: {name}, {way.name}", played, scores[name][1], budget))
    if saver is not None:
        name, thrift = saver
        played = thrift.play(check.grid, scores[name][0], check.questions.ids)
        results.append(_Result(f"chosen for cost: {name}, {thrift.name}", played, scores[name][1], "cost"))
    control = _control(learn, check, candidates, picks, USUAL)
    results.append(control)
    base = {each.system: each.played for each in results}
    rows = tuple(_row(each, group, check, base.get(PLAIN), base.get("category-best, label given")) for each in results)
    told = next(row for row in rows if row.system == control.system).to_best_single
    if told is not None and not told[1] <= 0 <= told[2]:
        notes.append("the control with shuffled labels does not vanish: do not trust this table")
    best = picks[next(iter(picks))][0]
    reliability, error = _reliability(candidates[best], learn, check)
    gaps = tuple(held_out_domains(learn.questions, check.questions)) if labelled else ()
    return Report(group, rows, tuple(notes), _heat(check, record, test), reliability, error, gaps)


@dataclass(frozen=True, slots=True)
class _Result:
    system: str
    played: Played
    decision: float | None = None
    budget: str | None = None  # what it was chosen for before the test split was opened


def _choose(trials: Mapping[str, Array], held: Data, budget: str, default: str) -> tuple[str, Way]:
    """The router and way with the best calibration accuracy within the budget of mean calls (`prefer` says what wins)."""
    limit = float("inf") if budget == "all" else float(budget)
    best: dict[str, tuple[Table, Way]] = {}
    for name, scores in trials.items():
        for each in ways(budget, len(held.grid.arms), held.grid.voted):
            way = each.fitted(scores, held.grid)
            played = way.play(held.grid, scores, held.questions.ids)
            if played.calls.mean() + 2 * played.calls.std() / len(played.calls) ** 0.5 > limit:
                continue
            if name not in best or played.right.mean() > best[name][0].mean():
                best[name] = (played.right, way)
    chosen = prefer({name: right for name, (right, _) in best.items()}, default)
    return chosen, best[chosen][1]


def _cheapest(trials: Mapping[str, Array], held: Data) -> tuple[str, Way] | None:
    """The router and way that cost least on calibration among those right there more often than the best single arm by
    at least one standard error (out of a hundred ways, one that is merely level there is worse elsewhere); None where
    nothing of that kind is cheaper than that arm."""
    if np.isnan(held.grid.cost).any():
        return None
    single = ONE.play(held.grid, trials[PLAIN], held.questions.ids)
    best, found = float(single.cost.mean()), None
    for name, scores in trials.items():
        for way in thrifty():
            played = way.play(held.grid, scores, held.questions.ids)
            gain = played.right - single.right
            if gain.mean() >= gain.std() / len(gain) ** 0.5 and played.cost.mean() < best:
                best, found = float(played.cost.mean()), (name, way)
    return found


Table = NDArray[np.float64]


def _references(learn: Data, check: Data, labelled: bool) -> list[_Result]:
    """What routers are measured against."""
    grid, n = check.grid, len(check.questions)
    rows = np.arange(n)
    means = np.nanmean(learn.outcomes.matrix(len(learn.questions)), axis=0)
    order = ranked(np.tile(means.astype(np.float32), (n, 1)), grid.arms)
    found = [
        _Result("random", _mean_of_all(grid)),
        _Result(PLAIN, ask(grid, order[:, :1])),
        _Result(
            "best-single of the test split (hindsight)", ask(grid, np.full((n, 1), grid.right.mean(axis=0).argmax()))
        ),
    ]
    if labelled:
        table = _by_category(learn, check, means)
        best = ranked(table, grid.arms)
        found.append(_Result("category-best, label given", ask(grid, best[:, :1])))
        if grid.voted and len(grid.arms) > 2:
            found.append(_Result("category-top-3, label given", ask(grid, best[:, :3])))
    if grid.voted:
        found.append(_Result("majority of all", ask(grid, order)))
        if check.outcomes.sample.any():
            place = int(order[0, 0])
            found.append(_Result("best-single, self-consistency", consistent(check.outcomes, grid, place)))
    oracle = grid.right.argmax(axis=1)
    unknown = np.full(n, np.nan)
    found.append(_Result("oracle", Played(grid.right[rows, oracle], unknown, unknown, oracle)))
    return found


def _mean_of_all(grid: Grid) -> Played:
    """What one arm drawn at random is right on average, without the draw's noise."""
    n = len(grid.right)
    return Played(grid.right.mean(axis=1), np.ones(n), grid.cost.mean(axis=1), np.full(n, -1))


def _by_category(learn: Data, check: Data, means: Table) -> Array:
    """Each question's category's mean scores on the profile, [n, arm]; those of all where the profile has none of it."""
    scores = learn.outcomes.matrix(len(learn.questions))
    own = np.array([skills[0] for skills in learn.questions.skills])
    table = {name: _mean_or(scores[own == name], means) for name in set(own.tolist())}
    return np.stack([table.get(skills[0] if skills else "", means) for skills in check.questions.skills]).astype(
        np.float32
    )


def _mean_or(scores: Table, means: Table) -> Table:
    """The mean over what was run, `means` for an arm that was not."""
    seen = ~np.isnan(scores)
    found: Table = np.where(
        seen.any(axis=0), np.where(seen, scores, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1), means
    )
    return found


def _timed(router: Router, questions: Questions) -> tuple[Array, float]:
    """Scores, and the CPU seconds that one question of a batch took."""
    router.score(questions.take([0]))  # what is made once is not what a decision takes
    began = time.process_time()
    scores = router.score(questions)
    return scores, (time.process_time() - began) / len(questions)


def _control(
    learn: Data,
    check: Data,
    candidates: Mapping[str, Callable[[], Router]],
    picks: Mapping[str, tuple[str, Way]],
    default: str,
) -> _Result:
    """The chosen router, or the default, fitted with each question's outcomes given to another question: what it still
    gains over the best single arm would be a fault of the harness."""
    name = next((name for name, _ in picks.values() if name != PLAIN), default)
    turned = np.random.default_rng(0).permutation(len(learn.questions))
    shuffled = replace(learn.outcomes, question=turned[learn.outcomes.question])
    scores, seconds = _timed(candidates[name]().fit(learn.questions, shuffled), check.asked)
    return _Result(f"{CONTROL} ({name})", ONE.play(check.grid, scores, check.questions.ids), seconds)


def _row(each: _Result, group: str, check: Data, single: Played | None, category: Played | None) -> RoutingRow:
    played = each.played
    low, high = bootstrap_interval(played.right)
    count = np.bincount(played.arm[played.arm >= 0], minlength=len(check.grid.arms))
    shares = {
        arm.name: round(float(own) / len(played.arm), 4) for arm, own in zip(check.grid.arms, count, strict=True) if own
    }
    return RoutingRow(
        system=each.system,
        group=group,
        n=len(played.right),
        accuracy=round(float(played.right.mean()), 4),
        low=round(low, 4),
        high=round(high, 4),
        calls=known_mean(played.calls),
        tokens=None,
        seconds=None,
        chosen=each.budget is not None,
        budget=each.budget,
        cost=known_mean(played.cost, 8),
        decision_seconds=each.decision,
        shares=shares,
        to_best_single=None if single is None else paired_gap(played.right, single.right),
        to_category_best=None if category is None else paired_gap(played.right, category.right),
    )


def _heat(check: Data, record: Recorded, test: Indices) -> dict[str, dict[str, float]]:
    category = np.array([record.category[i] or record.benchmark[i] for i in test])
    return {
        arm.name: {
            name: round(float(check.grid.right[category == name, place].mean()), 4)
            for name in sorted(set(category.tolist()))
        }
        for place, arm in enumerate(check.grid.arms)
    }


def _reliability(
    make: Callable[[], Router], learn: Data, check: Data
) -> tuple[tuple[tuple[float, float, int], ...], float]:
    """Ten bins of the calibrated probabilities of the first-ranked arms, and the expected calibration error."""
    router = CalibratedRouter(make()).fit(learn.questions, learn.outcomes)
    scores = router.score(check.asked)
    best = ranked(scores, router.arms)[:, 0]
    rows = np.arange(len(best))
    stated, found = scores[rows, best].astype(np.float64), check.grid.right[rows, best]
    parts = np.array_split(np.argsort(stated, kind="stable"), 10)
    bins = tuple(
        (round(float(stated[part].mean()), 4), round(float(found[part].mean()), 4), len(part))
        for part in parts
        if len(part)
    )
    return bins, calibration_error(stated, found)


def left_out_models(
    record: Recorded, vectors: Array, *, group: str, test_split: str, few: int = 200, say: Callable[[str], None]
) -> list[RoutingRow]:
    """What adding a model later takes: for each arm the default router fitted without it, to which it is added with
    `few` profile questions, beside the router that had it, on all questions, from the start. The difference is paired."""
    profile, test = splits(record, test_split)
    profile = distinct(profile, test, vectors, False, [])
    record = covered(record, profile, test, [])
    data = Data.of(record, vectors)
    learn, check = data.take(profile), data.take(test)
    labelled = has_categories(learn.questions)
    make = family(labelled)[USUAL]
    whole = ONE.play(check.grid, make().fit(learn.questions, learn.outcomes).score(check.asked), check.questions.ids)
    some = np.sort(np.random.default_rng(0).permutation(len(learn.questions))[:few])
    names = [arm.name for arm in learn.outcomes.arms]
    rows = []
    for late in names:
        say(f"{group}: adding {late} later")
        router = make().fit(learn.questions, learn.outcomes.only([name for name in names if name != late]))
        router.add_arm(learn.questions.take(some), learn.outcomes.only([late]).take(some))
        order = [[arm.name for arm in router.arms].index(name) for name in names]
        played = ONE.play(check.grid, router.score(check.asked)[:, order], check.questions.ids)
        row = _row(_Result(f"{late} added later with {len(some)} questions", played), group, check, whole, None)
        rows.append(row)
    return rows


def held_out_domains(profile: Questions, test: Questions) -> list[Gaps]:
    """For each domain: the coverage alarm learnt without it, its recall on the domain's test questions, and the share
    of false alarms on the other domains' ones."""
    own = np.array([skills[0] for skills in profile.skills])
    asked = np.array([skills[0] if skills else "" for skills in test.skills])
    found = []
    for domain in sorted(set(own.tolist())):
        rest = np.flatnonzero(own != domain)
        inside, outside = np.flatnonzero(asked != domain), np.flatnonzero(asked == domain)
        if len(rest) < 50 or len(outside) < 10 or not len(inside):
            continue
        coverage = Coverage().fit(profile.take(rest))
        none = np.zeros((len(test), 2), dtype=np.float32)
        alarm = coverage.signals(test.vectors, none).outside
        found.append(
            Gaps(domain, len(outside), round(float(alarm[outside].mean()), 4), round(float(alarm[inside].mean()), 4))
        )
    return found
