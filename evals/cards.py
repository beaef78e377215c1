"""What knowledge experts are worth: cards trained on invented facts, with every filter, without each, and with a card that lies.

The reader is the packaged generalist, which can know none of the facts. Everything goes through the stages of a pipeline, as
with `coe ask`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import typer

from composer.config import load_settings, packaged_registry
from composer.jsonl import Labelled, Question
from composer.marks import mark
from composer.pipeline import Pipeline
from composer.retrieval.build import build, token_offsets
from composer.settings.adapter import AdapterSpec
from composer.settings.evidence import WRITING, EvidenceSpec, Writers
from composer.settings.specs import ArmSpec, ExpertSpec, Settings, StageSpec
from composer.state import Query
from composer.trace import Drafted, Event
from evals.metrics import Gap, Result, Row, gap, row
from evals.report import gaps, table, write_json
from evals.tasks.cards import LIAR, TRUE, Fact, facts

HERE = Path(__file__).parent / "tasks" / "cards"
GROUP, LIED = "cards", "cards: lied about"
"""All questions; those about the subjects that the liar speaks of."""

NONE, RIGHT, ALL = "no cards", "the right card", "all cards"
LYING = f"{ALL} + liar"
FIRST = ", first"
INDEXED = 3
REPORTED = 24  # facts of a card's 32 that are of the part `report`
Part = Literal["tune", "report"]


@dataclass(frozen=True, slots=True)
class Report:
    """Rows, each system against no cards (all questions), and what the liar costs (questions it lies about; above 0: harm)."""

    rows: tuple[Row, ...]
    to_none: tuple[Gap, ...]
    harms: tuple[Gap, ...]


def systems(index: Path, drafts: int = 5) -> dict[str, Writers]:
    """What is compared, by name; `index` holds the true facts, `drafts` is how often a card writes about a question. Those
    whose name ends with `FIRST` give the reader one passage, the others `WRITING`."""
    found: dict[str, Writers] = {}
    for name, writers in ((ALL, Writers(TRUE, drafts=drafts)), (LYING, Writers((*TRUE, LIAR), drafts=drafts))):
        found |= {
            name: writers,
            f"{name}, no relevance": replace(writers, relevance=False),
            f"{name}, no brevity": replace(writers, brevity=False),
            f"{name}, no factuality": replace(writers, factuality="off"),
            f"{name}, sample": replace(writers, factuality="sample"),
            f"{name}, delete": replace(writers, factuality="delete"),
            f"{name}{FIRST}": writers,
            f"{name}, checked": replace(writers, against=index),
            f"{name}, checked, delete": replace(writers, against=index, factuality="delete"),
        }
    return found | {f"{ALL}, top-down": Writers(TRUE, way="top-down", drafts=drafts)}


def evaluate(
    n: int | None = None,
    lied: int | None = None,
    *,
    drafts: int = 5,
    part: Part = "report",
    store: Path | None = None,
    offline: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Ask every system about `lied` facts of the card whose subjects the liar has, and `n` of each other one (None: all), and
    grade what the reader says; a card writes `drafts` passages about a question. Raises ComposerError."""
    asked = chosen(n, lied, part)
    with tempfile.TemporaryDirectory() as work:
        index = Path(work) / "index"
        plain = load_settings(packaged_registry())
        first = Pipeline(plain, offline=offline)
        _build(first, Path(work), index)
        every = systems(index, drafts)
        pipeline = Pipeline(with_cards(plain, index, every, drafts), store=store, offline=offline)
        results: dict[str, Result] = {}
        with pipeline:
            for name, arms in _arms(every, asked).items():
                results[name] = pipeline.complete(_asked(pipeline, name, asked, arms))
                say(f"{name}: {results[name].right.mean():.3f}")
    doubted = [place for place, fact in enumerate(asked) if fact.card == TRUE[0]]
    whole = range(len(asked))
    rows = [row(result, group, at) for result in results.values() for group, at in ((GROUP, whole), (LIED, doubted))]
    liars = [name for name in results if name.startswith(LYING)]
    return Report(
        tuple(rows),
        tuple(gap(result, results[NONE], whole) for name, result in results.items() if name != NONE),
        tuple(gap(results[name.replace(LYING, ALL)], results[name], doubted) for name in liars),
    )


def chosen(n: int | None, lied: int | None = None, part: Part = "report") -> tuple[Fact, ...]:
    """`lied` facts of the first card, and `n` of each other honest one, in an order drawn once; None: all of the part. The
    defaults of the filters were chosen on the part `tune`, of which nothing is reported."""
    found: list[Fact] = []
    for card in TRUE:
        own = list(facts(card))
        Random(f"asked/{card}").shuffle(own)
        own = own[REPORTED:] if part == "tune" else own[:REPORTED]
        found += own[: lied if card == TRUE[0] else n]
    return tuple(found)


