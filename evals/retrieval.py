"""Is looking things up worth it? Every gate against never, always and the oracle, live, over the value of a right answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composer.answers.extract import codes
from composer.answers.grade import grade
from composer.asker import Wishes
from composer.errors import InputError
from composer.fitting.gate import measure_costs
from composer.jsonl import Labelled
from composer.pipeline import Pipeline
from composer.retrieval.build import build, token_offsets
from composer.retrieval.choosing import (
    BothWays,
    Costs,
    best,
    fit_all,
    ratings,
    utility,
    values_of,
)
from composer.retrieval.gate import DRAFTED, Marks, Table, opens
from composer.retrieval.signals import SAMPLES, WARM
from composer.settings.evidence import EvidenceSpec
from composer.settings.specs import ArmSpec, Settings, StageSpec
from composer.stages.asking import asking
from composer.stages.looking import look
from composer.state import Query, State
from evals.metrics import Result, Row, row
from evals.tasks.passages.corpus import Corpus, write_documents
from evals.tasks.passages.invented import generate
from evals.tasks.passages.strategyqa import FILE, strategyqa
from routers.stats import calibration_split, paired_difference

SEED = 1  # of the invented things: what was answered about those of seed 0 was looked at while gates were built
PASSAGES = 1  # before a question: the model of 135 M parameters takes the wrong one of several


@dataclass(frozen=True, slots=True)
class RetrievalRow(Row):
    """A gate at one `value` of a right answer (seconds): the share of questions it `retrieved` for, its `utility` in seconds
    per question (value of right answers less what reading and looking cost), the tokens of passages `read` per question,
    `share`: what reading costs as a share of the value, and the paired difference of its utility to the better of never and
    always, in right answers per question (mean, low, high)."""

    gate: str
    value: float
    share: float
    retrieved: float
    utility: float
    read: float
    to_constant: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """One corpus: its rows, what reading and drafts cost, the gate that was chosen on calibration, and how many settings
    say what about it."""

    group: str
    rows: tuple[RetrievalRow, ...]
    costs: Costs
    chosen: str
    rated: dict[str, float]
    passages: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """What is beyond rows, JSON-ready."""
        return {"costs": asdict(self.costs), "chosen": self.chosen, "rated": self.rated, "passages": self.passages} | {
            "notes": list(self.notes)
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """One way to answer every question: right (0 to 1), tokens read and written, seconds."""

    right: Table
    tokens_in: Table
    tokens_out: Table
    seconds: Table
    answers: tuple[str | None, ...]


def evaluate(
    base: Settings, corpus: Corpus, expert: str, folder: Path, *, offline: bool, say: Callable[[str], None]
) -> RetrievalReport:
    """Ask `expert` of `base` every question of the corpus without and with passages, and let every gate decide.

    The index and the drafts go to `folder`. Gates are fitted on the split `profile` less its calibration part, one is
    chosen on that part, over all values; then all are fitted on the whole of it and used on `test`. Raises what asking
    raises.
    """
    settings = reading(base, corpus, expert, folder / f"{corpus.name}-index", folder)
    arm = settings.reading[0].name
    with Pipeline(settings, store=folder / "drafts.sqlite", offline=offline) as pipeline:
        passages = build_index(pipeline, corpus, folder)
        queries = [
            Query(item.question.id, item.question.text, item.question.choices, item.question.kind)
            for item in corpus.items
        ]
        say(f"{corpus.name}: {len(queries)} questions, {passages} passages; asking without them")
        plain = pipeline.complete(_ask(pipeline, corpus.items, queries, expert))
        say(f"{corpus.name}: asking with them")
        read = pipeline.complete(_ask(pipeline, corpus.items, queries, arm))
        say(f"{corpus.name}: short drafts for the gates that look at them")
        vectors = pipeline.encoder().encode([query.prompt for query in queries])
        signals = pipeline.complete(
            look(pipeline.kit, arm, expert, queries, frozenset(DRAFTED), asking(pipeline.pool), vectors)
        )
        samples = [
            pipeline.complete(_ask(pipeline, corpus.items, [_again(query, sample) for query in queries], expert))
            for sample in range(1, SAMPLES + 1)
        ]
        costs = pipeline.complete(measure_costs(pipeline, arm, expert, queries, signals))
    both = BothWays(signals, plain.right, read.right)
    profile = np.flatnonzero([item.split == "profile" for item in corpus.items])
    test = np.flatnonzero([item.split == "test" for item in corpus.items])
    held = calibration_split([queries[at].id for at in profile], vectors[profile])
    values = values_of(costs)
    rated = ratings(fit_all(both.rows(profile[~held])), both.rows(profile[held]), costs, values)
    chosen = best(rated)
    gates = fit_all(both.rows(profile))
    check = both.rows(test)
    extra = np.maximum(read.tokens_in - plain.tokens_in, 0)[test]
    drawn = np.random.default_rng(0).random(len(test))
    rows: list[RetrievalRow] = []
    table = _Tabled(corpus.name, check, costs, plain, read, test, extra)
    for value in values:
        for name, gate in gates.items():
            marks = opens(gate, check.signals, costs.reading, value)
            rows.append(
                table.row(name, value, marks, costs.looking(gate), len(gate.needs & set(DRAFTED)) > 0, name == chosen)
            )
        share = next(one.retrieved for one in reversed(rows) if one.chosen)
        rows.append(table.row("random", value, drawn < share, 0.0, False, False))
        oracle = value * (check.reading - check.without) > costs.reading
        rows.append(table.row("oracle", value, oracle, 0.0, False, False))
    rows += _votes(corpus, table, plain, read, samples, values)
    notes = (f"{len(profile)} profile questions, {int(held.sum())} of them calibration; {len(test)} test questions",)
    return RetrievalReport(corpus.name, tuple(rows), costs, chosen, rated, passages, notes)


def reading(base: Settings, corpus: Corpus, expert: str, index: Path, folder: Path) -> Settings:
    """The registry with one arm more: `expert` reading this corpus."""
    spec = EvidenceSpec(corpus.name, index, PASSAGES)
    steps = tuple(StageSpec(use, {}, 1) for use in ("decide", "retrieve", "generate", "verify", "aggregate"))
    arms = (ArmSpec(f"{expert}+{corpus.name}", expert, spec),)
    return replace(base, path=folder / "experts.yaml", reading=arms, pipeline=steps, pipelines={}, profile=None)


def with_reader(settings: Settings) -> Settings:
    """The registry with one expert more, `reader`: its generalist, told to answer shortly."""
    general = settings.generalist
    reader = replace(
        general,
        name="reader",
        description="answers shortly, by what it is given",
        generalist=False,
        system="Answer the question with a few words.",
        sampling=replace(general.sampling, max_tokens=48),
    )
    return replace(settings, experts={**settings.experts, reader.name: reader})


def corpora(
    data: Path | None, names: Sequence[str], n: int, say: Callable[[str], None], *, strict: bool
) -> Iterator[Corpus]:
    """The corpora of these names, `n` questions about invented things. Where StrategyQA is not there, it is left out and
    told; `strict`: InputError."""
    if "invented" in names:
        yield generate(n, SEED)
    if "strategyqa" in names:
        place = None if data is None else data / FILE
        if place is not None and place.is_file():
            yield strategyqa(place)
        elif strict:
            raise InputError(f"there is no {FILE}", where="--data", remedy="name its folder with --data, or COE_DATA")
        else:
            say(f"strategyqa is left out: there is no {FILE} (name its folder with --data, or COE_DATA)")


def build_index(pipeline: Pipeline, corpus: Corpus, folder: Path) -> int:
    """Build the corpus' index; how many passages it has."""
    source = folder / f"{corpus.name}.jsonl"
    write_documents(corpus, source)
    spec = pipeline.settings.reading[0].evidence
    assert spec is not None and spec.index is not None
    _, tokenizer = pipeline.registry.encoder_files()
    return build(source, spec.index, pipeline.encoder(), token_offsets(tokenizer)).manifest.passages


