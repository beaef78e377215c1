"""What the arms have shown on labelled questions: measured once, kept as one folder, read by the routers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from composer.config import PACKAGED
from composer.errors import ConfigError, EngineError, InputError
from composer.folders import mend, replacing
from composer.marks import alike, mark
from composer.measuring import given, worked_out
from composer.places import user_folder
from composer.registry.experts import Registry
from composer.stages.kit import Arms, Encoder, Finder, no_encoder, no_index, no_sandbox
from composer.state import lettered
from composer.types import Delta, Draft, Request
from routers.records import at_home
from routers.types import Arm, Array, Outcomes, Questions

if TYPE_CHECKING:
    from composer.answers.sandbox import Sandbox
    from composer.jsonl import Labelled
    from composer.pool.pool import Pool
    from composer.settings.strategy import Limits

OUTCOMES, VECTORS, MANIFEST, TRUST = "outcomes.parquet", "vectors.npy", "manifest.json", "trust"
UNLABELLED = "unlabelled"
_AGAIN = "measure it again with `coe profile`"


@dataclass(frozen=True, slots=True)
class Profile:
    """Outcomes as rows of a table (`question, text, skill, split, arm, score, answer, length`), the questions' vectors
    in order of first appearance, and what it was measured with: the encoder's sha256 and each arm's fingerprint."""

    table: pa.Table
    vectors: Array
    encoder: str
    arms: Mapping[str, str]

    @property
    def known(self) -> set[str]:
        """The arms that have a record."""
        return set(_column(self.table, "arm"))

    def columns(self, splits: Sequence[str] = ("profile", "calibration")) -> tuple[Questions, list[int]]:
        """The questions of `splits`, each once, and their rows in `vectors`."""
        firsts = _firsts(self.table)
        split = _column(self.table, "split")
        rows = [place for place, first in enumerate(firsts) if split[first] in splits]
        ids, text, skills = (
            tuple(column[firsts[place]] for place in rows)
            for column in (_column(self.table, name) for name in ("question", "text", "skill"))
        )
        return Questions(ids, text, self.vectors[rows], tuple((skill,) for skill in skills)), rows

    def outcomes(self, questions: Questions, arms: Sequence[Arm]) -> Outcomes:
        """The outcomes of `arms` on `questions`; rows of other arms and questions are left out."""
        place = {name: i for i, name in enumerate(questions.ids)}
        column = {arm.name: j for j, arm in enumerate(arms)}
        question = np.array([place.get(name, -1) for name in _column(self.table, "question")], dtype=np.int64)
        arm = np.array([column.get(name, -1) for name in _column(self.table, "arm")], dtype=np.int64)
        rows = np.flatnonzero((question >= 0) & (arm >= 0))
        found = Outcomes(
            arms=tuple(arms),
            question=question[rows],
            arm=arm[rows],
            score=np.asarray(_column(self.table, "score"), dtype=np.float32)[rows],
            sample=np.zeros(len(rows), dtype=np.int64),
            answer=tuple(_column(self.table, "answer")[rows]),
            length=np.asarray(_column(self.table, "length"), dtype=np.int64)[rows],
            cost=np.full(len(rows), np.nan, dtype=np.float32),
        )
        return at_home(questions, found)

    def without_stale(self, arms: Mapping[str, str]) -> tuple[Profile, tuple[str, ...]]:
        """Only the arms whose fingerprint is the one in `arms`, and the names of those that were dropped."""
        named = self.known | set(self.arms)
        stale = tuple(sorted(name for name in named if name not in arms or self.arms.get(name) != arms[name]))
        keep = [name not in stale for name in _column(self.table, "arm")]
        if all(keep):
            return self, stale
        kept = {name: print_ for name, print_ in self.arms.items() if name not in stale}
        seen = dict.fromkeys(_column(self.table, "question"))
        table = self.table.filter(pa.array(keep, pa.bool_()))
        still = set(_column(table, "question"))
        rows = [i for i, name in enumerate(seen) if name in still]
        return Profile(table, self.vectors[rows], self.encoder, kept), stale

    def plus(self, new: Profile) -> Profile:
        """Both profiles; where they know the same cell (question, arm), `new` counts.

        Two files may call different questions by the same id: the new one's is then followed by the hash of its text.
        Raises ConfigError if their vectors have different lengths: one of them is not of the encoder it names.
        """
        if not self.table.num_rows:
            return replace(new, arms={**self.arms, **new.arms})
        widths = self.vectors.shape[1], new.vectors.shape[1]
        if new.table.num_rows and widths[0] != widths[1]:
            raise ConfigError(f"vectors of {widths[0]} and of {widths[1]} numbers cannot be compared", remedy=_AGAIN)
        known = dict(zip(_column(self.table, "question"), _column(self.table, "text"), strict=True))
        new = replace(new, table=_renamed(new.table, known))
        cells = set(zip(_column(new.table, "question"), _column(new.table, "arm"), strict=True))
        old = zip(_column(self.table, "question"), _column(self.table, "arm"), strict=True)
        table = pa.concat_tables(
            [self.table.filter(pa.array([cell not in cells for cell in old], pa.bool_())), new.table]
        )
        vectors: dict[str, Array] = {}
        for profile in (self, new):
            for name, vector in zip(dict.fromkeys(_column(profile.table, "question")), profile.vectors, strict=True):
                vectors[name] = vector
        order = list(dict.fromkeys(_column(table, "question")))
        rows = np.stack([vectors[name] for name in order]) if order else new.vectors
        return Profile(table, rows, new.encoder, {**self.arms, **new.arms})


async def measure(
    items: Sequence[Labelled],
    pool: Pool,
    registry: Arms,
    vectors: Array,
    *,
    encoder: str,
    prints: Mapping[str, str],
    arms: Sequence[str] | None = None,
    run_code: bool = False,
    done: Callable[[str, Draft], None] = lambda _arm, _draft: None,
    passages: Callable[[Path], Finder] = no_index,
    embed: Callable[[], Encoder] = no_encoder,
    sandbox: Callable[[Limits], Sandbox] = no_sandbox,
) -> Profile:
    """Ask every arm (None: all of the registry) every question and grade what it says; `vectors` are the questions', [len(items), dim]; `passages` and `embed` are for arms that are given something to read, `sandbox` runs what arms with a strategy write.

    Drafts go through the pool, so what the store already has is asked of nobody. A draft that was cut off or holds no
    answer scores 0; a call that failed, or a program whose tests were not run (`run_code` allows it), says nothing about
    the arm and leaves its cell unobserved. Raises EngineError if no cell is left.
    """
    import asyncio  # noqa: PLC0415 `coe route` reads profiles, and measures nothing

    asked = arms if arms is not None else [arm.name for arm in registry.arms()]
    requests: dict[str, tuple[int, Request]] = {}
    read = await given(items, asked, registry, passages, pool, embed)
    for row, item in enumerate(items):
        prompt = lettered(item.question.text, item.question.choices)
        for arm in asked:
            stream = registry.stream(arm, registry.messages(arm, read.get((row, arm), "") + prompt))
            request = Request(f"{row}:{arm}", (stream,), registry.sampling(arm), arm=arm, parent=item.question.id)
            requests[request.id] = (row, request)
    drafts: dict[str, Draft] = {}
    async for name, piece in pool.submit([request for _, request in requests.values()]):
        if not isinstance(piece, Delta):
            drafts[name] = piece
            done(requests[name][1].arm, piece)
    worked = await worked_out(items, requests, drafts, registry, pool, sandbox)
    by_question: dict[str, list[dict[str, Any]]] = {}
    failures: list[str] = []
    for name, (row, request) in requests.items():
        question, draft = items[row].question, drafts[name]
        if draft.error is not None:
            failures.append(draft.error.message)
            continue
        said = worked[name].said if name in worked else draft.text
        answer, score = await asyncio.to_thread(mark, items[row], said, draft.ok, run_code=run_code)
        if score is None:
            failures.append("the tests of a program were not run")
            continue
        by_question.setdefault(question.id, []).append(
            {
                "question": question.id,
                "text": lettered(question.text, question.choices),
                "skill": items[row].task or UNLABELLED,
                "split": items[row].split or "profile",
                "arm": request.arm,
                "score": score,
                "answer": answer,
                "length": len(draft.text),
            }
        )
    for item in items:
        own = by_question.get(item.question.id, [])
        for told, words in zip(own, await asyncio.to_thread(alike, item, [r["answer"] for r in own]), strict=True):
            told["answer"] = words
    rows = [told for own in by_question.values() for told in own]
    if failures and not rows:
        raise EngineError(f"all {len(failures)} calls failed; the first: {failures[0]}", remedy="coe experts check")
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    place = {item.question.id: i for i, item in enumerate(items)}
    measured = [place[name] for name in dict.fromkeys(_column(table, "question"))]
    return Profile(table, vectors[measured], encoder, {arm: prints[arm] for arm in asked})


_FIELDS: list[tuple[str, pa.DataType]] = [
    ("question", pa.string()),
    ("text", pa.string()),
    ("skill", pa.string()),
    ("split", pa.string()),
    ("arm", pa.string()),
    ("score", pa.float32()),
    ("answer", pa.string()),
    ("length", pa.int64()),
]
_SCHEMA = pa.schema(_FIELDS)
EMPTY = Profile(_SCHEMA.empty_table(), np.zeros((0, 0), dtype=np.float32), "", {})


def write_profile(profile: Profile, folder: Path, *, registry: str) -> None:
    """Write `folder` as a whole: a reader finds the old one or the new one, also after a crash on the way. `registry`
    is the registry file's sha256. Raises InputError if it cannot be written.

    Whatever stood there is gone: whether it may go is the caller's to know.
    """
    try:
        with replacing(folder) as fresh:
            _fill(fresh, profile, registry)
    except OSError as why:
        raise unwritable(folder, why) from why


def _fill(fresh: Path, profile: Profile, registry: str) -> None:
    pq.write_table(profile.table, fresh / OUTCOMES, compression="zstd")
    np.save(fresh / VECTORS, profile.vectors.astype(np.float32), allow_pickle=False)
    manifest = {"version": 1, "encoder": profile.encoder, "registry": registry, "arms": dict(profile.arms)}
    (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def unwritable(folder: Path, why: OSError) -> InputError:
    """What the user is told where `folder` cannot be written."""
    return InputError(
        f"no profile can be written here: {why.strerror or why}",
        where=str(folder),
        remedy="check the folder, its permissions and free space",
    )


def has_profile(folder: Path) -> bool:
    """Whether there is a profile in `folder`."""
    mend(folder)
    return (folder / MANIFEST).exists()


def read_profile(folder: Path, *, encoder: str) -> Profile:
    """Read `folder`. Raises ConfigError if it is incomplete, damaged, or was made with another encoder than `encoder`
    (sha256)."""
    try:
        mend(folder)
        if not folder.is_dir():
            raise NotADirectoryError("there is no such folder")
        manifest = json.loads((folder / MANIFEST).read_text())
        with pq.ParquetFile(folder / OUTCOMES) as file:  # read_table would load pyarrow's datasets and their filters
            table = file.read()
        if not table.schema.equals(_SCHEMA):
            table = table.cast(_SCHEMA)
        vectors = np.load(folder / VECTORS, allow_pickle=False)
        profile = Profile(table, vectors, str(manifest["encoder"]), dict(manifest["arms"]))
    except (OSError, EOFError, ValueError, KeyError, TypeError, pa.ArrowException) as why:
        raise ConfigError(f"this profile cannot be read: {why}", where=str(folder), remedy=_AGAIN) from why
    if profile.encoder != encoder:
        named = f"names {encoder[:12]}…" if encoder else "names none"
        raise ConfigError(
            f"this profile was made with encoder {profile.encoder[:12]}…, the registry {named}",
            where=str(folder),
            remedy=_AGAIN,
        )
    if fault := _fault(table, vectors):
        raise ConfigError(fault, where=str(folder), remedy=_AGAIN)
    return profile


def _fault(table: pa.Table, vectors: Array) -> str | None:
    """What routers could not work with."""
    if gaps := [name for name in _SCHEMA.names if name != "answer" and table[name].null_count]:
        return f"{OUTCOMES} has rows without {', '.join(gaps)}"
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        return f"{VECTORS} holds {vectors.dtype} of the shape {vectors.shape}, expected rows of decimal numbers"
    if len(vectors) != (questions := len(_firsts(table))):
        return f"{len(vectors)} vectors for {questions} questions"
    if not np.isfinite(vectors).all():
        return f"{VECTORS} holds what is no number"
    return None


def find_profile(registry: Registry) -> tuple[Profile, list[str]]:
    """The registry's profile with what the user measured on top, less the records of arms that have changed.

    Returns it with notes for the user. Raises ConfigError if the declared folder is not there, or either cannot be read.
    """
    encoder, prints = registry.encoder_sha, registry.prints()
    generalist = registry.generalist
    found = EMPTY
    notes: list[str] = []
    mine = user_folder(registry)
    layers = [] if registry.settings.profile is None else [(registry.settings.profile, _declared(registry))]
    if has_profile(mine):
        layers.append((mine, read_profile(mine, encoder=encoder)))
    for folder, layer in layers:
        profile, stale = layer.without_stale(prints)
        if changed := [name for name in stale if name in prints]:  # the others are no arms of this registry
            notes.append(f"{folder}: the records of {', '.join(changed)} are of other weights or settings: left out")
        found = found.plus(profile)
    unknown = sorted({arm.name for arm in registry.arms()} - found.known)  # of what routers choose from
    if not found.known:
        notes.append(f"no expert has a record: {generalist} is asked everything until `coe profile` has measured them")
        return found, notes
    if generalist in unknown:
        unknown.remove(generalist)
        notes.append(
            f"no record of {generalist}: it gets only what is nobody's skill until `coe profile` has measured it"
        )
    if unknown:
        notes.append(f"no record of {', '.join(unknown)}: never chosen until `coe profile` has measured them")
    return found, notes


def _declared(registry: Registry) -> Profile:
    """The profile that the registry file names; errors name its line."""
    folder = registry.settings.profile
    assert folder is not None
    remedy = "remove `profile:`, and measure with `coe profile`"
    if not folder.is_relative_to(PACKAGED):
        remedy = f"write it with `coe profile --out {folder}`, or {remedy}"
    if not registry.encoder_sha:
        remedy = "copy the `encoder:` block of the registry it was measured with, or remove `profile:`"
    try:
        return read_profile(folder, encoder=registry.encoder_sha)
    except ConfigError as why:
        where = registry.settings.where("profile")
        raise ConfigError(f"{why.where}: {why.what}", where=where, remedy=remedy) from why


def _renamed(table: pa.Table, known: Mapping[str, str]) -> pa.Table:
    """`table` with another id for each question whose id stands for another text in `known`."""
    pairs = zip(_column(table, "question"), _column(table, "text"), strict=True)
    ids = [
        name if known.get(name, text) == text else f"{name}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        for name, text in pairs
    ]
    return table.set_column(table.schema.get_field_index("question"), "question", pa.array(ids, pa.string()))


def _column(table: pa.Table, name: str) -> Any:
    """A column as a NumPy array: texts as objects, numbers as numbers."""
    return table[name].to_numpy()


def _firsts(table: pa.Table) -> list[int]:
    """The first row of each question, in order of appearance."""
    firsts: dict[str, int] = {}
    for row, name in enumerate(_column(table, "question")):
        firsts.setdefault(name, row)
    return list(firsts.values())
