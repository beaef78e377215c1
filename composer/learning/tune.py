"""Ways to ask and to combine, rehearsed on recorded answers: what a pipeline would be worth before any token is spent."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from composer.answers.ballots import Aggregator, Learning, Table
from composer.answers.learn import Learnt
from composer.answers.vote import BestScored, DawidSkene, LogOdds, Majority, Weighted
from composer.errors import InputError
from composer.learning.grid import Grid
from routers.coverage import Coverage, Signals, margins
from routers.doubting import Doubting
from routers.family import prefer
from routers.policy import Fixed
from routers.rules import NullArm, TopK
from routers.select import ranked
from routers.skills import SkillFinder
from routers.stats import folds
from routers.stopping import Agreeing, Cascade, Posterior, Worth, rehearse
from routers.types import Array, Indices, Outcomes, Policy, Questions, Router

PARTS = 4
DEFAULTS = {"1": ("1 at once", "best"), "some": ("until two agree", "learnt"), "all": ("all at once", "learnt")}
_PRICES = (0.002, 0.005, 0.01, 0.02, 0.04)


@dataclass(frozen=True, slots=True)
class Plan:
    """Whom to ask, when to stop, and how to combine: a policy and an aggregator, with the names the registry knows them
    by."""

    asking: str
    policy: Policy
    by: str
    aggregator: Aggregator

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.asking}, {self.by}"


@dataclass(frozen=True, slots=True)
class Played:
    """What a plan came to, per question [n]: right (0 to 1), calls, cost, how sure it was, whom it asked [n, T], and whose
    draft it took (a place among the arms, -1: nobody's)."""

    right: Table
    calls: Table
    cost: Table
    sure: Table
    place: Indices
    taken: Indices


_PLAYED = tuple(each.name for each in fields(Played))


def cross_scores(make: Callable[[], Router], questions: Questions, outcomes: Outcomes) -> Array:
    """Every question's scores by a router that was fitted without it (and without its near-duplicates), [n, arm]."""
    parts = folds(questions.ids, questions.vectors, PARTS)
    found = np.zeros((len(questions), len(outcomes.arms)), dtype=np.float32)
    for part in range(PARTS):
        inner, outer = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        if len(outer):
            router = make().fit(questions.take(inner), outcomes.take(inner))
            found[outer] = router.score(replace(questions.take(outer), skills=()))
    return found


def cross_signals(questions: Questions, scores: Array) -> Signals:
    """Where every question lies, seen from the others (its near-duplicates are not among them). `scores` [n, arm] are
    those of `cross_scores`: the lowest fifth of their margins is flagged."""
    parts = folds(questions.ids, questions.vectors, PARTS)
    margin = margins(scores)
    narrow = margin < np.quantile(margin, 0.2)
    found = Signals(*(np.zeros(len(scores), dtype=kind) for kind in (float, float, float, float, bool, bool)))
    for part in range(PARTS):
        outer = np.flatnonzero(parts == part)
        if len(outer):
            own = (
                Coverage()
                .fit(questions.take(np.flatnonzero(parts != part)))
                .signals(questions.vectors[outer], scores[outer])
            )
            for each in fields(Signals):
                getattr(found, each.name)[outer] = getattr(own, each.name)
    return replace(found, border=found.border | narrow)


def with_skills(grid: Grid, finder: SkillFinder, vectors: Array) -> Grid:
    """The grid with the skill that is found in each question (labels are not known when questions come)."""
    weights = finder.weights(vectors)
    return replace(grid, skills=finder.skills_, skill=np.where(weights.any(axis=1), weights.argmax(axis=1), -1))


def policies(arms: int, voted: bool = True, generalist: str | None = None) -> dict[str, Policy]:
    """The policies that are worth trying with so many arms, unfitted; one call where nobody can vote."""
    if not voted:
        return {"1 at once": Fixed(TopK(1))}
    found: dict[str, Policy] = {f"{k} at once": Fixed(TopK(k)) for k in sorted({1, 2, 3, 5, arms}) if k <= arms}
    if arms < 3:
        return found
    found["1 at once, doubting"] = Doubting(Fixed(TopK(1)), generalist)
    found["until two agree, doubting"] = Doubting(Agreeing(2, arms), generalist)
    for price in (0.02, 0.05, 0.1):
        found[f"null arm {price}"] = Fixed(NullArm(price, arms))
    found["until two agree"] = Agreeing(2, arms)
    found["until three agree"] = Agreeing(min(3, arms), arms)
    found["until the vote is decided"] = Agreeing(arms // 2 + 1, arms)
    for confidence in (0.8, 0.9, 0.95):
        found[f"posterior {confidence}"] = Posterior(confidence, 2, arms)
    for price in _PRICES:
        found[f"cascade {price}"] = Cascade(price, arms)
        found[f"worth {price}"] = Worth(price, arms)
    return found


def aggregators() -> dict[str, Aggregator]:
    """The aggregators that are worth trying, unfitted."""
    return {
        "majority": Majority(),
        "weighted": Weighted(),
        "log-odds": LogOdds(),
        "dawid-skene": DawidSkene(),
        "learnt": Learnt(),
    }


def fit_aggregators(grid: Grid, scores: Array, made: dict[str, Aggregator]) -> dict[str, Aggregator]:
    """Those that learn, fitted on all drafts of these questions in the order of their scores."""
    place = ranked(scores, grid.arms)
    ballots, right = grid.ballots(place, scores), np.take_along_axis(grid.right, place, axis=1)
    return {
        name: copy.deepcopy(each).fit(ballots, right) if isinstance(each, Learning) else each
        for name, each in made.items()
    }


def fit_policies(grid: Grid, scores: Array, made: dict[str, Policy]) -> dict[str, Policy]:
    """Those that learn, fitted on what the most probable answer after 1, 2 … drafts is worth."""
    place = ranked(scores, grid.arms)
    code = np.take_along_axis(grid.code, place, axis=1)
    ballots, right = grid.ballots(place, scores), np.take_along_axis(grid.right, place, axis=1)
    worth = np.zeros(code.shape)
    for seen in range(code.shape[1]):
        slot = LogOdds().combine(ballots.until(np.full(len(code), seen + 1))).slot
        worth[:, seen] = _at(right, slot)
    return {
        name: each.fit(scores, grid.arms, code, worth) if isinstance(each, Cascade | Worth) else each
        for name, each in made.items()
    }


def ask(policy: Policy, grid: Grid, scores: Array) -> Indices:
    """Whom the policy asks, [n, T] in plan order."""
    return rehearse(policy, scores, grid.arms, grid.code, flags=grid.flags)[0]


def combine(aggregator: Aggregator, grid: Grid, scores: Array, place: Indices) -> Played:
    """What the aggregator makes of the drafts of the arms at `place`."""
    ballots = grid.ballots(place, scores)
    verdicts = aggregator.combine(ballots)
    rows, own, asked = np.arange(len(place))[:, None], np.maximum(place, 0), place >= 0
    return Played(
        right=_at(np.where(asked, grid.right[rows, own], 0.0), verdicts.slot),
        calls=asked.sum(axis=1).astype(np.float64),
        cost=np.where(asked, grid.cost[rows, own], 0.0).sum(axis=1),
        sure=verdicts.sure,
        place=place,
        taken=_slot_of(place, verdicts.slot),
    )


def play(plan: Plan, grid: Grid, scores: Array) -> Played:
    """The whole plan on these questions."""
    return combine(plan.aggregator, grid, scores, ask(plan.policy, grid, scores))


def crossed(policy: Policy, aggregator: Aggregator, grid: Grid, scores: Array, questions: Questions) -> Played:
    """What this policy with this aggregator comes to, every question combined by an aggregator that was fitted without it
    (and without its near-duplicates): what its confidence is worth can be learnt from that. Of a question that the policy
    withholds nobody's draft is taken."""
    place, withheld = rehearse(policy, scores, grid.arms, grid.code, questions.ids, grid.flags)
    parts = folds(questions.ids, questions.vectors, PARTS)
    found: Played | None = None
    for part in range(PARTS):
        inner, outer = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
        made = fit_aggregators(grid.take(inner), scores[inner], {"": aggregator})[""]
        played = combine(made, grid.take(outer), scores[outer], place[outer])
        if found is None:
            found = Played(
                *(
                    np.zeros((len(questions), *own.shape[1:]), own.dtype)
                    for own in map(played.__getattribute__, _PLAYED)
                )
            )
        for name in _PLAYED:
            getattr(found, name)[outer] = getattr(played, name)
    assert found is not None
    return replace(found, taken=np.where(withheld, -1, found.taken))


def front(tried: Sequence[tuple[Plan, Played]]) -> list[tuple[Plan, Played]]:
    """The plans that no plan with fewer calls is as often right as, fewest calls first."""
    best, kept = -1.0, []
    for plan, played in sorted(tried, key=lambda pair: (pair[1].calls.mean(), -pair[1].right.mean(), pair[0].name)):
        if played.right.mean() > best + 1e-12:
            best = float(played.right.mean())
            kept.append((plan, played))
    return kept


def every_plan(
    asking: dict[str, Policy], combining: dict[str, Aggregator], grid: Grid, scores: Array
) -> list[tuple[Plan, Played]]:
    """All policies with all aggregators on these questions; one call needs no aggregator."""
    found = []
    for name, policy in asking.items():
        place = ask(policy, grid, scores)
        alone = place.shape[1] < 2
        for by, aggregator in ({"best": BestScored()} if alone else combining).items():
            found.append((Plan(name, policy, by, aggregator), combine(aggregator, grid, scores, place)))
    return found


def _slot_of(place: Indices, slot: Indices) -> Indices:
    found: Indices = np.where(slot >= 0, place[np.arange(len(place)), slot], -1) if place.shape[1] else slot
    return found


def _at(values: Table, slot: Indices) -> Table:
    if not values.shape[1]:
        return np.zeros(len(slot))
    found: Table = np.where(slot >= 0, values[np.arange(len(slot)), np.maximum(slot, 0)], 0.0)
    return found


def rehearsed(
    inner: tuple[Grid, Array], outer: tuple[Grid, Array], generalist: str | None = None
) -> dict[tuple[str, str], tuple[Plan, Played]]:
    """Every plan fitted on `inner`, rehearsed on `outer`, by the names of policy and aggregator."""
    voted = inner[0].voted
    asking = fit_policies(*inner, policies(len(inner[0].arms), voted, generalist))
    combining = fit_aggregators(*inner, aggregators()) if voted else {}
    tried = every_plan(asking, combining, *outer)
    return {(plan.asking, plan.by): (plan, played) for plan, played in tried}


def choose(trial: Mapping[tuple[str, str], tuple[Plan, Played]], budget: str, arms: int) -> tuple[str, str]:
    """The plan with the best calibration accuracy within the budget of mean calls; the budget's default keeps its place
    unless it is clearly beaten (`prefer`)."""
    limit = most_calls(budget, arms)
    fits: dict[tuple[str, str], Table] = {}
    for name, (_, played) in trial.items():
        calls = played.calls
        if calls.mean() + 2 * calls.std() / len(calls) ** 0.5 <= limit + 1e-9:
            fits[name] = played.right
    asking, by = DEFAULTS["1" if limit < 2 else "all" if limit >= arms else "some"]
    default = (f"{arms} at once" if asking == "all at once" else asking, by)
    if default not in fits:  # it asks more than this budget allows: the dearest plan of its aggregator that does not
        same = {name: trial[name][1].calls.mean() for name in fits if name[1] in ("learnt", "best")}
        default = max(same, key=lambda name: same[name])
    by_name = {" / ".join(name): right for name, right in fits.items()}
    first, _, second = prefer(by_name, " / ".join(default)).partition(" / ")
    return first, second


def thriftiest(trial: Mapping[tuple[str, str], tuple[Plan, Played]], budget: str, arms: int) -> tuple[str, str]:
    """The plan with the fewest calls among those within the budget that are not worse than the best of them by more than
    one standard error of the paired difference (the one-standard-error rule, Breiman et al. 1984): a call that wins
    nothing that can be seen is not made."""
    limit = most_calls(budget, arms)
    fits = {
        name: played
        for name, (_, played) in trial.items()
        if played.calls.mean() + 2 * played.calls.std() / len(played.calls) ** 0.5 <= limit + 1e-9
    }
    best = max(fits.values(), key=lambda played: float(played.right.mean()))

    def behind(played: Played) -> bool:
        loss = best.right - played.right
        return bool(loss.mean() > loss.std() / len(loss) ** 0.5)

    as_good = {name: played for name, played in fits.items() if not behind(played)}
    return min(
        as_good,
        key=lambda name: (round(float(as_good[name].calls.mean()), 2), -float(as_good[name].right.mean())),
    )


def check_budget(budget: str) -> None:
    """Raise InputError for a budget that is neither a whole number above 0, nor `N%`, nor `all`."""
    number = budget.removesuffix("%")
    if budget != "all" and not (number.isdecimal() and int(number) > 0):
        raise InputError(
            f"the budget of calls is {budget!r}", remedy="give a whole number above 0, a share such as 75%, or all"
        )


def most_calls(budget: str, arms: int) -> float:
    """A budget of calls per question as a number: a number, `N%` of all arms, or `all`."""
    if budget == "all":
        return float(arms)
    return float(budget[:-1]) / 100 * arms if budget.endswith("%") else min(float(budget), float(arms))