def _again(query: Query, sample: int) -> Query:
    return replace(query, wishes=Wishes(sample=sample, temperature=WARM))


async def _ask(pipeline: Pipeline, items: Sequence[Labelled], queries: Sequence[Query], by: str) -> _Asked:
    state: State = await pipeline.astate(queries, by=by)
    replies = [own[0] for own in state.replies]
    right = [
        grade(reply.answer, item.answer, item.question.kind or "text", item.question.choices, reply.draft.text)
        for reply, item in zip(replies, items, strict=True)
    ]
    usage = [reply.draft.usage for reply in replies]
    return _Asked(
        np.array(right, dtype=np.float64),
        np.array([one.tokens_in for one in usage], dtype=np.float64),
        np.array([one.tokens_out for one in usage], dtype=np.float64),
        np.array([one.seconds for one in usage], dtype=np.float64),
        tuple(reply.answer for reply in replies),
    )


@dataclass(frozen=True, slots=True)
class _Tabled:
    """What rows are made of: the test questions both ways, and what the calls took."""

    group: str
    check: BothWays
    costs: Costs
    plain: _Asked
    read: _Asked
    test: NDArray[np.int64]
    extra: Table  # tokens of passages

    def row(self, name: str, value: float, marks: Marks, looking: float, probed: bool, chosen: bool) -> RetrievalRow:
        """A gate that reads where `marks` says; `probed`: it drew a greedy draft and samples first."""
        at, right = self.test, np.where(marks, self.check.reading, self.check.without)
        calls = 1.0 + (SAMPLES + 1 if name == "worth-drafts" else SAMPLES if name == "entropy" else probed)
        own = self.plain.tokens_in[at] + self.plain.tokens_out[at]
        tokens = np.where(marks, self.read.tokens_in[at] + self.read.tokens_out[at], own) + (calls - 1) * own
        seconds = np.where(marks, self.read.seconds[at], self.plain.seconds[at]) + looking
        found = Result(name, right, np.full(len(at), calls), tokens, seconds, chosen)
        return self.rated(found, value, utility(marks, self.check, self.costs, value, looking), marks)

    def rated(self, found: Result, value: float, worth: Table, marks: Marks) -> RetrievalRow:
        """The row of a system with its utility beside the better of never and always."""
        constants = [utility(np.full(len(self.test), reads), self.check, self.costs, value) for reads in (False, True)]
        better = max(constants, key=lambda one: float(one.mean()))
        gap = tuple(round(one / value, 4) for one in paired_difference(worth, better))
        return RetrievalRow(
            **asdict(row(found, self.group, range(len(self.test)))),
            gate=found.system,
            value=round(value, 4),
            share=round(self.costs.reading / value, 4),
            retrieved=round(float(marks.mean()), 4),
            utility=round(float(worth.mean()), 4),
            read=round(float((self.extra * marks).mean()), 2),
            to_constant=(gap[0], gap[1], gap[2]),
        )


