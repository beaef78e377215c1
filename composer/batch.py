"""A file of questions in, a file of answers out; killed anywhere, it goes on where it was."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from composer import __version__
from composer.jsonl import check_outputs, read_questions, write_atomic
from composer.pipeline import Pipeline, as_queries
from composer.state import Answer, Query, State, trace_of
from composer.store import RunHandle
from routers.types import Route


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did. `loads` counts weights opened, `distinct_models` the weight files among them, `failed` queries
    without an answer; tokens, seconds and CPU seconds (hosts included) are of this run alone: cached drafts cost none."""

    queries: int
    drafts: int
    cached: int
    loads: int
    distinct_models: int
    seconds: float
    cpu_seconds: float
    tokens_in: int
    tokens_out: int
    failed: int
    degraded: int
    bad_rows: int
    run_id: str


def run_file(pipeline: Pipeline, source: Path, out: Path, *, summary: Path | None = None) -> Summary:
    """Answer every question of `source` into `out`, one row per id in input order; unusable lines go to
    `NAME.errors.jsonl` beside it, and the summary, as one JSON object, to `summary`.

    Every draft is in the store before it counts, so a second call asks nothing twice that was finished. Closes the
    pipeline. Raises InputError (an output that cannot be written, or is an input) and DuplicateIds before anything
    runs, StoreLockedError while another process works on the same run.
    """
    began, cpu = time.monotonic(), _cpu_seconds()
    bad = errors_file(out)
    check_outputs([out, bad, *([summary] if summary else [])], [source])
    read = read_questions(source)
    queries = [Query(row.id, row.text, row.choices, row.kind, row.tests) for row in read.rows]
    bad.unlink(missing_ok=True)  # of an earlier run: what it complains of may be mended
    if read.errors:
        _write_rows(bad, map(asdict, read.errors))
    inputs = [
        (query.id, row.line, _sha(query.text, *query.choices, str(query.kind), *query.tests))
        for query, row in zip(queries, read.rows, strict=True)
    ]
    run_id = _sha(str(out.resolve()), pipeline.settings.config_sha, *(sha for _, _, sha in inputs))[:16]
    with pipeline:
        state, ledger = pipeline.complete(_recorded(pipeline, run_id, inputs, queries)), pipeline.ledger
    shown = {row.id: int(row.id) for row in read.rows if row.numeric}
    _write_rows(out, (row_of(answer) | {"id": shown.get(answer.id, answer.id)} for answer in state.answers))
    done = Summary(
        queries=len(queries),
        drafts=ledger.drafts,
        cached=ledger.cached,
        loads=ledger.loads,
        distinct_models=len(ledger.weights),
        seconds=round(time.monotonic() - began, 3),
        cpu_seconds=round(_cpu_seconds() - cpu, 3),
        tokens_in=ledger.tokens_in,
        tokens_out=ledger.tokens_out,
        failed=sum(answer.status == "failed" for answer in state.answers),
        degraded=sum(answer.status == "degraded" for answer in state.answers),
        bad_rows=len(read.errors),
        run_id=run_id,
    )
    if summary is not None:
        with write_atomic(summary) as file:
            file.write(json.dumps(asdict(done), indent=2) + "\n")
    return done


def errors_file(out: Path) -> Path:
    """Where the unusable lines of a run go: `answers.errors.jsonl` beside `answers.jsonl`."""
    return out.with_name(f"{out.stem}.errors.jsonl") if out.name else out


def row_of(answer: Answer) -> dict[str, Any]:
    """The output row of one answer. A query that failed has the answer null."""
    return {
        "id": answer.id,
        "answer": answer.text if answer.status != "failed" else None,
        "status": answer.status,
        "experts": list(answer.experts),
        "score": round(answer.score, 4) if answer.score is not None else None,
        "trace_id": answer.trace_id,
    }


def ask_once(pipeline: Pipeline, question: str) -> tuple[Answer, dict[str, Any], Route]:
    """Answer one question as a run of its own: the answer, its trace (kept in the store), its route. Call it inside
    `with pipeline:`."""
    [query] = as_queries([question])
    run_id = secrets.token_hex(8)
    state = pipeline.complete(_recorded(pipeline, run_id, [(query.id, 1, _sha(query.text))], [query]))
    return state.answers[0], trace_of(state, 0), state.route(0)


async def _recorded(pipeline: Pipeline, run_id: str, inputs: list[tuple[str, int, str]], queries: list[Query]) -> State:
    run = await pipeline.store.begin(run_id, pipeline.settings.config_sha, __version__, inputs)
    with run:
        state = await pipeline.astate(queries, run=run_id)
        await asyncio.gather(*(_finish(run, state, row) for row in range(len(queries))))
    return state


async def _finish(run: RunHandle, state: State, row: int) -> None:
    """A result is final, so a failed query is left open: the next start asks it again."""
    answer = state.answers[row]
    if answer.status != "failed":
        await run.finish(answer.id, 0, trace_of(state, row), answer.status)


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with write_atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _sha(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
