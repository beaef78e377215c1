"""Does it help to take off what a weaker source would say? Every partner against plain decoding, per skill set, live.

The numbers of each contrast are chosen on questions of the split `calibration`, and used once on `test`. Seconds are left
out: all ways are asked at once, so that each waits for the others (`evals.bench.contrast` measures what they cost).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from composer.fitting.contrast import ALPHAS, BETAS
from composer.fitting.contrasting import Asked, Tried, Variant, prepared, try_all
from composer.jsonl import Labelled, Question
from composer.marks import alike, mark
from composer.pipeline import Pipeline
from composer.settings.contrast import BASE, RANDOM, UNCHOSEN, UNREAD, ContrastSpec
from composer.settings.specs import ArmSpec, Settings
from evals.metrics import Gap, Result, Row, gap, row
from evals.retrieval import build_index, reading, with_reader
from evals.tasks.passages.corpus import Corpus
from evals.tasks.passages.invented import generate
from evals.tasks.skills import DEFAULT, Item, items
from evals.tasks.wordproblems import wordproblems

WORDS, HARD, READ = "wordproblems", "arithmetic-3digit", "reading"
GROUPS = (*DEFAULT, HARD, WORDS, READ)
GREEDY, GENERAL, ORACLE = "greedy", "general, greedy", "oracle"
WARM = 0.7  # temperature of plain sampling
VOTES, MOST_VOTES = (
    (2, 3),
    9,
)  # samples that are voted on always, and at most, to spend the passes of the dearest contrast
_SEED = 2  # of the test questions; `coe eval skills` and `coe eval engines` ask those of 1


@dataclass(frozen=True, slots=True)
class ContrastRow(Row):
    """A row with what made it: the `engine`, the `partner` (None: nobody), `alpha` and `beta`, and forward `passes` per
    question over all streams."""

    engine: str
    partner: str | None
    alpha: float | None
    beta: float | None
    passes: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of every group; what each system gains over greedy decoding of the same arm, and what each contrast gains over the
    vote that costs no less (`matched`: its system, per group); what the numbers were chosen by: points over greedy on
    calibration, per group and way; and `notes` per group on what the rows do not show."""

    rows: tuple[ContrastRow, ...]
    gaps: Mapping[str, tuple[Gap, ...]]
    chosen_by: Mapping[str, Mapping[str, float]]
    matched: Mapping[str, str]
    notes: Mapping[str, tuple[str, ...]]


def with_contrasts(settings: Settings) -> Settings:
    """The registry, with every specialist and every arm that reads contrasted with everything it can be."""
    arms: list[ArmSpec] = []
    for kind in (BASE, UNCHOSEN, RANDOM, UNREAD):
        spec = ContrastSpec(kind, kind)
        for arm in (ArmSpec(name, name) for name in settings.arms):
            own = settings.arms[arm.name]
            adapted = settings.experts[own.expert].adapter is not None
            if own.contrast is None and (own.evidence is not None if kind == UNREAD else adapted):
                arms.append(replace(own, name=f"{own.name}~{kind}", contrast=spec))
    return replace(settings, contrasting=tuple(arms))


def questions(group: str, split: str, n: int, corpus: Corpus | None = None) -> list[Labelled]:
    """`n` questions of a group; of reading, those that a passage answers."""
    if group == READ:
        assert corpus is not None
        wanted = "profile" if split == "calibration" else split
        return [one for one in corpus.items if one.split == wanted and corpus.relevant.get(one.question.id)][:n]
    made = wordproblems(split, n, _SEED) if group == WORDS else items(group, split, n, _SEED)  # type: ignore[arg-type]
    return [_labelled(item) for item in made]


def arm_of(group: str, reader: str) -> str:
    """Who is asked the questions of a group."""
    return reader if group == READ else "arithmetic" if group in (WORDS, HARD) else group


