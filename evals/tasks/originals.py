"""`python -m evals.tasks.originals KIND SOURCE OUT`: public originals of recorded answers, in our parquet form."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from composer.answers.extract import agree
from composer.errors import InputError
from composer.jsonl import write_atomic
from evals.tasks.originals_files import Asked, Found, Reply
from evals.tasks.originals_readers import KINDS

PROFILE = 0.75  # of the questions, by the hash of their text
_NAMED = 5  # so many rows are spelt out per reason


@dataclass(frozen=True, slots=True)
class Imported:
    """What is written: the questions in the order they were found, and one reply per model and question."""

    questions: tuple[Asked, ...]
    replies: tuple[Reply, ...]
    scores: tuple[float, ...]


def import_folder(kind: str, source: Path, out: Path, say: Callable[[str], None]) -> None:
    """Read `source` as `kind` (one of KINDS) and write `KIND_questions.parquet` and `KIND_outcomes.parquet` to `out`.

    `say` is told what is in them and what was left out, file by file. Raises InputError where there is nothing to use.
    """
    if not source.exists():
        raise InputError("there is no such file or folder", where=str(source), remedy="name a checkout of the original")
    found = Found()
    KINDS[kind](source, found)
    imported = settled(found)
    for line in _left_out(found):
        say(line)
    if not imported.replies:
        raise InputError(
            f"no reply could be used as {kind}",
            where=str(source),
            remedy=f"compare the folder with what `{KINDS[kind].__name__}` in evals/tasks/originals_readers.py says of it",
        )
    for line in _summary(kind, imported):
        say(line)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise InputError(f"cannot be made: {why.strerror}", where=str(out), remedy="name a folder") from why
    for name, table in (("questions", _questions(imported)), ("outcomes", _outcomes(imported))):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        with write_atomic(out / f"{kind}_{name}.parquet") as file:
            file.buffer.write(sink.getvalue().to_pybytes())


def settled(found: Found) -> Imported:
    """One version of each question, no question twice, one reply per model and question; the rest is refused in `found`.

    Files may differ on a question (a benchmark is corrected over the years): the version that most replies are to is
    kept. Replies to another text or other options are refused; where only the right answer differs, they are marked by
    the kept one. Questions of a benchmark that are equal in text (but for case and spaces), options and right answer
    are one question: the first is kept.
    """
    versions: dict[str, Counter[Asked]] = {}
    for reply in found.replies:
        versions.setdefault(reply.asked.id, Counter())[reply.asked] += 1
    kept = {name: count.most_common(1)[0][0] for name, count in versions.items()}
    first: dict[tuple[object, ...], str] = {}
    twice = {asked.id for asked in kept.values() if first.setdefault(_same(asked), asked.id) != asked.id}
    replies: dict[tuple[str, str], Reply] = {}
    corrected = dropped = 0
    for reply in found.replies:
        asked = kept[reply.asked.id]
        if asked.id in twice:
            dropped += 1
        elif reply.asked is not asked and _same(asked)[:3] != _same(reply.asked)[:3]:
            found.refuse(reply.file, "its question has another text or other options than most have", reply.row)
        elif (reply.model, asked.id) in replies:
            found.refuse(reply.file, f"a second reply of {reply.model} to the same question", reply.row)
        else:
            corrected += asked.gold != reply.asked.gold
            replies[reply.model, asked.id] = reply
    if twice:
        found.remarks.append(f"{len(twice):,} duplicated questions dropped, with {dropped:,} replies")
    if corrected:
        found.remarks.append(f"{corrected:,} replies marked by the right answer that most files have, not their own")
    answered = {name for _, name in replies}
    return Imported(
        questions=tuple(asked for asked in kept.values() if asked.id in answered),
        replies=tuple(replies.values()),
        scores=tuple(
            float(agree(reply.answer, kept[reply.asked.id].gold)) if reply.mark is None else reply.mark
            for reply in replies.values()
        ),
    )


def split_of(text: str) -> str:
    """`profile` for three quarters of all texts, else `dev`; the same for texts that differ in case and spaces only.

    >>> split_of("Is it so?") == split_of(" is  it\\nSO?")
    True
    """
    share = int.from_bytes(hashlib.sha256(_folded(text).encode()).digest()[:4], "big") / 2**32
    return "profile" if share < PROFILE else "dev"


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _same(asked: Asked) -> tuple[object, ...]:
    return asked.benchmark, _folded(asked.text), tuple(map(_folded, asked.options)), asked.gold


# --- tables


def _questions(imported: Imported) -> pa.Table:
    asked = imported.questions
    columns: dict[str, object] = {
        "question_id": [one.id for one in asked],
        "benchmark": [one.benchmark for one in asked],
        "category": [one.category for one in asked],
        "question": [one.text for one in asked],
    }
    if any(one.options for one in asked):
        columns["options"] = pa.array([list(one.options) or None for one in asked], pa.list_(pa.string()))
    if any(one.gold is not None for one in asked):
        columns["gold"] = [one.gold for one in asked]
    return pa.table({**columns, "split": [split_of(one.text) for one in asked]})


def _outcomes(imported: Imported) -> pa.Table:
    replies = imported.replies
    columns: dict[str, object] = {
        "question_id": [reply.asked.id for reply in replies],
        "benchmark": [reply.asked.benchmark for reply in replies],
        "model": [reply.model for reply in replies],
    }
    if any(reply.mark is None for reply in replies):
        columns["answer"] = pa.array([reply.answer for reply in replies], pa.string())
    if any(reply.mark is not None for reply in replies):
        columns["score"] = pa.array(imported.scores, pa.float64())
    else:
        columns["correct"] = [score == 1.0 for score in imported.scores]
    columns["resp_chars"] = [reply.chars for reply in replies]
    if any(reply.price for reply in replies):
        for place, name in enumerate(("price_in_usd_per_mtok", "price_out_usd_per_mtok")):
            columns[name] = pa.array([reply.price[place] if reply.price else None for reply in replies], pa.float64())
    return pa.table(columns)


# --- what is told


def _left_out(found: Found) -> list[str]:
    lines = []
    for (file, reason), rows in found.refused.items():
        named = ", ".join(map(str, rows[:_NAMED])) + (", …" if len(rows) > _NAMED else "")
        lines.append(f"left out: {file}: {reason}" + (f" ({len(rows):,} rows: {named})" if rows else ""))
    return lines + [f"note: {remark}" for remark in found.remarks]


def _summary(kind: str, imported: Imported) -> list[str]:
    """Per benchmark a line, and one per model: replies, questions without one, replies without an answer, mean score. A
    model that is in other benchmarks only is named too, with a file it is in."""
    lines = []
    seen_in = {reply.model: reply.file for reply in imported.replies}
    for benchmark in dict.fromkeys(asked.benchmark for asked in imported.questions):
        asked = [one for one in imported.questions if one.benchmark == benchmark]
        own: dict[str, list[tuple[Reply, float]]] = {model: [] for model in sorted(seen_in)}
        for reply, score in zip(imported.replies, imported.scores, strict=True):
            if reply.asked.benchmark == benchmark:
                own[reply.model].append((reply, score))
        models, cells = sum(bool(part) for part in own.values()), sum(map(len, own.values()))
        profile = sum(split_of(one.text) == "profile" for one in asked)
        lines.append(
            f"{kind}: {benchmark}: {len(asked):,} questions ({profile:,} profile, {len(asked) - profile:,} dev), "
            f"{models} models, {cells:,} of {len(asked) * models:,} cells"
        )
        for model, part in own.items():
            if not part:
                lines.append(f"  {model}: no reply; it is in {seen_in[model]}")
                continue
            read = [reply for reply, _ in part if reply.mark is None]
            none = f"{sum(reply.answer is None for reply in read) / len(read):.1%}" if read else "-"
            mean = sum(score for _, score in part) / len(part)
            lines.append(
                f"  {model}: {len(part):,} replies, {len(asked) - len(part):,} missing, "
                f"{none} without an answer, mean score {mean:.3f}"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Import; 0 where files were written, 2 where the input was of no use."""
    parser = argparse.ArgumentParser(prog="python -m evals.tasks.originals", description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("source", type=Path, help="a folder or file of the original, as its publisher has it")
    parser.add_argument("out", type=Path, help="the folder to write to")
    given = parser.parse_args(arguments)
    try:
        import_folder(given.kind, given.source, given.out, _say)
    except InputError as why:
        _say(str(why))
        return why.exit_code
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
