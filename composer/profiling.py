"""Measures the experts on a labelled file and keeps the profile where routing finds it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from composer.config import PACKAGED
from composer.errors import ConfigError, InputError
from composer.folders import lock
from composer.jsonl import Labelled, RowError, read_questions
from composer.learning.trust import install_trust, told
from composer.marks import check_programs
from composer.pipeline import Pipeline
from composer.places import user_folder
from composer.profile import (
    MANIFEST,
    OUTCOMES,
    TRUST,
    VECTORS,
    Profile,
    has_profile,
    measure,
    read_profile,
    unwritable,
    write_profile,
)
from composer.state import lettered
from composer.trace import Drafted, Routed
from composer.types import Draft
from routers.errors import RouterError

ITEMS = PACKAGED / "items.jsonl"
SPLITS = ("profile", "calibration")
"""What routers learn from. `test` is a name for questions that nothing may learn from: they are not asked here."""


@dataclass(frozen=True, slots=True)
class Report:
    """What routing now knows of the registry's arms, where it was written, and what could not be used.

    `errors` are rows that were refused, `failed` calls without a reply or with a program that could not be tried (left
    unobserved), `cut` replies that were cut off (they score 0), `held_out` rows of the split `test`, which were not asked;
    `notes` are for the user.
    """

    profile: Profile
    folder: Path
    errors: tuple[RowError, ...]
    cached: int
    failed: int
    cut: int = 0
    held_out: int = 0
    notes: tuple[str, ...] = ()

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
        if self.cut:
            yield f"{self.cut} replies were cut off at the most tokens an answer may have, and count as wrong"
        if self.failed:
            yield f"{self.failed} calls failed and are left unobserved: ask again with the same command"
        if self.held_out:
            yield f"{self.held_out} rows of the split `test` were not asked: nothing may learn from them"
        yield from self.notes
        yield from (f"left out: line {error.line}: {error.reason}" for error in self.errors)


def profile_file(
    pipeline: Pipeline,
    source: Path | None,
    out: Path | None,
    *,
    run_code: bool = False,
    only: Sequence[str] | None = None,
) -> Report:
    """Ask every expert (or `only` some) every question of `source` (None: the packaged items), and add the outcomes to the profile in
    `out` (None: the user's for this registry). `run_code` allows that programs which experts wrote are run here against
    the tests of their rows: the stage `verify` says what that does not protect from. Closes the pipeline.

    Raises InputError before anything is asked if no row can be used, one asks for a program and programs may not or cannot
    be run, or `out` cannot be written or holds anything else.
    """
    place = source or ITEMS
    read = read_questions(place, labelled=True)
    items = [item for item in read.rows if item.split is None or item.split in SPLITS]
    held_out = sum(item.split == "test" for item in read.rows)
    errors = _bad(read.rows, read.errors)
    if not items:
        first = f"; the first bad one, line {errors[0].line}: {errors[0].reason}" if errors else ""
        raise InputError(
            f"no row can be used: {len(errors)} are bad, {held_out} of the split `test`{first}",
            where=str(place),
            remedy=f"give rows an answer, and no split or one of {', '.join(SPLITS)}",
        )
    check_programs(items, str(place), run_code=run_code)
    registry = pipeline.registry
    folder = out or user_folder(registry)
    _check_folder(folder, ours=out is None)
    vectors = pipeline.encoder().encode([lettered(item.question.text, item.question.choices) for item in items])
    arms = tuple(arm.name for arm in registry.arms()) if only is None else tuple(only)
    for item in items:
        pipeline.hearer(Routed(item.question.id, arms, {}, {}))
    drafts: list[Draft] = []

    def done(arm: str, draft: Draft) -> None:
        drafts.append(draft)
        pipeline.hearer(Drafted.of("", arm, draft))

    prints = registry.prints()
    with pipeline:
        new = pipeline.complete(
            measure(
                items,
                pipeline.pool,
                registry,
                vectors,
                encoder=registry.encoder_sha,
                prints=prints,
                arms=arms,
                run_code=run_code,
                done=done,
                passages=pipeline.passages,
                embed=pipeline.encoder,
                sandbox=pipeline.sandbox,
            )
        )
    failed = len(items) * len(arms) - new.table.num_rows
    notes: list[str] = []
    if has_profile(folder):
        try:
            kept = read_profile(folder, encoder=registry.encoder_sha)
            # arms that this registry does not know keep their records: another one may share the folder
            new = kept.without_stale({**kept.arms, **prints})[0].plus(new)
        except ConfigError as why:
            notes.append(f"the profile that was there is replaced: {why.what}")
    write_profile(new, folder, registry=pipeline.settings.config_sha)
    declared = registry.settings.profile
    if out is None or (declared is not None and out.resolve() == declared.resolve()):
        try:
            notes += told(install_trust(pipeline, out))
        except (InputError, RouterError) as why:
            notes.append(f"how sure answers are is not calibrated: {str(why).partition(chr(10))[0]}")
    return Report(
        profile=new.without_stale(prints)[0],
        folder=folder,
        errors=errors,
        cached=sum(draft.cached for draft in drafts),
        failed=failed,
        cut=sum(draft.error is None and not draft.ok for draft in drafts),
        held_out=held_out,
        notes=tuple(notes),
    )


def _bad(rows: Sequence[Labelled], errors: Sequence[RowError]) -> tuple[RowError, ...]:
    """The bad lines, and the rows of a split that nobody knows: measured, they would be ignored for ever after."""
    strange = [
        RowError(
            item.question.line,
            f"`split` is {item.split!r}, expected one of {', '.join(SPLITS)} (or test, which is not asked)",
            repr(item.question.text[:80]),
        )
        for item in rows
        if item.split not in (None, "test", *SPLITS)
    ]
    return tuple(sorted([*errors, *strange], key=lambda error: error.line))


def _check_folder(folder: Path, *, ours: bool) -> None:
    """Raise InputError unless a profile can be written to `folder`, and, if it is not `ours`, nothing else is in it."""
    folder = folder.resolve()
    try:
        there = {path.name for path in folder.iterdir()} if folder.exists() else set()
        foreign = sorted(there - {OUTCOMES, VECTORS, MANIFEST, TRUST})
        if not ours and (foreign or (there and MANIFEST not in there)):
            raise InputError(
                f"this folder is no profile: it holds {', '.join((foreign or sorted(there))[:3])}",
                where=str(folder),
                remedy="name a new or empty folder, or one that holds a profile and nothing else",
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent):
            pass
    except OSError as why:
        raise unwritable(folder, why) from why
