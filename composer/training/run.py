"""One training from rows to a folder: base, child process, both forms of the adapter, and what it was worth before and after."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from composer.errors import InputError
from composer.folders import replacing
from composer.jsonl import Labelled
from composer.registry.bases import GgufBase
from composer.registry.convert import convert_peft
from composer.registry.peft import CONFIG, check_peft, read_peft
from composer.training.base import Trainee, answer
from composer.training.lessons import Lessons, asked, right, target_of
from composer.training.process import Step, run_job

NOTE = "training.json"
"""What is written beside an adapter: settings, what it was made of, and scores."""

_LOOKS = 20  # times that the held-out loss is taken, where nobody says how often
_WARMUP = 15
_DRAFT = ".adapter.tmp"  # what a child that was killed may leave


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what comes out of a training besides base and rows. `size` is rows per step, `rate` the highest
    learning rate, `every` steps between two looks at the held-out loss (0: a twentieth of all), `patience` how many of
    them may bring no new best, `dtype` of the base's numbers (None: what computes fastest), `start` an adapter to go on
    from, whose rank and alpha then hold."""

    steps: int = 600
    size: int = 8
    rank: int = 8
    alpha: float = 16
    rate: float = 2e-3
    seed: int = 0
    patience: int = 5
    every: int = 0
    dtype: str | None = None
    start: Path | None = None

    def check(self) -> None:
        """Raise InputError for a number that makes no training."""
        for name in ("steps", "size", "rank", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{getattr(self, name)} is too small, expected 1 or more", where=f"--{name}")
        for name, value in (("alpha", self.alpha), ("rate", self.rate)):
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{value} is out of range, expected a number above 0", where=f"--{name}")
        if self.start is not None:
            read_peft(self.start, where="--start")


@dataclass(frozen=True, slots=True)
class Score:
    """How many of the held-out rows were answered rightly."""

    right: int
    of: int

    def __str__(self) -> str:
        return f"{self.right}/{self.of}"


@dataclass(frozen=True, slots=True)
class Trained:
    """An adapter in `folder`. `why`: finished, patience, or stopped; then `after` is None: nobody waits for it."""

    folder: Path
    name: str
    why: str
    steps: int
    best: int
    loss_before: float
    loss_after: float
    before: Score
    after: Score | None
    seconds: float
    gguf: Path | None
    notes: tuple[str, ...]


def train(
    trainee: Trainee,
    lessons: Lessons,
    out: Path,
    recipe: Recipe,
    *,
    name: str,
    python: str,
    threads: int,
    hear: Callable[[Step | str], None] = lambda _: None,
) -> Trained:
    """Train an adapter and write the folder `out`, whole or not at all: the PEFT form, `NAME.gguf` where the base is a
    GGUF file, and `training.json`. `hear` is told each step, and in words what goes on else. Ctrl-C ends the training with
    the best so far. Raises ComposerError."""
    recipe.check()
    check_out(out)
    hear(f"{len(lessons.train)} rows to learn from, {len(lessons.held)} held back")
    base = trainee.folder(python)
    texts = [asked(row) for row in lessons.held]
    before: Score | None = None
    if trainee.host is not None:
        hear(f"asking {trainee.name} the held-out questions")
        before = _score(lessons.held, [(draft.text, draft.stop == "stop") for draft in answer(trainee, texts)])
        hear(f"before: {before} right")
    try:
        with replacing(out) as fresh:
            job = _job(trainee, lessons, recipe, base, fresh, threads)
            told, replies = run_job(python, job, lessons, hear)
            found = read_peft(fresh, where=str(fresh))
            gguf = None
            form = trainee.form()
            check_peft(found, form, declared=trainee.declared, where=trainee.name)
            if isinstance(form, GgufBase):
                gguf = fresh / f"{name}.gguf"
                convert_peft(fresh, form, gguf, declared=trainee.declared, where=trainee.name)
            after: Score | None = None
            if trainee.host is None:
                before = _score(lessons.held, [(reply, True) for reply in replies["before"]])
                if "after" in replies:
                    after = _score(lessons.held, [(reply, True) for reply in replies["after"]])
            elif told["why"] != "stopped":
                hear("asking the new expert the held-out questions")
                try:
                    drafts = answer(trainee, texts, gguf or fresh)
                    after = _score(lessons.held, [(draft.text, draft.stop == "stop") for draft in drafts])
                except KeyboardInterrupt:  # what was trained is worth keeping
                    told["why"] = "stopped"
            assert before is not None
            notes = (
                () if gguf else ("its base is no GGUF file, so there is no GGUF form: `coe experts convert` makes it",)
            )
            done = Trained(
                out, name, told["why"], told["steps"], told["best"], told["first"], told["held"], before, after,
                told["seconds"], out / gguf.name if gguf else None, notes,
            )  # fmt: skip
            text = json.dumps(note(trainee, lessons, recipe, done, told), indent=2, ensure_ascii=False) + "\n"
            (fresh / NOTE).write_text(text, encoding="utf-8")
            (fresh / _DRAFT).unlink(missing_ok=True)
            for path in fresh.iterdir():
                path.chmod(0o644)
    except OSError as why:
        raise InputError(
            f"cannot be written: {why.strerror or why}", where=str(out), remedy="check folder and space"
        ) from why
    return done


def check_out(out: Path) -> None:
    """Raise InputError where `out` is no place for an adapter."""
    if out.exists() and not out.is_dir():
        raise InputError("this is a file, expected a folder to write", where=f"--out {out}", remedy="name a new folder")
    if out.is_dir() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise InputError(
            "this folder holds something that is no adapter", where=f"--out {out}", remedy="name a new folder"
        )


def note(trainee: Trainee, lessons: Lessons, recipe: Recipe, done: Trained, told: Mapping[str, Any]) -> dict[str, Any]:
    """What `training.json` says: enough to make the adapter again, and what it was worth. It names no place of this
    machine."""
    settings = {key: value for key, value in asdict(recipe).items() if key not in ("start", "dtype", "every")}
    if recipe.start is not None:
        begun = read_peft(recipe.start)
        settings |= {"rank": max(module.rank for module in begun.modules.values()), "alpha": begun.alpha}
    return {
        "name": done.name,
        "base": {"name": trainee.public, "sha256": trainee.sha256},
        "data": {"sha256": lessons.sha256, "rows": len(lessons.train), "held_out": len(lessons.held)},
        "settings": {**settings, "every": every(recipe), "dtype": told["dtype"], "device": told["device"]},
        "started_from": recipe.start.resolve().name if recipe.start else None,
        "ended": done.why,
        "steps": done.steps,
        "best_step": done.best,
        "held_out_loss": {"before": round(done.loss_before, 4), "after": round(done.loss_after, 4)},
        "held_out_right": {
            "before": done.before.right,
            "after": done.after.right if done.after else None,
            "of": done.before.of,
        },
        "seconds": round(done.seconds),
        "versions": {"coe": _own_version(), "python": platform.python_version(), **told["versions"]},
    }


def every(recipe: Recipe) -> int:
    """Steps between two looks at the held-out loss."""
    return recipe.every or max(1, recipe.steps // _LOOKS)


def _own_version() -> str:
    return version("composition-of-experts")


def _score(rows: Sequence[Labelled], replies: Sequence[tuple[str, bool]]) -> Score:
    return Score(sum(right(row, text, whole) for row, (text, whole) in zip(rows, replies, strict=True)), len(rows))


def _job(trainee: Trainee, lessons: Lessons, recipe: Recipe, base: Path, out: Path, threads: int) -> dict[str, Any]:
    """What the child reads."""

    def pairs(rows: Sequence[Labelled]) -> list[tuple[Any, str]]:
        return [(trainee.turns(asked(row)), target_of(row)) for row in rows]

    return {
        **asdict(replace(recipe, start=None)),
        "start": str(recipe.start.resolve()) if recipe.start else None,
        "every": every(recipe),
        "warmup": min(_WARMUP, max(1, recipe.steps // 4)),
        "base": str(base.resolve()),
        "base_name": trainee.public,
        "template": trainee.template,
        "context": trainee.context,
        "train": pairs(lessons.train),
        "held": pairs(lessons.held),
        "asked": [] if trainee.host is not None else [trainee.turns(asked(row)) for row in lessons.held],
        "most": trainee.sampling.max_tokens,
        "out": str(out),
        "threads": threads,
    }
