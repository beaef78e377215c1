"""Lines of an OpenAI batch become questions, or say what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from composer.jsonl import read_questions


def line(**changes: Any) -> dict[str, Any]:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "2 + 2?"}], **changes.pop("body", {})}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body, **changes}


def turns(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "2 + 2?"} for role in roles]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": 1, "stream": False, "user": "me", "metadata": {"a": "b"}, "temperature": None},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}]},
    ],
)
def test_a_batch_line_is_a_question(tmp_path: Path, body: dict[str, Any]) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(line(body=body)) + "\n")

    [row] = read_questions(tmp_path / "in.jsonl").rows

    assert (row.id, row.text, row.numeric) == ("a", "2 + 2?", False)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (line(method="GET"), "`method` and `url` must be POST"),
        (line(url="/v1/embeddings"), "`method` and `url` must be POST"),
        (line(custom_id=7), "`custom_id` must be text"),
        (line() | {"body": []}, "`body` must be an object"),
        (line(body={"temperature": 0.7}), "`body.temperature` is not supported"),
        (line(body={"max_tokens": 10}), "`body.max_tokens` is not supported"),
        (line(body={"n": 2}), "`body.n` is not supported"),
        (line(body={"tools": []}), "`body.tools` is not supported"),
        (line(body=turns("system", "user")), "a system message is not supported"),
        (line(body=turns("user", "assistant", "user")), "must be one user message"),
        (line(body={"messages": []}), "must be a list of messages"),
        (line(body={"messages": [{"role": "user", "content": " "}]}), "holds no question"),
        (line(body={"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "only text"),
        (line(custom_id="a\0b"), "NUL"),
    ],
)
def test_what_cannot_be_done_as_asked_is_a_row_error(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")

    read = read_questions(tmp_path / "in.jsonl")

    assert not read.rows
    assert said in read.errors[0].reason