def measure(
    pipeline: Pipeline,
    engine: str,
    groups: Sequence[str],
    n: int,
    *,
    betas: Sequence[float] = BETAS,
    alphas: Sequence[float] = ALPHAS,
    corpus: Corpus | None = None,
    ranking: Pipeline | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Every group's arm on `n` test questions (half as many for calibration): greedy, with each partner, sampled and voted.
    The pipeline is one of `with_contrasts`, inside `with`; `ranking`, the same registry, ranks the experts where the pipeline's
    own weights have no profile. Raises what asking raises."""
    rows: list[ContrastRow] = []
    gaps: dict[str, tuple[Gap, ...]] = {}
    rated: dict[str, dict[str, float]] = {}
    matched: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    reader = next((arm.name for arm in pipeline.settings.reading), "")
    for group in groups:
        arm = arm_of(group, reader)
        own = [name for name, plain in pipeline.registry.contrasts().items() if plain == arm]
        tuning = prepared(ranking or pipeline, questions(group, "calibration", n // 2, corpus))
        say(f"{group}: {len(tuning.items)} questions to choose on, {len(own) * len(betas) * len(alphas)} ways")
        best, rated[group], lost = pipeline.complete(_choose(pipeline, tuning, arm, own, betas, alphas))
        asked = prepared(ranking or pipeline, questions(group, "test", n, corpus))
        say(f"{group}: {len(asked.items)} test questions")
        found = pipeline.complete(_test(pipeline, asked, arm, list(best.values())))
        results = _results(asked, found, rated[group])
        whole = range(len(asked.items))
        rows += [_row(result, group, engine, tried) for result, tried in results]
        matched[group] = _matched(results)
        plain, vote = (next(one for one, _ in results if one.system == name) for name in (GREEDY, matched[group]))
        contrasts = [result for result, tried in results if tried.variant.arm is not None]
        gaps[group] = (
            *(gap(result, plain, whole) for result, _ in results[1:]),
            *(gap(result, vote, whole) for result in contrasts),
        )
        notes[group] = tuple(_notes(rated[group], len(tuning.items), lost, found))
    return Report(tuple(rows), gaps, rated, matched, notes)


async def _choose(
    pipeline: Pipeline, asked: Asked, arm: str, own: Sequence[str], betas: Sequence[float], alphas: Sequence[float]
) -> tuple[dict[str, Variant], dict[str, float], int]:
    """The best numbers of each contrast; what each gains, where greedy is 0; and how many drafts failed."""
    ways = [Variant(arm, name, beta, alpha) for name in own for beta in betas for alpha in alphas]
    plain, *tried = await try_all(pipeline, asked, [Variant(arm), *ways])
    gains = {one.variant: float((one.right - plain.right).mean()) for one in tried}
    best = {name: max((way for way in ways if way.arm == name), key=lambda way: gains[way]) for name in own}
    told = {GREEDY: 0.0} | {_partner(way): round(100 * gains[way], 2) for way in best.values()}
    return best, told, sum(_failed(one) for one in (plain, *tried))


async def _test(pipeline: Pipeline, asked: Asked, arm: str, best: Sequence[Variant]) -> list[Tried]:
    general = pipeline.registry.generalist
    sampled = Variant(arm, samples=max(VOTES), temperature=WARM)
    others = [Variant(general)] if arm != general else []
    found = await try_all(pipeline, asked, [Variant(arm), *best, sampled, *others])
    at = 1 + len(best)
    while _cost(found[at]) < _dearest(found) and sampled.samples < MOST_VOTES:
        sampled = replace(sampled, samples=sampled.samples + 1)
        [found[at]] = await try_all(pipeline, asked, [sampled])
    return found


def _cost(one: Tried) -> float:
    """Forward passes per question."""
    return float(one.passes.mean())


def _dearest(found: Sequence[Tried]) -> float:
    """The passes of the contrast that takes the most."""
    return max((_cost(one) for one in found if one.variant.arm is not None), default=0.0)


def _failed(one: Tried) -> int:
    return sum(draft.error is not None or draft.stop == "cancelled" for drafts in one.drafts for draft in drafts)


def _matched(results: Sequence[tuple[Result, Tried]]) -> str:
    """The vote of the fewest samples that takes no fewer passes than any contrast; the largest vote where none does."""
    dearest = _dearest([tried for _, tried in results])
    votes = [(result.system, tried) for result, tried in results if tried.variant.samples > 1]
    return next((name for name, tried in votes if _cost(tried) >= dearest), votes[-1][0])


def _notes(rated: Mapping[str, float], many: int, lost: int, found: Sequence[Tried]) -> Iterator[str]:
    gained = ", ".join(f"{name} {points:+.1f}" for name, points in rated.items() if name != GREEDY)
    yield f"on {many} calibration questions, points over greedy: {gained}"
    if lost:
        yield f"{lost} drafts failed on calibration, and count as wrong"
    for one in found:
        if failed := _failed(one):
            way = one.variant
            name = _partner(way) if way.arm else f"{way.plain}{', sampled' if way.samples > 1 else ''}"
            yield f"{name}: {failed} test drafts failed, and count as wrong"


def _results(asked: Asked, tried: Sequence[Tried], rated: Mapping[str, float]) -> list[tuple[Result, Tried]]:
    """Greedy first. The one that was best on calibration is marked; ties go to greedy."""
    chosen = max(rated, key=lambda name: rated[name])
    found: list[tuple[Result, Tried]] = []
    for one in tried:
        if one.variant.samples > 1:
            votes = sorted({*VOTES, one.variant.samples})
            found += [(voted(asked, one, many), _first(one, many)) for many in votes if many <= one.variant.samples]
        else:
            greedy = GREEDY if one is tried[0] else GENERAL
            name = greedy if one.variant.arm is None else _partner(one.variant)
            found.append((Result(name, one.right, _ones(one), one.tokens, _unknown(one), name == chosen), one))
    every = [one for one in tried if one.variant.samples == 1]
    best = np.max([one.right for one in every], axis=0)
    tokens, passes = (np.sum([getattr(one, column) for one in every], axis=0) for column in ("tokens", "passes"))
    calls = len(every) * _ones(tried[0])
    found.append((Result(ORACLE, best, calls, tokens, _unknown(tried[0])), replace(tried[0], passes=passes)))
    return found


def voted(asked: Asked, one: Tried, many: int) -> Result:
    """Plain sampling: the most frequent answer of the first `many` samples taken (ties: the first)."""
    right = np.zeros(len(asked.items))
    for row_, (item, drafts) in enumerate(zip(asked.items, one.drafts, strict=True)):
        marks = [mark(item, draft.text, draft.ok) for draft in drafts[:many]]
        votes = Counter(answer for answer in alike(item, [answer for answer, _ in marks]) if answer is not None)
        if votes:
            top = votes.most_common(1)[0][0]
            same = alike(item, [answer for answer, _ in marks])
            right[row_] = marks[same.index(top)][1] or 0.0
    part = _first(one, many)
    return Result(f"sampling, majority of {many}", right, many * _ones(one), part.tokens, _unknown(one))


def _first(one: Tried, many: int) -> Tried:
    """What the first `many` samples of it cost."""
    used = [[draft.usage for draft in drafts[:many]] for drafts in one.drafts]
    return replace(
        one,
        tokens=np.array([sum(use.tokens_in + use.tokens_out for use in own) for own in used], dtype=np.float64),
        passes=np.array([sum(use.passes for use in own) for own in used], dtype=np.float64),
    )


def _row(result: Result, group: str, engine: str, tried: Tried) -> ContrastRow:
    way = tried.variant
    contrasted = way.arm is not None
    return ContrastRow(
        **asdict(row(result, group, range(len(result.right)))),
        engine=engine,
        partner=_partner(way) if contrasted else None,
        alpha=way.alpha if contrasted else None,
        beta=way.beta if contrasted else None,
        passes=round(float(tried.passes.mean()), 3),
    )


def _partner(way: Variant) -> str:
    return (way.arm or "").partition("~")[2]


def _ones(one: Tried) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.ones(len(one.right))


def _unknown(one: Tried) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.full(len(one.right), np.nan)


def _labelled(item: Item) -> Labelled:
    return Labelled(Question(item.id, item.question, (), item.kind, 1), item.answer, item.task, item.split)


LEGEND = (
    "* best on calibration, of greedy and the contrasts (of equal ones greedy, then the smaller beta); = the smallest vote that",
    "takes at least the passes of every contrast. to greedy, to vote: paired 95 % intervals, each for itself: of twenty one lies off",
    "0 by chance; [+0.0, +0.0] is that no question differs. oracle: the best of all but the votes on each question, which luck",
    "alone puts above greedy. passes, tokens (read and written): per question, over all streams and samples.",
)


def lines(report: Report) -> Iterator[str]:
    """For people: a table per group, its notes, and what the columns mean."""
    for group, found in report.gaps.items():
        own = [one for one in report.rows if one.group == group]
        gains = {(one.system, one.other): _points(one) for one in found}
        vote = report.matched[group]
        head = f"  {'system':26}{'accuracy':>9}{'interval':>15}{'to greedy':>22}{'to vote':>22}{'beta':>6}{'alpha':>7}"
        yield f"{group} ({own[0].n} questions, {own[0].engine})"
        yield f"{head}{'passes':>8}{'tokens':>8}"
        for one in own:
            name = one.system + (" *" if one.chosen else "") + (" =" if one.system == vote else "")
            greedy, voted = (gains.get((one.system, other), "-") for other in (GREEDY, vote))
            beta, alpha = (("-" if value is None else f"{value:g}") for value in (one.beta, one.alpha))
            interval = f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
            yield (
                f"  {name:26}{100 * one.accuracy:9.1f}{interval:>15}{greedy:>22}{voted:>22}{beta:>6}{alpha:>7}"
                f"{one.passes or 0:8.1f}{one.tokens or 0:8.1f}"
            )
        yield from (f"  {note}" for note in report.notes[group])
        yield ""
    yield from LEGEND


def _points(one: Gap) -> str:
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def run(
    base: Settings,
    engine: str,
    groups: Sequence[str],
    n: int,
    folder: Path,
    *,
    ranked: Settings | None = None,
    betas: Sequence[float] = BETAS,
    alphas: Sequence[float] = ALPHAS,
    offline: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure these groups on the registry `base`, which `engine` serves; drafts and indexes go to `folder`. `ranked` is the
    registry whose profile ranks the experts, where it is another. Raises what asking raises."""
    reports = []
    store = folder / "drafts.sqlite"
    skills = [group for group in groups if group != READ]
    if skills:
        with ExitStack() as stack:
            ranking = None
            if ranked is not None:
                like = Pipeline(with_contrasts(ranked), store=folder / "ranking.sqlite", offline=offline, say=say)
                ranking = stack.enter_context(like)
            pipeline = stack.enter_context(Pipeline(with_contrasts(base), store=store, offline=offline, say=say))
            reports.append(measure(pipeline, engine, skills, n, betas=betas, alphas=alphas, ranking=ranking, say=say))
    if READ in groups:
        corpus = generate(4 * n, _SEED)  # a quarter are test questions that a passage answers
        settings = with_contrasts(reading(with_reader(base), corpus, "reader", folder / "index", folder))
        with Pipeline(settings, store=store, offline=offline, say=say) as pipeline:
            build_index(pipeline, corpus, folder)
            reports.append(measure(pipeline, engine, [READ], n, betas=betas, alphas=alphas, corpus=corpus, say=say))
    return Report(
        tuple(row for report in reports for row in report.rows),
        *(
            {group: found for report in reports for group, found in getattr(report, name).items()}
            for name in ("gaps", "chosen_by", "matched", "notes")
        ),
    )
