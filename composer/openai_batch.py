"""A line of an OpenAI batch file as a row of ours. What we cannot do as asked is refused, never left out silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from composer.chat import Chat, ChatError, read_chat

URL = "/v1/chat/completions"


def is_batch_line(row: Mapping[str, Any]) -> bool:
    """Whether this row is of an OpenAI batch, whatever else is wrong with it."""
    return "custom_id" in row and "body" in row


def read_line(row: Mapping[str, Any]) -> tuple[dict[str, Any], Chat]:
    """`id` and `question` of a batch line, and all that its body asks for. `model` may be anything: the registry says who
    is asked.

    Raises ValueError with what cannot be done: another URL, several answers, a stream, what the door refuses too.

    >>> body = {"model": "gpt", "messages": [{"role": "user", "content": "2 + 2?"}], "max_tokens": 5}
    >>> row, chat = read_line({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body})
    >>> row, chat.wishes.max_tokens
    ({'id': 'a', 'question': '2 + 2?'}, 5)
    """
    method, url, body = row.get("method", "POST"), row.get("url", URL), row["body"]
    if method != "POST" or url != URL:
        raise ValueError(f"`method` and `url` must be POST {URL}")
    if not isinstance(row["custom_id"], str):
        raise ValueError("`custom_id` must be text")
    if not isinstance(body, dict):
        raise ValueError("`body` must be an object")
    try:
        chat = read_chat(cast(dict[str, Any], body) | {"model": "auto"})
    except ChatError as why:
        raise ValueError(f"in `body`: {why}") from why
    if chat.n > 1:
        raise ValueError(f"in `body`: n: {chat.n} answers; a line of a file gets one")
    if chat.stream:
        raise ValueError("in `body`: stream: the answers are a file; leave `stream` out")
    return {"id": row["custom_id"], "question": chat.question}, chat
