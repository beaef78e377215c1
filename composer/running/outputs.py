"""The files a run writes: its answers in either form, what is there so far, and the lines that could not be used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

from composer.errors import InputError, suggest
from composer.jsonl import write_atomic
from composer.traced import asked_of, calls_of

Form = Literal["rows", "openai-batch"]
"""`rows` are ours; `openai-batch` are the lines of an OpenAI batch's output file, ours beside them as `x_coe`."""

FAILED = "not_answered"  # the error code of a row without an answer, in the OpenAI form


def form_of(name: str) -> Form:
    """The form that a user names. Raises InputError for any other."""
    forms: tuple[Form, ...] = get_args(Form)
    for form in forms:
        if name == form:
            return form
    raise InputError(f"{name!r} is no form of answers", where="--form", remedy=suggest(name, forms))


def errors_file(out: Path) -> Path:
    """Where the unusable lines of a run go: `answers.errors.jsonl` beside `answers.jsonl`."""
    return out.with_name(f"{out.stem}.errors.jsonl") if out.name else out


def partial_file(out: Path) -> Path:
    """Where the finished rows of a run go that a budget or a signal ended early: `answers.partial.jsonl`."""
    return out.with_name(f"{out.stem}.partial.jsonl") if out.name else out


def row_of(trace: Mapping[str, Any]) -> dict[str, Any]:
    """The output row of one answer, out of its trace. A query that failed has the answer null."""
    score = trace["route"]["scores"].get(trace["chosen"]) if trace["chosen"] else None
    return {
        "id": trace["id"],
        "answer": trace["answer"] if trace["status"] != "failed" else None,
        "status": trace["status"],
        "experts": asked_of(trace),
        "score": None if score is None else round(score, 4),
        # a run of an earlier version did not keep the rest
        "sure": trace.get("sure"),
        "calibrated": trace.get("calibrated", False),
        "marks": list(trace.get("marks", ())),
        "trace_id": trace["trace_id"],
    }


def row_without(name: str, status: str) -> dict[str, Any]:
    """The row of a question that has no final answer."""
    nothing: dict[str, Any] = {"answer": None, "status": status, "experts": [], "score": None}
    return {"id": name, **nothing, "sure": None, "calibrated": False, "marks": [], "trace_id": None}


def openai_line(row: Mapping[str, Any], made: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """A row (as `row_of`) as a line of an OpenAI batch's output. `made` is its trace, or so much of one as there is."""
    usage = tokens_of(made)
    answered = row["answer"] is not None
    trace = row["trace_id"]
    body = {
        "id": f"chatcmpl-{trace}",
        "object": "chat.completion",
        "model": "auto",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": row["answer"]},
                "finish_reason": "stop" if _is_whole(made) else "length",
            }
        ],
        "usage": {
            "prompt_tokens": usage["tokens_in"],
            "completion_tokens": usage["tokens_out"],
            "total_tokens": usage["tokens_in"] + usage["tokens_out"],
        },
    }
    return {
        "id": f"batch_req_{trace}",
        "custom_id": str(row["id"]),
        "response": {"status_code": 200, "request_id": trace, "body": body} if answered else None,
        "error": None if answered else {"code": FAILED, "message": "no expert gave an answer"},
        "x_coe": {"run_id": run_id, **{key: value for key, value in row.items() if key not in ("id", "answer")}},
    }


def tokens_of(trace: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of all calls of a trace, those from the store included."""
    return {name: sum(call[name] for call in calls_of(trace)) for name in ("tokens_in", "tokens_out")}


def _is_whole(trace: Mapping[str, Any]) -> bool:
    """Whether a draft of the arm whose answer was taken ended by itself, rather than at its most tokens."""
    taken = [draft["stop"] for draft in trace["drafts"] if draft["name"] == trace.get("chosen")]
    return not taken or "stop" in taken


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSONL, whole or not at all."""
    with write_atomic(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def sweep_drafts_of(*outs: Path) -> None:
    """Remove what a killed process left of these files half-written. Call it while nobody else writes them."""
    for out in outs:
        for left in out.parent.glob(f".{_literal(out.name)}.????????.tmp"):
            with suppress(OSError):
                left.unlink()


def _literal(name: str) -> str:
    """A name as a glob that means itself."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
