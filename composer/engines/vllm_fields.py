"""What of a request only vLLM knows, and what it cannot serve. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from composer.errors import ConfigError
from composer.types import Host, Request

BUDGET = "thinking_budget"
"""Among the options of a chat template: the most tokens of thought, which is no business of the template."""


def unsupported(
    request: Request, host: Host, attached: Collection[str], max_logprobs: int, *, contrast: bool
) -> str | None:
    """Why the host cannot serve the request; None if it can. `contrast`: it decodes several streams together."""
    wanted = request.sampling.logprobs or 0
    if len(request.streams) > 1 and (problem := _apart(request, contrast=contrast)):
        return problem
    for stream in request.streams:
        if stream.adapter is not None and stream.adapter not in attached:
            return f"the adapter {stream.adapter!r} is not attached, but: {', '.join(attached) or 'none'}"
        if not host.chat and not isinstance(stream.prompt, str):
            return "it only continues text, and was given messages"
    if wanted > max_logprobs:
        return (
            f"{wanted} log-probabilities per token are asked for, at most {max_logprobs} given: "
            "raise option `max_logprobs`"
        )
    return None


def _apart(request: Request, *, contrast: bool) -> str | None:
    """Why several streams cannot be kept in step."""
    if not contrast:
        return "a vLLM server cannot decode several streams in lockstep: set option `in_process: true`"
    if request.target is not None:
        return "no given text is scored with several streams"
    if request.sampling.repetition_penalty != 1:
        return "a repetition penalty counts each stream's own prompt, so they would draw different tokens: set it to 1"
    if len({isinstance(stream.prompt, str) for stream in request.streams}) > 1:
        return "some of its streams continue text and some chat: give all of them messages, or all of them text"
    return None


def fields_of(
    request: Request, names: Mapping[str, str], base: str, chat_options: Mapping[str, Any]
) -> dict[str, object]:
    """The fields beside those of every server: the name of the adapter (`names`) or of the `base`, the penalties, and
    what the chat template and the thoughts are to be."""
    stream, sampling = request.streams[0], request.sampling
    fields: dict[str, object] = {
        "model": names[stream.adapter] if stream.adapter is not None else base,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    options = {**chat_options, **dict(sampling.template)}
    budget = options.pop(BUDGET, None)
    if budget is not None:
        fields["thinking_token_budget"] = budget
    if not isinstance(stream.prompt, str) and (options or sampling.template):
        fields["chat_template_kwargs"] = options
    return fields


def json_object(text: str, option: str) -> dict[str, Any]:
    """The object that an option holds as JSON. Raises ConfigError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"option `{option}` is no JSON object: {text[:80]!r}", remedy='write {"enable_thinking": false}'
        )
    return found
