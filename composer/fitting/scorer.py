"""`coe fit answers --scorer`: does a ridge over capability ratings order drafts better than their mean? Fitted, tested, then installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random

import numpy as np

from composer.answers.capabilities import CAPABILITIES, Capabilities, category_of
from composer.answers.rating import Pair, Ratings, Scorer, fit_ridge, pair_accuracy, rating, rating_requests
from composer.asker import Asker
from composer.errors import InputError
from composer.jsonl import Labelled
from composer.marks import alike, mark
from composer.pipeline import Pipeline
from composer.places import scorers_folder
from composer.records.scorer import ScorerRecord, read_scorers, write_scorers
from composer.stages.asking import asking
from composer.state import lettered
from composer.types import Draft, Request
from routers.stats import calibration_split, paired_difference

MOST = 300
"""Questions that are rated, at most: every answer costs a call per capability question."""
_LEAST = 30  # held-out questions, under which a paired test says nothing
_FAILED = 0.1  # share of drafts, or of ratings, that may be missing


@dataclass(frozen=True, slots=True)
class FittedScorer:
    """What was found for the expert `by`: on `held` questions that had no part in the fit the share of pairs, one draft right and
    one wrong, that the ridge and the plain mean of the ratings put in order (`accuracy`, `plain`), and the paired `difference`
    (mean, low, high). `unread` is the share of ratings that could not be read; `weights` are of the ridge on all `questions`."""

    by: str
    questions: int
    held: int
    accuracy: float
    plain: float
    difference: tuple[float, float, float]
    unread: float
    weights: Mapping[str, tuple[float, ...]]

    @property
    def installed(self) -> bool:
        """Whether it is shown to be better."""
        return self.difference[1] > 0

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.by}: {self.questions} questions with right and wrong answers, {100 * self.unread:.0f} % of its ratings unread"
        for category, weights in self.weights.items():
            yield f"  {category:8} " + " ".join(f"{one:+.2f}" for one in weights)
        mean, low, high = (100 * value for value in self.difference)
        yield (
            f"  pairs in order: ridge {100 * self.accuracy:.1f} %, mean rating {100 * self.plain:.1f} %: {mean:+.1f} points "
            f"[{low:+.1f}, {high:+.1f}] on {self.held} held-out questions"
        )
        yield "installed" if self.installed else "that the ridge is better is not shown: nothing is installed"


@dataclass(frozen=True, slots=True)
class _Mixed:
    """A question with right and wrong drafts, each answer once, and its category."""

    item: Labelled
    category: str
    right: Sequence[str]
    wrong: Sequence[str]


def capabilities_of(pipeline: Pipeline, by: str) -> Capabilities:
    """The capability questions that the registry's `score` stages by this expert ask: the packaged ones with its own."""
    pipelines = (pipeline.settings.pipeline, *pipeline.settings.pipelines.values())
    own: dict[str, tuple[str, ...]] = {}
    for step in (step for steps in pipelines for step in steps if step.use == "score" and step.options.get("by") == by):
        own |= {name: tuple(asked) for name, asked in step.options.get("questions", {}).items()}
    return {**CAPABILITIES, **own}


def fit_scorer(
    pipeline: Pipeline,
    by: str,
    items: Sequence[Labelled],
    *,
    say: Callable[[str], None] = lambda _text: None,
) -> FittedScorer:
    """Draw what every arm that reads nothing and runs nothing says to the labelled `items` (the store is looked into first), let the expert `by` rate
    right and wrong answers, each once, fit the ridge on the questions that are not calibration, and test it there against the mean
    rating, on pairs of one right and one wrong answer. It is installed if the paired interval of what it gains lies above 0, and is
    then fitted on everything; else what was installed of this expert is removed.

    Closes the pipeline. Raises InputError for an expert that is not there, too few questions, or many drafts or ratings that
    failed.
    """
    arms = [arm.name for arm in pipeline.registry.arms()]
    if by not in arms:
        what, remedy = pipeline.settings.unanswering(by, arms)
        raise InputError(what, where="--scorer", remedy=remedy)
    capabilities = capabilities_of(pipeline, by)
    usable = [item for item in items if item.split != "test" and not item.question.tests]
    with pipeline:
        mixed = pipeline.complete(_drawn(pipeline, usable, capabilities, say))
        texts = [lettered(one.item.question.text, one.item.question.choices) for one in mixed]
        vectors = pipeline.encoder().encode(texts) if texts else None
        held = calibration_split([one.item.question.id for one in mixed], vectors)
        if held.sum() < _LEAST:
            raise InputError(
                f"{len(mixed)} questions have right and wrong answers, too few to test a scorer on: {held.sum()} of {_LEAST} "
                "are held out",
                remedy="give more labelled questions: coe fit answers --scorer EXPERT --runs labelled.jsonl",
            )
        pairs, unread = pipeline.complete(_rated(pipeline, by, mixed, capabilities, say))
    learnt = fit_ridge([pair for pair in pairs if not held[pair.question]], capabilities)
    check = [pair for pair in pairs if held[pair.question]]
    ridge, plain = (list(pair_accuracy(check, scorer).values()) for scorer in (learnt, None))
    scorer = fit_ridge(pairs, capabilities)
    found = FittedScorer(
        by=by,
        questions=len(mixed),
        held=len(ridge),
        accuracy=float(np.mean(ridge)),
        plain=float(np.mean(plain)),
        difference=paired_difference(ridge, plain),
        unread=unread,
        weights=scorer.weights,
    )
    _install(pipeline, found, scorer)
    return found