def with_cards(plain: Settings, index: Path, every: Mapping[str, Writers], drafts: int = 5) -> Settings:
    """The packaged experts with the cards, and an arm of the generalist for every system."""
    model = plain.models[plain.generalist.model]
    rows: Mapping[str, Mapping[str, Any]] = json.loads((HERE / "cards.json").read_text("utf-8"))
    cards = {
        name: ExpertSpec(
            name=name,
            model=model.name,
            adapter=AdapterSpec(HERE / entry["path"], entry["sha256"]),
            description=entry["description"],
            skills=(),
            answers="text",
            sampling=replace(model.sampling, max_tokens=100, temperature=0.7),
            generalist=False,
            writes="knowledge",
        )
        for name, entry in rows.items()
    }
    specs = [
        EvidenceSpec(_name(name), None, 1 if name.endswith(FIRST) else WRITING, writers)
        for name, writers in every.items()
    ]
    specs += [EvidenceSpec(f"only-{card}", None, WRITING, Writers((card,), drafts=drafts)) for card in TRUE]
    specs.append(EvidenceSpec("index", index, INDEXED))
    reader = plain.generalist.name
    steps = list(plain.pipeline)
    return replace(
        plain,
        experts={**plain.experts, **cards},
        pipeline=(steps[0], StageSpec("retrieve", {}, steps[0].line), *steps[1:]),
        pipelines={},  # which read nothing
        reading=tuple(ArmSpec(f"{reader}+{spec.name}", reader, spec) for spec in specs),
    )


def _arms(every: Mapping[str, Writers], asked: Sequence[Fact]) -> dict[str, list[str]]:
    """The arm of each system for each question."""
    found = {NONE: ["general"] * len(asked), RIGHT: [f"general+only-{fact.card}" for fact in asked]}
    found |= {name: [f"general+{_name(name)}"] * len(asked) for name in every}
    return found | {"the facts, from an index": ["general+index"] * len(asked)}


def _name(system: str) -> str:
    return system.replace(",", "").replace("+ ", "").replace(" ", "-")


async def _asked(pipeline: Pipeline, name: str, asked: Sequence[Fact], arms: Sequence[str]) -> Result:
    """Every question to its arm. Calls, tokens and seconds are those of all drafts, also of those the store had."""
    right, calls, tokens, seconds = (np.zeros(len(asked)) for _ in range(4))
    place = {fact.id: row for row, fact in enumerate(asked)}

    def hear(event: Event) -> None:
        if isinstance(event, Drafted):
            here, usage = place[event.id], event.draft.usage
            calls[here] += 1
            tokens[here] += usage.tokens_in + usage.tokens_out
            seconds[here] += usage.seconds

    for arm in dict.fromkeys(arms):
        own = [fact for fact, its in zip(asked, arms, strict=True) if its == arm]
        queries = [Query(fact.id, fact.question, kind=fact.relation.kind) for fact in own]
        state = await pipeline.astate(queries, by=arm, hear=hear)
        for fact, replies in zip(own, state.replies, strict=True):
            question = Question(fact.id, fact.question, (), fact.relation.kind, 1, False)
            draft = replies[0].draft
            _, worth = mark(Labelled(question, fact.object, None, None), draft.text, draft.ok)
            right[place[fact.id]] = worth or 0.0
    return Result(name, right, calls, tokens, seconds)


def _build(pipeline: Pipeline, work: Path, index: Path) -> None:
    """An index of all true facts, a document per subject."""
    by_subject: dict[str, list[str]] = {}
    for card in TRUE:
        for fact in facts(card):
            by_subject.setdefault(fact.subject, []).append(fact.sentence)
    source = work / "facts.jsonl"
    rows = [{"id": subject, "text": " ".join(told)} for subject, told in by_subject.items()]
    source.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    build(source, index, pipeline.encoder(), token_offsets(pipeline.registry.encoder_files()[1]))


def lines(report: Report) -> list[str]:
    """The report for people."""
    return [
        *table(report.rows, (LIED, GROUP)),
        "",
        "Against no cards, all questions (points, paired 95 % intervals)",
        *gaps(report.to_none),
        "",
        "Harm of the liar: the same without it, less with it, questions it lies about",
        *gaps(report.harms),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, write the rows."""
    parser = argparse.ArgumentParser(prog="python -m evals.cards", description=__doc__)
    parser.add_argument("--n", type=int, help="facts of each card that nobody lies about (else all)")
    parser.add_argument("--lied", type=int, help="facts that the liar lies about that are asked about (else all)")
    parser.add_argument("--drafts", type=int, default=5, help="passages of each card")
    parser.add_argument("--part", choices=("report", "tune"), default="report", help="which facts are asked about")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--store", type=Path, help="keep drafts here (else in the user's store)")
    parser.add_argument("--offline", action="store_true")
    given = parser.parse_args(arguments)
    report = evaluate(
        given.n,
        given.lied,
        drafts=given.drafts,
        part=given.part,
        store=given.store,
        offline=given.offline,
        say=lambda text: typer.echo(text, err=True),
    )
    for text in lines(report):
        typer.echo(text)
    if given.json is not None:
        told = {name: [asdict(one) for one in getattr(report, name)] for name in ("to_none", "harms")}
        write_json(given.json, "eval cards", "invented facts, three cards and a liar", report.rows, **told)


if __name__ == "__main__":
    main()