def _votes(
    corpus: Corpus,
    table: _Tabled,
    plain: _Asked,
    read: _Asked,
    samples: Sequence[_Asked],
    values: Sequence[float],
) -> list[RetrievalRow]:
    """What asking more often brings instead: the most frequent of the samples, and of all drafts that were drawn."""
    rows = []
    whole = table.costs.drafts.get("confidence", 0.0)
    for name, drafts, reads in (
        ("self-consistency", samples, False),
        ("majority of all", [plain, read, *samples], True),
    ):
        right = np.array([_voted(corpus.items[at], drafts, at) for at in table.test])
        tokens = sum((one.tokens_in[table.test] + one.tokens_out[table.test] for one in drafts), np.zeros(len(right)))
        seconds = sum((one.seconds[table.test] for one in drafts), np.zeros(len(right)))
        found = Result(name, right, np.full(len(right), float(len(drafts))), tokens, seconds)
        cost = (len(drafts) - 1) * whole + reads * table.costs.reading
        marks = np.full(len(right), reads)
        rows += [table.rated(found, value, value * right - cost, marks) for value in values]
    return rows


def _voted(item: Labelled, drafts: Sequence[_Asked], at: int) -> float:
    kind = item.question.kind or "text"
    answers = [one.answers[at] for one in drafts]
    found = codes(answers, kind)
    counted = [code for code in found if code >= 0]
    if not counted:
        return 0.0
    most = max(dict.fromkeys(counted), key=counted.count)
    return float(drafts[found.index(most)].right[at])


def gate_table(report: RetrievalReport) -> list[str]:
    """Utility in right answers per question, a line per gate, a column per setting; `*` marks what was chosen."""
    shares = sorted({one.share for one in report.rows})
    some = [shares[place] for place in range(1, len(shares), 3)]
    cells = {(one.system, one.share): one for one in report.rows}
    lines = [f"{'reading costs, in right answers':34}" + "".join(f"{share:>9.2f}" for share in some)]
    for name in dict.fromkeys(one.system for one in report.rows):
        own = [cells[name, share] for share in some]
        title = f"{name}{' *' if name == report.chosen else ''}"
        lines.append(f"{title:34}" + "".join(f"{one.utility / one.value:>9.3f}" for one in own))
        if name == report.chosen:
            lines.append(f"{'  questions that read, %':34}" + "".join(f"{100 * one.retrieved:>9.0f}" for one in own))
            lines.append(f"{'  right, %':34}" + "".join(f"{100 * one.accuracy:>9.1f}" for one in own))
    return lines


def verdict(report: RetrievalReport) -> list[str]:
    """How the chosen gate stands to the better of never and always over all settings."""
    own = sorted((one for one in report.rows if one.chosen), key=lambda one: one.share)
    middle = [one for one in own if 0.25 <= one.share <= 0.75]
    below = [one for one in own if one.to_constant[0] < 0]
    surely = [one for one in own if one.to_constant[2] < 0]
    above = [one for one in middle if one.to_constant[0] > 0]
    return [
        f"{report.chosen}: below the better of never and always at {len(below)} of {len(own)} settings "
        f"({len(surely)} by more than its interval), above both at {len(above)} of the {len(middle)} middle ones",
        *(f"below where reading costs {one.share:.2f} right answers: {one.to_constant[0]:+.4f}" for one in below),
        f"reading costs {report.costs.reading:.3f} s a question",
        *report.notes,
    ]