def _install(pipeline: Pipeline, found: FittedScorer, scorer: Scorer) -> None:
    """Write the record if it is better; one of this expert that was there is of other drafts, and goes either way."""
    folder, prints = scorers_folder(pipeline.registry), pipeline.registry.prints()
    known, _ = read_scorers(folder, prints)
    kept = [record for name, record in known.items() if name != found.by]
    if found.installed:
        kept.append(ScorerRecord(found.by, prints[found.by], scorer, *found.difference, found.held))
    if kept or known:
        write_scorers(folder, kept)


async def _drawn(
    pipeline: Pipeline, items: Sequence[Labelled], capabilities: Capabilities, say: Callable[[str], None]
) -> list[_Mixed]:
    """The questions that have both right and wrong answers, at most `MOST` of them, drawn with a fixed seed."""
    registry = pipeline.registry
    every = [arm.name for arm in registry.arms()]
    arms = [arm for arm in every if registry.evidence(arm) is None and registry.strategy(arm) is None]
    say(f"{len(items)} questions to {', '.join(arms)}")
    requests: dict[tuple[int, str], Request] = {}
    for row, item in enumerate(items):
        prompt = lettered(item.question.text, item.question.choices)
        for arm in arms:  # as `coe profile` asks, so that what it has drawn is in the store
            stream = registry.stream(arm, registry.messages(arm, prompt))
            request = Request(f"{row}:{arm}:0", (stream,), registry.sampling(arm), arm=arm, parent=item.question.id)
            requests[row, arm] = request
    drafts = await asking(pipeline.pool)(list(requests.values()))
    _check_failed([drafts[request.id] for request in requests.values()], "drafts")
    found = []
    for row, item in enumerate(items):
        one = _mixed(item, [drafts[requests[row, arm].id] for arm in arms], capabilities)
        if one is not None:
            found.append(one)
    Random(0).shuffle(found)
    return found[:MOST]


def _mixed(item: Labelled, drafts: Sequence[Draft], capabilities: Capabilities) -> _Mixed | None:
    """The different answers of a question as the stage would see them; None where none is right, or none is wrong."""
    marks = [mark(item, draft.text, draft.ok) for draft in drafts]
    words = alike(item, [answer for answer, _ in marks])
    first: dict[str, tuple[str, float]] = {}
    for draft, answer, (_, worth) in zip(drafts, words, marks, strict=True):
        if answer is not None and worth is not None:
            first.setdefault(answer, (draft.text, worth))
    right = [text for text, worth in first.values() if worth >= 1]
    wrong = [text for text, worth in first.values() if worth <= 0]
    if not right or not wrong:
        return None
    return _Mixed(item, category_of(capabilities, item.task, item.question.kind or "text"), right, wrong)


async def _rated(
    pipeline: Pipeline, by: str, mixed: Sequence[_Mixed], capabilities: Capabilities, say: Callable[[str], None]
) -> tuple[list[Pair], float]:
    """All pairs of a right and a wrong answer with their ratings, in one pass over the hosts; and the share of ratings that could
    not be read."""
    asked: dict[tuple[int, str], list[Request]] = {}
    for row, one in enumerate(mixed):
        prompt = lettered(one.item.question.text, one.item.question.choices)
        own = capabilities[one.category]
        for place, text in enumerate([*one.right, *one.wrong]):
            behalf = Asker(f"{row}:{one.item.question.id}")
            asked[row, text] = rating_requests(pipeline.registry, by, prompt, text, own, behalf, place * len(own))
    requests = [request for own in asked.values() for request in own]
    say(f"{len(requests)} ratings by {by}")
    drafts = await asking(pipeline.pool)(requests)
    _check_failed([drafts[request.id] for request in requests], "ratings")
    ratings: dict[tuple[int, str], Ratings] = {
        name: tuple(rating(drafts[request.id]) for request in own) for name, own in asked.items()
    }
    pairs = [
        Pair(row, one.category, tuple(ratings[row, right]), tuple(ratings[row, wrong]))
        for row, one in enumerate(mixed)
        for right, wrong in product(one.right, one.wrong)
    ]
    told = [one for own in ratings.values() for one in own]
    return pairs, sum(one is None for one in told) / max(1, len(told))


def _check_failed(drafts: Sequence[Draft], what: str) -> None:
    """Raise InputError where many calls failed: what is left would be another sample."""
    failed = [draft for draft in drafts if draft.error is not None]
    if drafts and len(failed) > _FAILED * len(drafts):
        error = failed[0].error
        assert error is not None
        raise InputError(
            f"{len(failed)} of {len(drafts)} {what} failed: {error.message}", remedy="coe experts check, then ask again"
        )
