"""Recorded answers of real models: the parquet form and RouterBench's CSV, read into questions and outcomes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from composer import cells as cells_
from composer.errors import InputError, suggest
from composer.folders import cache_folder
from composer.state import lettered
from routers.types import Arm, Array, Indices, Outcomes, Questions

_QUESTIONS, _OUTCOMES, _POOLS = "_questions.parquet", "_outcomes.parquet", "pools.json"
_CHARS = 4.0  # characters of a token, where prices are per token and only characters were recorded


@dataclass(frozen=True, slots=True)
class Recorded:
    """Questions and what arms answered them. Columns have a row per question: `ids`, `text` (with the options, as an
    expert is given it), `benchmark`, `category` (empty: none), `split`, `options` (how many there are to choose from, 0
    where answers are free).

    `outcomes.cost` is in USD where the record has prices, NaN where it has none; `voted` tells whether answers were
    recorded, without which nobody can vote.
    """

    ids: tuple[str, ...]
    text: tuple[str, ...]
    benchmark: tuple[str, ...]
    category: tuple[str, ...]
    split: tuple[str, ...]
    options: Indices
    outcomes: Outcomes
    voted: bool

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | Indices) -> Recorded:
        """The questions at `rows` with their outcomes."""
        place = np.asarray(rows, dtype=np.int64)
        return Recorded(
            ids=tuple(self.ids[i] for i in place),
            text=tuple(self.text[i] for i in place),
            benchmark=tuple(self.benchmark[i] for i in place),
            category=tuple(self.category[i] for i in place),
            split=tuple(self.split[i] for i in place),
            options=self.options[place],
            outcomes=self.outcomes.take(place),
            voted=self.voted,
        )

    def of(self, benchmarks: Sequence[str], arms: Sequence[str] | None = None) -> Recorded:
        """The questions of these benchmarks, and the arms (None: all) that answered any of them."""
        part = self.take([i for i, name in enumerate(self.benchmark) if name in benchmarks])
        present = [part.outcomes.arms[i].name for i in np.unique(part.outcomes.arm)]
        wanted = present if arms is None else arms
        if missing := [name for name in wanted if name not in present]:
            raise InputError(
                f"no outcome of {', '.join(missing[:3])} on {', '.join(benchmarks)}",
                remedy=suggest(missing[0], present),
            )
        if not len(part):
            raise InputError(
                f"no question is of {', '.join(benchmarks) or 'these benchmarks'}", remedy="name another one"
            )
        own = part.outcomes.only(wanted)
        voted = any(answer is not None for answer in own.answer)
        learnt = np.array([split == "profile" for split in part.split])[own.question]
        if not learnt.any():
            learnt = np.ones(len(own.question), dtype=bool)
        arms_now = _priced(wanted, own.arm[learnt], own.cost[learnt], own.length[learnt])  # prices choose, too
        return replace(part, outcomes=replace(own, arms=arms_now), voted=voted)

    def questions(self, vectors: Array) -> Questions:
        """As routers want them, labelled with the category; `vectors` are the texts', [n, dim]."""
        return Questions(self.ids, self.text, vectors, tuple((name,) if name else () for name in self.category))


def read_folder(folder: Path) -> Recorded:
    """All `NAME_questions.parquet` with their `NAME_outcomes.parquet` in `folder`, as one record.

    Questions: `question_id, benchmark, question, split`, optional `category, options`. Outcomes: `question_id, model`,
    `score` in [0, 1] or `correct`, optional `answer, resp_chars, sample, price_in_usd_per_mtok, price_out_usd_per_mtok`.
    Raises InputError naming the file and the column.
    """
    files = sorted(folder.glob(f"*{_QUESTIONS}")) if folder.is_dir() else []
    if not files:
        raise InputError(
            f"there is no *{_QUESTIONS} here", where=str(folder), remedy="give --data a folder of recorded answers"
        )
    parts = [_read_pair(file, file.with_name(file.name.removesuffix(_QUESTIONS) + _OUTCOMES)) for file in files]
    return _joined(parts, folder)


