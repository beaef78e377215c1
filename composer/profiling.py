"""Measures the experts on a labelled file and keeps the profile where routing finds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from composer.config import PACKAGED
from composer.jsonl import RowError, read_questions
from composer.pipeline import Pipeline
from composer.profile import Profile, has_profile, measure, read_profile, user_folder, write_profile
from composer.trace import Drafted, Routed

ITEMS = PACKAGED / "items.jsonl"


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, where it was written, and the rows that could not be used."""

    profile: Profile
    folder: Path
    errors: tuple[RowError, ...]
    cached: int
    failed: int

    def lines(self) -> Iterator[str]:
        """A table for people: the share of right answers per skill and arm."""
        questions, _ = self.profile.columns()
        arms = sorted(self.profile.arms)
        rows = self.profile.table.to_pylist()
        skills = sorted({skill for each in questions.skills for skill in each})
        width = max(map(len, ["skill", *skills]))
        yield f"{'skill':{width}}  {'n':>4}  " + "  ".join(f"{arm:>10}" for arm in arms)
        for skill in skills:
            cells, n = [], 0
            for arm in arms:
                scores = [row["score"] for row in rows if row["skill"] == skill and row["arm"] == arm]
                n = max(n, len(scores))
                cells.append(f"{np.mean(scores):10.2f}" if scores else f"{'-':>10}")
            yield f"{skill:{width}}  {n:4}  " + "  ".join(cells)
        yield f"written to {self.folder} ({self.cached} drafts came from the store)"
        if self.failed:
            yield f"{self.failed} calls failed or were cut off; failed ones are left unobserved: ask again with the same command"
        yield from (f"left out: line {error.line}: {error.reason}" for error in self.errors)


def profile_file(pipeline: Pipeline, source: Path | None, out: Path | None) -> Report:
    """Ask every expert every question of `source` (None: the packaged items), and add the outcomes to the profile in
    `out` (None: the user's for this registry). Closes the pipeline. Raises InputError if no row can be used."""
    read = read_questions(source or ITEMS, labelled=True)
    registry = pipeline.registry
    folder = out or user_folder(registry)
    vectors = pipeline.encoder().encode([item.question.text for item in read.rows])
    arms = tuple(arm.name for arm in registry.arms())
    for item in read.rows:
        pipeline.emit(Routed(item.question.id, arms, {}, {}))
    with pipeline:
        new = pipeline.complete(
            measure(
                read.rows,
                pipeline.pool,
                registry,
                vectors,
                encoder=registry.encoder_sha,
                prints=registry.prints(),
                done=lambda arm, draft: pipeline.emit(Drafted.of("", arm, draft)),
            )
        )
        cached, failed = pipeline.ledger.cached, pipeline.ledger.failed
    if has_profile(folder):
        kept, _ = read_profile(folder, encoder=registry.encoder_sha).without_stale(registry.prints())
        new = kept.plus(new)
    write_profile(new, folder, registry=pipeline.settings.config_sha)
    return Report(new, folder, read.errors, cached, failed)
