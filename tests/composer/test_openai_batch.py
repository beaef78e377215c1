"""Lines of an OpenAI batch become questions, or say what cannot be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from registry_texts import Load

from composer.asker import Wishes
from composer.jsonl import Question, read_questions
from composer.running.honours import refusal
from composer.types import Message


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
        {"model": None, "tools": [], "logprobs": False},
    ],
)
def test_a_batch_line_is_a_question(tmp_path: Path, body: dict[str, Any]) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(line(body=body)) + "\n")

    [row] = read_questions(tmp_path / "in.jsonl").rows

    assert (row.id, row.text, row.numeric, row.turns, row.wishes) == ("a", "2 + 2?", False, (), Wishes())


def test_how_a_line_wants_to_be_answered_and_what_was_said_before_are_kept(tmp_path: Path) -> None:
    wishes = {"max_completion_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n", "."]}
    body = turns("developer", "user", "assistant", "user") | wishes
    (tmp_path / "in.jsonl").write_text(json.dumps(line(body=body)) + "\n")

    [row] = read_questions(tmp_path / "in.jsonl").rows

    assert [turn.role for turn in row.turns] == ["system", "user", "assistant"]
    assert row.wishes == Wishes(max_tokens=5, temperature=0.5, top_p=0.9, seed=7, stop=("\n", "."))


def test_chance_without_a_seed_is_the_same_chance_in_every_start(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(line(body={"temperature": 1})) + "\n")

    [row] = read_questions(tmp_path / "in.jsonl").rows

    assert row.wishes == Wishes(temperature=1)  # the seed is the registry's: a resumed run asks for the same draft


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (line(method="GET"), "`method` and `url` must be POST"),
        (line(url="/v1/embeddings"), "`method` and `url` must be POST"),
        (line(custom_id=7), "`custom_id` must be text"),
        (line() | {"body": []}, "`body` must be an object"),
        (line(body={"temperature": 3}), "in `body`: temperature: "),
        (line(body={"temperature": "warm"}), "in `body`: temperature: "),
        (line(body={"max_tokens": 0}), "in `body`: max_tokens: "),
        (line(body={"max_tokens": 5, "max_completion_tokens": 6}), "send one of them"),
        (line(body={"stop": ["a"] * 5}), "in `body`: stop: at most 4"),
        (line(body={"stop": "a\0"}), "`body.stop` holds a NUL"),
        (line(body={"n": 2, "temperature": 1}), "in `body`: n: 2 answers; a line of a file gets one"),
        (line(body={"stream": True}), "in `body`: stream: "),
        (line(body={"tools": [{"type": "function"}]}), "`tools` is not supported here"),
        (line(body={"temprature": 1}), "no field is called 'temprature'"),
        (line(body=turns("user", "assistant")), "the last message is the assistant's"),
        (line(body={"messages": []}), "in `body`: messages: "),
        (line(body={"messages": None}), "in `body`: messages: "),
        (line(body={"messages": [{"role": "user", "content": " "}]}), "the last message is empty"),
        (line(body={"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "only parts of type text"),
        (line(body={"messages": [{"role": "system", "content": "\ud800"}, *turns("user")["messages"]]}), "surrogate"),
        (line(custom_id="a\0b"), "NUL"),
    ],
)
def test_what_cannot_be_done_as_asked_is_a_row_error(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")

    read = read_questions(tmp_path / "in.jsonl")

    assert not read.rows
    assert said in read.errors[0].reason


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"wishes": Wishes(max_tokens=513)}, "max_tokens: 513, at most 512"),
        ({"wishes": Wishes(temperature=0.0)}, "the 2 samples that the pipeline draws would be equal"),
        ({"turns": (Message("user", "x"),)}, "old continues text and knows no turns"),
        ({"wishes": Wishes(max_tokens=512, temperature=0.1)}, None),
    ],
)
def test_what_no_expert_could_honour_is_known_before_anybody_is_asked(
    load: Load, question: dict[str, Any], said: str | None
) -> None:
    settings = load(
        f"models:\n  small: {{sources: [a.gguf], sha256: {'a' * 64}, context: 512}}\n"
        f"  plain: {{sources: [b.gguf], sha256: {'b' * 64}, context: 400, completion: true}}\n"
        "experts:\n  general: {model: small}\n  old: {model: plain}\n"
        "pipeline:\n  - use: decide\n  - {use: generate, options: {samples: 2}}\n  - use: aggregate\n"
    )

    found = refusal(settings)(Question("a", "?", (), None, 1, **question))

    assert (found is None) == (said is None)
    assert said is None or said in (found or "")
