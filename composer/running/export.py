"""A run out of the store into a file: our rows as JSONL or Parquet, or the lines of an OpenAI batch's output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from composer.errors import InputError
from composer.jsonl import check_outputs, write_atomic
from composer.running.outputs import Form, openai_line, row_of, row_without, write_rows
from composer.store import DraftStore, RunRecord


async def export(store: DraftStore, run: RunRecord, to: Path, form: Form = "rows") -> int:
    """Write every question of `run` to `to`, in file order, and return how many have an answer. A name that ends in
    `.parquet` is a Parquet file; the others are JSONL, in `form`. The file is there whole, or not at all.

    A question without a final answer is a row whose status is `failed`, or `unfinished` where the run is. Ids are text.
    Raises InputError where `to` cannot be written, or is Parquet in the form of OpenAI.
    """
    check_outputs([to], [store.path])
    parquet = to.suffix == ".parquet"
    if parquet and form != "rows":
        raise InputError(
            "the OpenAI form is JSONL", where=str(to), remedy="name a file that ends in .jsonl, or leave out --form"
        )
    traces = {str(trace["id"]): trace for trace in await store.traces(run.run_id)}
    names = await store.questions(run.run_id)
    rows = [_row(name, traces.get(name), run) for name in names]
    if parquet:
        _write_parquet(to, rows)
    elif form == "rows":
        write_rows(to, rows)
    else:
        made = (traces.get(row["id"], {"drafts": []}) for row in rows)
        write_rows(to, (openai_line(row, trace, run.run_id) for row, trace in zip(rows, made, strict=True)))
    return sum(row["answer"] is not None for row in rows)


def _row(name: str, trace: Mapping[str, Any] | None, run: RunRecord) -> dict[str, Any]:
    """The same row as `coe run` writes."""
    if trace is None:
        return row_without(name, "failed" if run.state == "finished" else "unfinished")
    return row_of(trace) | {"id": name}


def _write_parquet(to: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - only who wants Parquet pays for it
    import pyarrow.parquet as pq  # noqa: PLC0415

    text = pa.string()
    schema = pa.schema(
        {
            "id": text,
            "answer": text,
            "status": text,
            "experts": pa.list_(text),
            "score": pa.float64(),
            "sure": pa.float64(),
            "calibrated": pa.bool_(),
            "marks": pa.list_(text),
            "trace_id": text,
        }
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    with write_atomic(to) as file:
        pq.write_table(table, cast("IO[Any]", file.buffer))