def read_pools(folder: Path) -> dict[str, tuple[tuple[str, ...], tuple[str, ...] | None]]:
    """The pools that `pools.json` of `folder` names: (benchmarks, arms; None: all). Empty where there is no such file."""
    path = folder / _POOLS
    if not path.exists():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: (
                tuple(part.strip() for part in row["benchmark"].split(",")),
                None if row["models"] == "all" else tuple(row["models"]),
            )
            for name, row in told.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        raise InputError(
            f"this is no list of pools: {why}",
            where=str(path),
            remedy='write {"NAME": {"benchmark": …, "models": […]}}',
        ) from why


def read_routerbench(path: Path, *, profile: float = 0.75) -> Recorded:
    """RouterBench's wide CSV (Hu et al. 2024): `sample_id, prompt, eval_name`, and per model a column of its score and,
    optionally, `MODEL|model_response` and `MODEL|total_cost` (USD).

    It has no splits: questions whose id hashes under `profile` are `profile`, the others `dev`. Responses are whole
    texts, no extracted answers, so nobody votes on them; their characters are the length. Raises InputError naming line
    and column.
    """
    csv.field_size_limit(100_000_000)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            numbered = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as why:
        raise InputError(f"this file cannot be read: {why}", where=str(path), remedy="give a CSV in UTF-8") from why
    rows = [row for _, row in numbered]
    if not rows or any(name not in rows[0] for name in ("sample_id", "prompt", "eval_name")):
        raise InputError(
            "a column is missing: expected sample_id, prompt, eval_name and one per model",
            where=str(path),
            remedy="export RouterBench's table as it is, with `to_csv(index=False)`",
        )
    fixed = {"sample_id", "prompt", "eval_name", "oracle_model_to_route_to"}
    models = [name for name in rows[0] if name and name not in fixed and "|" not in name]
    cells: dict[str, list[Any]] = {name: [] for name in ("question", "arm", "score", "length", "cost")}
    for place, (line, row) in enumerate(numbered):
        for column, model in enumerate(models):
            if row[model] == "":
                continue
            where = f"{path}:{line}"
            cells["question"].append(place)
            cells["arm"].append(column)
            cells["score"].append(cells_.number(row[model], where, model, high=1.0))
            cells["length"].append(len(row.get(f"{model}|model_response") or ""))
            paid = row.get(f"{model}|total_cost") or ""
            cells["cost"].append(cells_.number(paid, where, f"{model}|total_cost") if paid else float("nan"))
    ids = tuple(row["sample_id"] for row in rows)
    _unique(ids, str(path))
    cost = np.array(cells["cost"], dtype=np.float32)
    arm = np.array(cells["arm"], dtype=np.int64)
    return Recorded(
        ids=ids,
        text=tuple(row["prompt"] for row in rows),
        benchmark=("routerbench",) * len(rows),
        category=tuple(row["eval_name"] for row in rows),
        split=tuple("profile" if _share(name) < profile else "dev" for name in ids),
        options=np.zeros(len(rows), dtype=np.int64),
        outcomes=Outcomes(
            arms=_priced(models, arm, cost, np.array(cells["length"], dtype=np.int64)),
            question=np.array(cells["question"], dtype=np.int64),
            arm=arm,
            score=np.array(cells["score"], dtype=np.float32),
            sample=np.zeros(len(arm), dtype=np.int64),
            answer=(None,) * len(arm),
            length=np.array(cells["length"], dtype=np.int64),
            cost=cost,
        ),
        voted=False,
    )


