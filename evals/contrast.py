"""Does it help to take off what a weaker source would say? Every partner against plain decoding, per skill set, live.

The numbers of each contrast are chosen on questions of the split `calibration`, and used once on `test`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from composer.contrast import BASE, RANDOM, UNCHOSEN, UNREAD, ContrastSpec
from composer.contrasting import Asked, Tried, Variant, prepared, try_all
from composer.fit_contrast import ALPHAS, BETAS
from composer.jsonl import Labelled, Question
from composer.marks import alike, mark
from composer.pipeline import Pipeline
from composer.specs import ArmSpec, Settings
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
    """Rows of every group, what each system gains over greedy decoding of the same arm, and what the numbers were chosen
    by: points over greedy on calibration, per group and way."""

    rows: tuple[ContrastRow, ...]
    gaps: Mapping[str, tuple[Gap, ...]]
    chosen_by: Mapping[str, Mapping[str, float]]


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
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Every group's arm on `n` test questions (half as many for calibration): greedy, with each partner, sampled and voted.
    The pipeline is one of `with_contrasts`, inside `with`. Raises what asking raises."""
    rows: list[ContrastRow] = []
    gaps: dict[str, tuple[Gap, ...]] = {}
    rated: dict[str, dict[str, float]] = {}
    reader = next((arm.name for arm in pipeline.settings.reading), "")
    for group in groups:
        arm = arm_of(group, reader)
        own = [name for name, plain in pipeline.registry.contrasts().items() if plain == arm]
        tuning = prepared(pipeline, questions(group, "calibration", n // 2, corpus))
        say(f"{group}: {len(tuning.items)} questions to choose on, {len(own) * len(betas) * len(alphas)} ways")
        best, rated[group] = pipeline.complete(_choose(pipeline, tuning, arm, own, betas, alphas))
        asked = prepared(pipeline, questions(group, "test", n, corpus))
        say(f"{group}: {len(asked.items)} test questions")
        found = pipeline.complete(_test(pipeline, asked, arm, list(best.values())))
        if failed := sum(int((~one.told).sum()) for one in found):
            say(f"{group}: {failed} test drafts failed, and count as wrong")
        results = _results(asked, found, rated[group])
        whole = range(len(asked.items))
        rows += [_row(result, group, engine, tried) for result, tried in results]
        plain = results[0][0]
        gaps[group] = tuple(gap(result, plain, whole) for result, _ in results[1:])
    return Report(tuple(rows), gaps, rated)


async def _choose(
    pipeline: Pipeline, asked: Asked, arm: str, own: Sequence[str], betas: Sequence[float], alphas: Sequence[float]
) -> tuple[dict[str, Variant], dict[str, float]]:
    """The best numbers of each contrast; and what each gains, as it is 0."""
    ways = [Variant(arm, name, beta, alpha) for name in own for beta in betas for alpha in alphas]
    plain, *tried = await try_all(pipeline, asked, [Variant(arm), *ways])
    gains = {one.variant: float((one.right - plain.right).mean()) for one in tried}
    best = {name: max((way for way in ways if way.arm == name), key=lambda way: gains[way]) for name in own}
    return best, {GREEDY: 0.0} | {_partner(way): round(100 * gains[way], 2) for way in best.values()}


async def _test(pipeline: Pipeline, asked: Asked, arm: str, best: Sequence[Variant]) -> list[Tried]:
    general = pipeline.registry.generalist
    sampled = Variant(arm, samples=3, temperature=WARM)
    others = [Variant(general)] if arm != general else []
    return await try_all(pipeline, asked, [Variant(arm), *best, sampled, *others])


def _results(asked: Asked, tried: Sequence[Tried], rated: Mapping[str, float]) -> list[tuple[Result, Tried]]:
    """Greedy first. The one that was best on calibration is marked; ties go to greedy."""
    chosen = max(rated, key=lambda name: rated[name])
    found: list[tuple[Result, Tried]] = []
    for one in tried:
        if one.variant.samples > 1:
            found += [(_voted(asked, one, many), _first(one, many)) for many in (2, 3)]
        else:
            greedy = GREEDY if one is tried[0] else GENERAL
            name = greedy if one.variant.arm is None else _partner(one.variant)
            found.append((Result(name, one.right, _ones(one), one.tokens, one.seconds, name == chosen), one))
    every = [one for one in tried if one.variant.samples == 1]
    best = np.max([one.right for one in every], axis=0)
    spent = [np.sum([getattr(one, column) for one in every], axis=0) for column in ("tokens", "seconds", "passes")]
    oracle = replace(tried[0], passes=spent[2])
    found.append((Result(ORACLE, best, len(every) * _ones(tried[0]), spent[0], spent[1]), oracle))
    return found


def _voted(asked: Asked, one: Tried, many: int) -> Result:
    """Plain sampling, the most frequent answer of the first `many` samples taken (ties: the first)."""
    right = np.zeros(len(asked.items))
    for row_, (item, drafts) in enumerate(zip(asked.items, one.drafts, strict=True)):
        marks = [mark(item, draft.text, draft.ok) for draft in drafts[:many]]
        votes = Counter(answer for answer in alike(item, [answer for answer, _ in marks]) if answer is not None)
        if votes:
            top = votes.most_common(1)[0][0]
            same = alike(item, [answer for answer, _ in marks])
            right[row_] = marks[same.index(top)][1] or 0.0
    part = _first(one, many)
    return Result(f"sampling, majority of {many}", right, many * _ones(one), part.tokens, part.seconds)


def _first(one: Tried, many: int) -> Tried:
    """What the first `many` samples of it cost."""
    used = [[draft.usage for draft in drafts[:many]] for drafts in one.drafts]
    return replace(
        one,
        tokens=np.array([sum(use.tokens_in + use.tokens_out for use in own) for own in used], dtype=np.float64),
        passes=np.array([sum(use.passes for use in own) for own in used], dtype=np.float64),
        seconds=np.array([sum(use.seconds for use in own) for own in used], dtype=np.float64),
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


def _labelled(item: Item) -> Labelled:
    return Labelled(Question(item.id, item.question, (), item.kind, 1), item.answer, item.task, item.split)


def lines(report: Report) -> Iterator[str]:
    """For people: a table per group, `*` marks what calibration chose."""
    for group, found in report.gaps.items():
        own = [one for one in report.rows if one.group == group]
        over = {one.system: one for one in found}
        yield f"{group} ({own[0].n} questions)"
        yield f"  {'system':24}{'accuracy':>9}{'interval':>15}{'to greedy':>22}{'beta':>6}{'alpha':>7}{'passes':>8}{'tokens':>8}{'s':>7}"
        for one in own:
            least = over.get(one.system)
            gained = f"{100 * least.mean:+.1f} [{100 * least.low:+.1f}, {100 * least.high:+.1f}]" if least else "-"
            name = one.system + (" *" if one.chosen else "")
            beta, alpha = (("-" if value is None else f"{value:g}") for value in (one.beta, one.alpha))
            interval = f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
            yield (
                f"  {name:24}{100 * one.accuracy:9.1f}{interval:>15}{gained:>22}{beta:>6}{alpha:>7}{one.passes or 0:8.1f}"
                f"{one.tokens or 0:8.1f}{one.seconds or 0:7.2f}"
            )
        yield ""


def run(
    base: Settings,
    engine: str,
    groups: Sequence[str],
    n: int,
    folder: Path,
    *,
    betas: Sequence[float] = BETAS,
    alphas: Sequence[float] = ALPHAS,
    offline: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure these groups on the registry `base`, which `engine` serves; drafts and indexes go to `folder`. Raises what
    asking raises."""
    reports = []
    store = folder / "drafts.sqlite"
    skills = [group for group in groups if group != READ]
    if skills:
        with Pipeline(with_contrasts(base), store=store, offline=offline, say=say) as pipeline:
            reports.append(measure(pipeline, engine, skills, n, betas=betas, alphas=alphas, say=say))
    if READ in groups:
        corpus = generate(4 * n, _SEED)  # a quarter are test questions that a passage answers
        settings = with_contrasts(reading(with_reader(base), corpus, "reader", folder / "index", folder))
        with Pipeline(settings, store=store, offline=offline, say=say) as pipeline:
            build_index(pipeline, corpus, folder)
            reports.append(measure(pipeline, engine, [READ], n, betas=betas, alphas=alphas, corpus=corpus, say=say))
    return Report(
        tuple(row for report in reports for row in report.rows),
        {group: found for report in reports for group, found in report.gaps.items()},
        {group: found for report in reports for group, found in report.chosen_by.items()},
    )
