"""Files of questions that are not as they should be (R19, R20, R21), through the real command."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

from composer.jsonl import MAX_LINE
from evals.faults.bench import RUN, Bench, Finding, left_behind, questions, rows_of
from evals.faults.server import answer_to

_BAD = (
    b"{not json",
    b'["a list"]',
    b'{"id": "x%d"}',
    b'{"id": "x%d", "question": ""}',
    b'{"id": "x%d", "question": 7}',
    b'{"id": true, "question": "true?"}',
    b'{"id": "x%d", "question": "\xff"}',
    b'{"id": "x%d", "question": "nul \\u0000"}',
    b'{"id": "x%d", "question": "?", "choices": ["one"]}',
)
"""Nine kinds of rows that cannot be used."""

HOSTILE = {
    "right to left": "\u202eabc\u202c \u05d0\u05d1\u05d2 \u2066x\u2069",
    "colours and cursor": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\u2029 end",
    "astral and combining": "\U0001f600 e\u0301 \ufeff \U0010ffff",
    "template and SQL": "{{7*7}} {% raw %} <|im_end|> '; DROP TABLE call; -- \\u0000",
    "formula of a spreadsheet": '=cmd|" /C calc"!A0',
    "a long line": "long " * 20_000 + "end",
}
"""Questions that are answered, and come back as they were."""

_REFUSED = {
    "NUL": b'{"id": "nul", "question": "a\\u0000b"}',
    "half a pair": b'{"id": "half", "question": "a\\ud800b"}',
    "no UTF-8": b'{"id": "bytes", "question": "\xc3\x28"}',
    "nested 100,000 deep": b'{"id": "deep", "question": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a line too long": b'{"id": "huge", "question": "' + b"x" * MAX_LINE + b'"}',
    "a number of 10,000 digits": b'{"id": ' + b"9" * 10_000 + b', "question": "?"}',
}
"""Rows that are refused by their line."""


def doubled_ids(bench: Bench, n: int, seed: int = 5) -> Finding:
    """R19: some ids come twice or more; nothing may be run."""
    chance, wrong = random.Random(seed), Counter[str]()
    since = bench.mark()
    for _ in range(n):
        folder = bench.prepared("doubled", questions(20), "ok")
        rows = rows_of(folder / "in.jsonl")
        twice = chance.sample(range(20), chance.randint(1, 3))
        rows += [rows[i] for i in twice]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        wrong["exit code"] += bench.nursery.run(folder, RUN) != 2
        said = (folder / "said.txt").read_text()
        wrong["lines not named"] += not all(f"lines {i + 1}, {21 + place}" in said for place, i in enumerate(twice))
        wrong["output"] += (folder / "out.jsonl").exists()
    called = bench.told("begun", since)
    # the last file once more, as its user may want it
    wrong["exit code with --dedupe"] += bench.nursery.run(folder, (*RUN, "--dedupe", "first")) != 3
    told = [row["line"] for row in rows_of(folder / "out.errors.jsonl")]
    first = [row["id"] for row in rows_of(folder / "out.jsonl")] == [row["id"] for row in rows[:20]]
    wrong["--dedupe"] += not first or told != [21 + place for place in range(len(twice))]
    figure = f"calls made {called}, exit code 2 in {n - wrong['exit code']}/{n}{_others(wrong, 'exit code')}"
    promise = "all offending lines named, exit 2, nothing asked; `--dedupe first` asks the first and names the others"
    return Finding("R19", "duplicate ids in the input", promise, figure, n, not (+wrong or called))


def hostile_text(bench: Bench, _: int = 1) -> Finding:
    """R21: an expert that says what it is asked, so each text makes the whole way there and back."""
    wrong = Counter[str]()
    folder = bench.prepared("hostile", list(HOSTILE.values()), "echo")
    lines = (folder / "in.jsonl").read_bytes().splitlines() + list(_REFUSED.values())
    (folder / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    wrong["exit code"] = bench.nursery.run(folder, RUN) != 3  # rows could not be used
    rows = {row["id"]: row["answer"] for row in rows_of(folder / "out.jsonl")}
    changed = [name for i, (name, text) in enumerate(HOSTILE.items()) if rows.get(f"q{i}") != text]
    refused = {row["line"] for row in rows_of(folder / "out.errors.jsonl")}
    served = len(set(range(len(HOSTILE) + 1, len(lines) + 1)) ^ refused)
    said = (folder / "said.txt").read_text()
    for question in HOSTILE.values():
        bench.nursery.run(folder, ("ask", question, "--config", "experts.yaml"))
        said += (folder / "said.txt").read_text()
    wrong["control characters on a terminal"] = sum(not (char.isprintable() or char in "\n\t") for char in said)
    wrong["tracebacks"] = said.count("Traceback")
    figure = (
        f"changed on the way {len(changed)}{' (' + ', '.join(changed) + ')' if changed else ''}, bad lines not told "
        f"{served}, uncaught {wrong['tracebacks']}{_others(wrong, 'tracebacks')}"
    )
    promise = "comes back equal, or is refused by its line; shown without control characters"
    total = len(HOSTILE) + len(_REFUSED)
    return Finding("R21", "hostile text", promise, figure, total, not (changed or served or +wrong))


def large_file(bench: Bench, rows: int) -> Finding:
    """R20: one line in a hundred cannot be used, in nine ways."""
    folder = bench.prepared("large", ["?"], "ok", slots=16)
    bad = range(50, rows, 100)
    with (folder / "in.jsonl").open("wb") as file:
        for i in range(rows):
            line = _BAD[i // 100 % len(_BAD)] if i in bad else b'{"id": "q%d", "question": "row %d?"}' % (i, i)
            file.write((line.replace(b"%d", b"%d" % i) if i in bad else line) + b"\n")
    began, peak = time.monotonic(), 0
    pid = bench.nursery.start(folder, RUN)
    while (size := _peak(pid)) is not None:
        peak = max(peak, size)
        time.sleep(0.1)
    code = bench.nursery.wait(pid)
    seconds = time.monotonic() - began
    wrong = 0
    seen = set()
    with (folder / "out.jsonl").open() as file:
        for told_row in file:
            row = json.loads(told_row)
            seen.add(row["id"])
            wrong += row["answer"] != answer_to(f"row {row['id'][1:]}?") or row["status"] != "ok"
    told = {row["line"] - 1 for row in rows_of(folder / "out.errors.jsonl")}
    lost = rows - len(bad) - len(seen)
    figure = (
        f"{len(seen):,} answered, {len(told):,} told as bad, lost {lost}, wrong {wrong}; peak {peak / 2**20:.0f} MiB, "
        f"{seconds:.0f} s, exit {code}"
    )
    passed = not (lost or wrong or left_behind(folder)) and told == set(bad) and code == 3 and peak < 250 * 2**20
    promise = "good rows answered, bad ones told by line; memory under 250 MiB"
    return Finding("R20", f"{rows:,} rows, 1 % bad in nine ways", promise, figure, rows, passed)


def _peak(pid: int) -> int | None:
    """The most bytes that were ever resident; None when the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None


def _others(wrong: Counter[str], *told: str) -> str:
    return "".join(f"; {name} {count}" for name, count in wrong.items() if count and name not in told)
