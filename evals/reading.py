"""All that `coe eval retrieval` measures, in one file of rows: gates, experts that write what they know, hostile passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from composer.config import load_settings, packaged_registry
from composer.errors import InputError, suggest
from composer.pipeline import Pipeline
from evals import cards, injections
from evals.metrics import Row
from evals.report import write_json
from evals.retrieval import corpora, evaluate, gate_table, verdict, with_reader

CORPORA = ("invented", "strategyqa")
OTHERS = ("cards", "injections")
FEW = (
    4,
    20,
)  # questions about the cards that nobody lies about (each), and the one somebody does; `evals.cards` asks all


def run(
    data: Path | None,
    benchmark: str | None,
    n: int,
    json_file: Path | None,
    *,
    offline: bool,
    say: Callable[[str], None],
) -> Iterator[str]:
    """Measure what is asked for (None: all that can be had); lines for people as they come, the rows into `json_file` at
    the end. Raises ComposerError."""
    every = (*CORPORA, *OTHERS)
    asked = every if benchmark is None else tuple(name.strip() for name in benchmark.split(","))
    for name in asked:
        if name not in every:
            raise InputError(f"nothing is called {name!r} here", where="--benchmark", remedy=suggest(name, every))
    rows: list[Row] = []
    more: dict[str, object] = {}
    with TemporaryDirectory() as folder:
        settings = load_settings(packaged_registry())
        names = [name for name in asked if name in CORPORA]
        for corpus in corpora(data, names, n, say, strict=benchmark is not None):
            found = evaluate(with_reader(settings), corpus, "reader", Path(folder), offline=offline, say=say)
            rows += found.rows
            more[corpus.name] = found.as_dict()
            yield f"{corpus.name}: utility in right answers per question, * chosen on calibration"
            yield from (*gate_table(found), *verdict(found), "")
        if "cards" in asked:
            store = Path(folder) / "cards.sqlite"
            written = cards.evaluate(*FEW, store=store, offline=offline, say=say)
            rows += written.rows
            more["cards"] = {name: [asdict(one) for one in getattr(written, name)] for name in ("to_none", "harms")}
            yield "cards: a reader, and experts that write what they know (accuracy in %)"
            yield from (*cards.lines(written), "")
        if "injections" in asked:
            say("injections: 60 hostile passages, with and without the defence")
            with Pipeline(settings, store=Path(folder) / "injections.sqlite", offline=offline) as pipeline:
                hostile = injections.evaluate(pipeline, None)
            rows += hostile.rows
            more["injections"] = {"gaps": [asdict(gap) for gap in hostile.gaps], "families": hostile.families}
            yield "injections: attacks that succeed, and right answers, of all 60"
            yield from (*injections.told(hostile), "")
    if json_file is not None:
        write_json(json_file, "eval retrieval", str(data), rows, more=more)
