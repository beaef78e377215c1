"""A line of an OpenAI batch file as a row of ours. What we cannot do as asked is refused, never left out silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

URL = "/v1/chat/completions"
# Fields of `body` that change nothing about the text, and those with the one value that says what we do anyway.
_IDLE = frozenset(
    {"model", "messages", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
_USUAL: Mapping[str, Any] = {"n": 1, "stream": False, "logprobs": False}


def is_batch_line(row: Mapping[str, Any]) -> bool:
    """Whether this row is of an OpenAI batch, whatever else is wrong with it."""
    return "custom_id" in row and "body" in row


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """`id` and `question` of a batch line. `model` may be anything: the registry says who is asked.

    Raises ValueError with what cannot be done: another URL, several turns, a system message, sampling of its own.

    >>> body = {"model": "auto", "messages": [{"role": "user", "content": "2 + 2?"}]}
    >>> plain_row({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body})
    {'id': 'a', 'question': '2 + 2?'}
    """
    method, url, body = row.get("method", "POST"), row.get("url", URL), row["body"]
    if method != "POST" or url != URL:
        raise ValueError(f"`method` and `url` must be POST {URL}")
    if not isinstance(row["custom_id"], str):
        raise ValueError("`custom_id` must be text")
    if not isinstance(body, dict):
        raise ValueError("`body` must be an object")
    for name, value in cast(dict[str, Any], body).items():
        if name not in _IDLE and value is not None and not (name in _USUAL and value == _USUAL[name]):
            raise ValueError(f"`body.{name}` is not supported: how answers are drawn is said in experts.yaml")
    return {"id": row["custom_id"], "question": _question(body.get("messages"))}


def _question(messages: object) -> str:
    if not isinstance(messages, list) or not messages or not all(isinstance(turn, dict) for turn in messages):
        raise ValueError("`body.messages` must be a list of messages")
    turns = cast(list[dict[str, Any]], messages)
    roles = [turn.get("role") for turn in turns]
    if roles[0] in ("system", "developer"):
        raise ValueError("a system message is not supported: experts have their own (`system:` in experts.yaml)")
    if roles != ["user"]:
        raise ValueError("`body.messages` must be one user message: experts are asked single questions")
    content = turns[0].get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise ValueError("only text can be asked: `body.messages` holds something else")
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError("`body.messages` holds no question")
    return content
