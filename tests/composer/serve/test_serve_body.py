"""Bodies of chat requests: what is read, what is left alone, and what is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from composer.asker import Wishes
from composer.serve.body import Asked, parse
from composer.serve.limits import Limits
from composer.serve.refusal import Refused
from composer.types import Message

LIMITS = Limits(max_tokens=100)
HI: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}


def asked(**fields: Any) -> Asked:
    return parse(json.dumps(HI | fields).encode(), LIMITS)


def refused(raw: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(raw, LIMITS)
    assert caught.value.status == 400
    return caught.value


def test_the_least_request_leaves_all_to_the_expert() -> None:
    assert asked() == Asked("auto", "Hi", (), Wishes(priority=1), 1, False, False)


def test_every_supported_field_is_read() -> None:
    found = asked(
        temperature=0.5, top_p=0.9, max_completion_tokens=7, seed=3, stop=["a", "b"], n=2, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip

    wishes = Wishes(max_tokens=7, temperature=0.5, top_p=0.9, seed=3, stop=("a", "b"), priority=1)
    assert found == Asked("auto", "Hi", (), wishes, 2, True, True)
    assert asked(max_tokens=8, stop="x").wishes == Wishes(max_tokens=8, stop=("x",), priority=1)


def test_a_conversation_keeps_its_turns() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    echoed = {"role": "assistant", "content": None, "refusal": "not answered", "tool_calls": None, "audio": None}
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts, "name": "me"}, echoed]

    found = asked(messages=[*turns, {"role": "user", "content": "And?"}])

    said = (Message("system", "Be brief."), Message("user", "one\ntwo"), Message("assistant", "not answered"))
    assert (found.turns, found.question) == (said, "And?")


def test_labels_nulls_and_values_that_change_nothing_are_left_alone() -> None:
    labels = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "temperature": None}
    neutral = {"tools": [], "presence_penalty": 0.0, "logprobs": False, "response_format": {"type": "text"}}

    assert asked(**labels, **neutral) == asked()


def test_chance_without_a_seed_differs_from_time_to_time() -> None:
    seeds = {asked(temperature=1.0).wishes.seed for _ in range(5)}

    assert len(seeds) > 1 and None not in seeds
    assert asked(temperature=1.0, seed=0).wishes.seed == 0
    assert asked().wishes.seed is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"api_base": "http://169.254.169.254/"}, "api_base"),
        ({"api_key": "sk-canary"}, "api_key"),
        ({"extra_headers": {"x": "y"}}, "extra_headers"),
        ({"adapter": "/etc/passwd"}, "adapter"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"max_completion_tokens": 101}, "max_completion_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"n": 9, "temperature": 1}, "n"),
        ({"n": 2}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream_options": {"x": 1}, "stream": True}, "stream_options.x"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 257}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages[0]"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(json.dumps(HI | fields).encode())

    assert error.param == param
    assert error.body()["error"]["param"] == param and error.body()["error"]["message"]
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"metadata":' + b'{"a":' * 64 + b"1" + b"}" * 65,
        b"[" + b"[]," * 600_000 + b"[]]",
        b'{"metadata": [' + b"[]," * 20_000 + b"[]]}",
        b'{"metadata": {' + b",".join(b'"%d": 0' % i for i in range(20_001)) + b"}}",
        b'{"metadata": "' + b'\\"' * 500_000,
    ],
)
def test_what_is_no_object_or_too_deep_or_of_too_many_values_is_refused(raw: bytes) -> None:
    assert refused(raw).code == "invalid_json"


def test_what_stands_inside_a_text_is_no_value() -> None:
    code = 'f({"a": [1, 2]})\\ \n' * 20_000

    assert asked(messages=[{"role": "user", "content": code}]).question == code