def vectors_of(
    texts: Sequence[str], encode: Callable[[Sequence[str]], Array], *, encoder: str, say: Callable[[str], None]
) -> Array:
    """The vectors of `texts`, float32 [n, dim], kept in the user's cache under the hash of encoder and texts."""
    digest = hashlib.sha256(encoder.encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    path = cache_folder() / "vectors" / f"{digest.hexdigest()}.npy"
    if path.exists():
        try:
            kept: Array = np.load(path, allow_pickle=False)
            if kept.shape[:1] == (len(texts),) and kept.dtype == np.float32:
                return kept
        except (OSError, ValueError, EOFError):
            pass  # what is in a cache can be made again
    say(f"embedding {len(texts)} questions (once: the vectors are kept)")
    vectors = encode(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}-{id(vectors):x}.tmp.npy")
    np.save(temporary, vectors, allow_pickle=False)
    temporary.replace(path)
    return vectors


def _read_pair(questions: Path, outcomes: Path) -> Recorded:
    if not outcomes.exists():
        raise InputError(f"{questions.name} has no outcomes", where=str(outcomes), remedy="put the file beside it")
    asked = _table(questions, ("question_id", "benchmark", "question", "split"))
    done = _table(outcomes, ("question_id", "model"))
    marked = next((name for name in ("score", "correct") if name in done.column_names), None)
    if marked is None:
        raise InputError("there is no column `score` or `correct`", where=str(outcomes), remedy="add one of them")
    benchmark = tuple(map(str, asked["benchmark"].to_pylist()))
    ids, keys = _named(tuple(map(str, asked["question_id"].to_pylist())), benchmark, str(questions))
    named = list(map(str, done["question_id"].to_pylist()))
    if "benchmark" in done.column_names:
        place = {key: i for i, key in enumerate(keys)}
        wanted = list(zip(map(str, done["benchmark"].to_pylist()), named, strict=True))
    else:
        place = {("", name): i for i, (_, name) in enumerate(keys)}
        wanted = [("", name) for name in named]
    question = np.array([place.get(key, -1) for key in wanted], dtype=np.int64)
    keep = np.flatnonzero(question >= 0)
    if not len(keep):
        raise InputError(
            f"no `question_id` of this file ({named[0] if named else 'none'!s} …) is one of {questions.name} ({keys[0][1]} …)",
            where=str(outcomes),
            remedy="write the ids alike in both files",
        )
    models, arm = _columns(done)
    score = np.array(cells_.marks(done[marked].to_pylist(), str(outcomes), marked), dtype=np.float32)
    length = np.array(cells_.whole(_optional(done, "resp_chars"), str(outcomes), "resp_chars"), dtype=np.int64)
    sample = np.array(cells_.whole(_optional(done, "sample"), str(outcomes), "sample"), dtype=np.int64)
    choices = [cells_.options(value) for value in _optional(asked, "options")]
    texts = [lettered(str(text or ""), own) for text, own in zip(asked["question"].to_pylist(), choices, strict=True)]
    cost = _cost(done, length, texts, question)
    answers = _optional(done, "answer")
    return Recorded(
        ids=ids,
        text=tuple(texts),
        benchmark=benchmark,
        category=tuple("" if name is None else str(name) for name in _optional(asked, "category")),
        split=tuple(map(str, asked["split"].to_pylist())),
        options=np.array([len(own) for own in choices], dtype=np.int64),
        outcomes=Outcomes(
            arms=_priced(models, arm[keep], cost[keep], length[keep]),
            question=question[keep],
            arm=arm[keep],
            score=score[keep],
            sample=sample[keep],
            answer=tuple(None if answers[i] is None else str(answers[i]) for i in keep),
            length=length[keep],
            cost=cost[keep],
        ),
        voted="answer" in done.column_names,
    )


def _named(
    ids: tuple[str, ...], benchmark: tuple[str, ...], where: str
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The questions' ids (with their benchmark where two benchmarks share one), and what outcomes name them by."""
    keys = tuple(zip(benchmark, ids, strict=True))
    _unique([f"{own} of {name}" for name, own in keys], where)
    if len(set(ids)) == len(ids):
        return ids, keys
    return tuple(f"{name}:{own}" for name, own in keys), keys


def _columns(done: pa.Table) -> tuple[list[str], Indices]:
    """The models by name, and each row's place among them."""
    named = [str(name) for name in done["model"].to_pylist()]
    models = sorted(set(named))
    column = {name: i for i, name in enumerate(models)}
    return models, np.array([column[name] for name in named], dtype=np.int64)


def _joined(parts: Sequence[Recorded], folder: Path) -> Recorded:
    """One record out of several; an arm of two files is one arm, whose price `of` takes from what is then left."""
    ids = tuple(name for part in parts for name in part.ids)
    if len(set(ids)) < len(ids):
        ids = tuple(f"{name}:{own}" for part in parts for own, name in zip(part.ids, part.benchmark, strict=True))
    _unique(ids, str(folder))
    arms = tuple(Arm(name) for name in sorted({arm.name for part in parts for arm in part.outcomes.arms}))
    column = {arm.name: i for i, arm in enumerate(arms)}
    starts = np.cumsum([0, *(len(part) for part in parts)])
    outcomes = [part.outcomes for part in parts]
    return Recorded(
        ids=ids,
        text=tuple(text for part in parts for text in part.text),
        benchmark=tuple(name for part in parts for name in part.benchmark),
        category=tuple(name for part in parts for name in part.category),
        split=tuple(name for part in parts for name in part.split),
        options=np.concatenate([part.options for part in parts]),
        outcomes=Outcomes(
            arms=arms,
            question=np.concatenate([own.question + start for own, start in zip(outcomes, starts, strict=False)]),
            arm=np.concatenate([np.array([column[arm.name] for arm in own.arms])[own.arm] for own in outcomes]),
            score=np.concatenate([own.score for own in outcomes]),
            sample=np.concatenate([own.sample for own in outcomes]),
            answer=tuple(answer for own in outcomes for answer in own.answer),
            length=np.concatenate([own.length for own in outcomes]),
            cost=np.concatenate([own.cost for own in outcomes]),
        ),
        voted=any(part.voted for part in parts),
    )


def _table(path: Path, needed: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as why:
        raise InputError(f"this file cannot be read: {why}", where=str(path), remedy="give a parquet file") from why
    for name in needed:
        if name not in table.column_names:
            raise InputError(
                f"there is no column `{name}`", where=str(path), remedy=f"columns needed: {', '.join(needed)}"
            )
    return table


def _cost(done: pa.Table, length: Indices, texts: Sequence[str], question: Indices) -> Array:
    """USD per answer where the record has prices per million tokens; NaN elsewhere. Tokens were not recorded:
    characters / 4 stand for them, and where answers have no length, one as long as the question does."""
    names = ("price_in_usd_per_mtok", "price_out_usd_per_mtok")
    if any(name not in done.column_names for name in names):
        return np.full(done.num_rows, np.nan, dtype=np.float32)
    into, out = (np.array(done[name].to_pylist(), dtype=np.float64) for name in names)
    asked = np.array([len(text) for text in texts] or [0])[np.maximum(question, 0)]
    written = np.where(length > 0, length, asked)
    cost: Array = ((into * asked + out * written) / _CHARS / 1e6).astype(np.float32)
    return cost


def _priced(models: Sequence[str], arm: Indices, cost: Array, length: Indices) -> tuple[Arm, ...]:
    """An arm's price: its mean cost where all arms' costs are known, else its mean length in characters as a proxy."""
    known = len(cost) > 0 and not bool(np.isnan(cost).any())
    values = cost.astype(np.float64) if known else length.astype(np.float64)
    count = np.bincount(arm, minlength=len(models))
    mean = np.bincount(arm, values, len(models)) / np.maximum(count, 1)
    return tuple(Arm(name, float(price) if price > 0 else 1.0) for name, price in zip(models, mean, strict=True))


def _optional(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * table.num_rows


def _unique(ids: Sequence[str], where: str) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise InputError(f"question {twice!r} comes twice", where=where, remedy="give every question its own id")


def _share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
