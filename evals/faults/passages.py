"""Indexes of passages that are missing, damaged or of another encoder, before a run and under one (R29)."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from composer.config import load_settings, packaged_registry
from composer.pipeline import Pipeline
from composer.registry.experts import Registry
from composer.registry.indexes import MANIFEST
from composer.retrieval.build import build, token_offsets
from composer.state import Answer, Query
from evals.faults.bench import RUN, Bench, Finding, questions, rows_of
from evals.faults.server import answer_to
from routers.embed import OnnxEncoder
from routers.testing import HashEncoder

_QUESTIONS, _READER = 4, "e0+notes"
_MARK = "retrieval: unavailable"
_TOPICS = ("valve", "bird", "loaf", "ship", "clock", "river", "carpet", "lamp")


class Shelf:
    """The packaged encoder, an index that is right, one of other documents, and one of another encoder."""

    def __init__(self, bench: Bench) -> None:
        packaged = Registry(load_settings(packaged_registry()))
        model, tokenizer = packaged.encoder_files()
        self._encoder = {"sources": [str(model)], "sha256": packaged.encoder_sha, "tokenizer": str(tokenizer)}
        self._bench = bench
        self.right, self.newer, self.foreign = (bench.folder / name for name in ("right", "newer", "foreign"))
        encoder, offsets = OnnxEncoder(model, tokenizer), token_offsets(tokenizer)
        for folder, does in ((self.right, "opens"), (self.newer, "shuts")):
            source = bench.new("documents")
            for number, topic in enumerate(_TOPICS):
                (source / f"{topic}.txt").write_text(f"Question {number} is of a {topic}. It {does} at {number} bar.")
            build(source, folder, encoder, offsets)
            build(source, self.foreign, HashEncoder(), offsets)

    def lay(self, name: str) -> Path:
        """A run that is prepared, of an expert with and without passages, and the right index beside it."""
        folder = self._bench.prepared(name, questions(_QUESTIONS), "ok")
        path = folder / "experts.yaml"
        text = (
            path.read_text()
            .replace("{k: 1}", "{k: 2}")
            .replace("  - use: generate", "  - use: retrieve\n  - use: generate")
        )
        path.write_text(f"{text}encoder: {json.dumps(self._encoder)}\nevidence:\n  notes: {{index: ./notes, k: 2}}\n")
        self.put(self.right, folder)
        return folder

    def put(self, index: Path, folder: Path) -> None:
        """Put an index in the place of that of a run, as a build does."""
        notes = folder / "notes"
        if notes.exists():
            notes.rename(self._bench.new("old") / "notes")
        shutil.copytree(index, notes)


Fault = Callable[[Shelf, Path, random.Random], None]
"""What is done to the index of a run in this folder."""


def _gone(_: Shelf, folder: Path, __: random.Random) -> None:
    shutil.rmtree(folder / "notes")


def _lacking(_: Shelf, folder: Path, chance: random.Random) -> None:
    chance.choice(_files(folder)).unlink()


def _flipped(_: Shelf, folder: Path, chance: random.Random) -> None:
    with chance.choice(_files(folder)).open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        place = chance.randrange(size)
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


def _cut(_: Shelf, folder: Path, chance: random.Random) -> None:
    path = chance.choice(_files(folder))
    os.truncate(path, chance.randrange(path.stat().st_size))


def _unlisted(_: Shelf, folder: Path, chance: random.Random) -> None:
    path = folder / "notes" / MANIFEST
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def _foreign(shelf: Shelf, folder: Path, _: random.Random) -> None:
    shelf.put(shelf.foreign, folder)


def _rebuilt(shelf: Shelf, folder: Path, _: random.Random) -> None:
    shelf.put(shelf.newer, folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "notes").iterdir() if path.name != MANIFEST)


BEFORE: tuple[Fault, ...] = (_gone, _lacking, _flipped, _cut, _unlisted, _foreign)
"""What is told when a run begins."""

UNDER: tuple[tuple[Fault, bool], ...] = (
    (_gone, True),
    (_lacking, True),
    (_rebuilt, True),
    (_foreign, True),
    (_flipped, False),
    (_cut, False),
)
"""What happens under a run, and whether what was opened is still whole: its files have lost their names, no more."""


def lost_indexes(bench: Bench, n: int, seed: int = 29) -> Finding:
    """R29: `n` runs of the command whose index is broken before, and `n` pipelines under which it breaks."""
    chance, wrong = random.Random(seed), Counter[str]()
    with patch.dict(os.environ):
        shelf = Shelf(bench)
        os.environ["COE_CACHE"] = str(bench.folder / "cache")  # notes on files that are soon gone
        calls = sum(_begun(bench, shelf, BEFORE[i % len(BEFORE)], chance, wrong) for i in range(n))
        marked = sum(_broken(shelf, *UNDER[i % len(UNDER)], chance, wrong) for i in range(n))
    figure = (
        f"calls made before it was told {calls}; under a run: unmarked {wrong['unmarked']}, with other passages "
        f"{wrong['other passages']}, marked {marked} of {n * _QUESTIONS} answers{_others(wrong)}"
    )
    promise = (
        "told with its remedy before anything is asked, exit 6; under a run, what was opened is read on, and what was "
        f"written into is read no more: the answer without passages is marked `{_MARK}`"
    )
    return Finding(
        "R29", "index of passages missing, damaged, of another encoder", promise, figure, 2 * n, not (+wrong or calls)
    )


def _begun(bench: Bench, shelf: Shelf, fault: Fault, chance: random.Random, wrong: Counter[str]) -> int:
    """The command finds a broken index, and the same command a mended one; the calls it made of the first."""
    folder, since = shelf.lay("begun"), bench.mark()
    fault(shelf, folder, chance)
    cache = str(bench.folder / "cache")
    wrong["exit code"] += bench.nursery.run(folder, RUN, COE_CACHE=cache) != 6
    said = (folder / "said.txt").read_text()
    wrong["remedy not named"] += "coe index build" not in said or "notes" not in said
    wrong["tracebacks"] += said.count("Traceback")
    wrong["output"] += (folder / "out.jsonl").exists()
    calls = bench.told("begun", since)
    shelf.put(shelf.right, folder)
    wrong["exit code when mended"] += bench.nursery.run(folder, RUN, COE_CACHE=cache) != 0
    wrong["answers when mended"] += sum(row["status"] == "ok" for row in rows_of(folder / "out.jsonl")) != _QUESTIONS
    return calls


def _broken(shelf: Shelf, fault: Fault, whole: bool, chance: random.Random, wrong: Counter[str]) -> int:
    """The index breaks after it was opened, at times after it was searched; how many answers are marked."""
    folder = shelf.lay("broken")
    asked = [Query(str(number), f"Question {number}, at how many bar?") for number in range(_QUESTIONS)]
    with Pipeline(load_settings(folder / "experts.yaml"), store=folder / "whole.sqlite") as pipeline:
        right = _answers(pipeline, asked)
    with Pipeline(load_settings(folder / "experts.yaml"), store=folder / "broken.sqlite") as pipeline:
        pipeline.check_indexes(_READER)
        pipeline.passages(folder / "notes")
        if chance.random() < 0.5:
            _answers(pipeline, [Query("before", "And before?")])
        fault(shelf, folder, chance)
        found = _answers(pipeline, asked)
    wrong["passages in no answer"] += any(
        one.text == answer_to(row.text) for one, row in zip(right, asked, strict=True)
    )
    for row, one, undisturbed in zip(asked, found, right, strict=True):
        reads = one.text == undisturbed.text
        wrong["unmarked"] += not reads and _MARK not in one.marks
        wrong["other passages"] += not reads and one.text != answer_to(row.text)
        wrong["marked though it was whole"] += whole and _MARK in one.marks
        wrong["read though it was written into"] += not whole and reads
    return sum(_MARK in one.marks for one in found)


def _answers(pipeline: Pipeline, asked: list[Query]) -> tuple[Answer, ...]:
    return pipeline.complete(pipeline.astate(asked, by=_READER)).answers


def _others(wrong: Counter[str]) -> str:
    told = ("unmarked", "other passages")
    return "".join(f"; {name} {count}" for name, count in wrong.items() if count and name not in told)
