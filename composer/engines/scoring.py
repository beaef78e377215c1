"""How probable a given text is to a model: the log-probability of each of its tokens after the prompt, told by a server.

The tokens are those of the text alone, behind those of the prompt with its chat template: the canonical ones, as a
training on prompt and reply has them, and the same for every engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer.engines.http import ChatClient, path_of, turns_of
from composer.engines.retry import Unusable
from composer.types import Draft, Request, TokenLogprob, Usage

_FORCE = 1e4  # more than any two logits are apart
_ALTERNATIVES = (1000, 100_000)  # looked through for a token, the many only where the few do not have it: 10 MB


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")  # servers add fields of their own


P = TypeVar("P", bound=_Part)


class _Step(_Part):
    token: str
    logprob: float
    id: int


class _Choices(_Step):
    top_logprobs: list[_Step]


class _Content(_Part):
    content: list[_Step]


class _Used(_Part):
    prompt_tokens: int = Field(ge=0)


class _Choice(_Part):
    logprobs: _Content


class _Forced(_Part):
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Used


class _Piece(_Part):
    id: int
    piece: str | list[int]  # bytes where it is no whole character


class _Pieces(_Part):
    tokens: list[_Piece] = Field(min_length=1)


class _Stepped(_Part):
    completion_probabilities: list[_Choices] = Field(min_length=1, max_length=1)


class _Told(_Part):
    logprob: float
    decoded_token: str | None = None


class _Prompted(_Part):
    prompt_logprobs: list[dict[str, _Told] | None]


class _Read(_Part):
    choices: list[_Prompted] = Field(min_length=1, max_length=1)


async def forced(client: ChatClient, request: Request, extra: Mapping[str, object]) -> Draft:
    """By llama.cpp, which tells nothing of a prompt: it is made to write the text. What it tells of a token that it wrote
    is of the whole distribution, before grammar, bias and samplers. `extra` are its own fields.

    A grammar of tokens does that in one request. (One of the text itself would take other tokens: each time the likeliest
    that the text begins with.) No grammar lets a token pass that is a part of a character: a text with such tokens costs
    a request for each of its tokens, and gets the same numbers.
    """

    async def attempt(ends: float) -> Draft:
        asked = {"content": request.target, "add_special": False, "parse_special": False, "with_pieces": True}
        told = _parsed(_Pieces, await client.ask("/tokenize", asked, ends)).tokens
        ids = [piece.id for piece in told]
        if all(isinstance(piece.piece, str) for piece in told):
            said = await client.ask(path_of(request), {**extra, **_whole(request, ids)}, ends)
            found = _parsed(_Forced, said)
            steps, before = found.choices[0].logprobs.content, found.usage.prompt_tokens
        else:
            steps, before = await _stepwise(client, request, told, extra, ends)
        if len(steps) < len(ids):
            raise Unusable("too_long", f"the context is full after {len(steps)} of {len(ids)} tokens")
        return _draft(request, ids, [TokenLogprob(step.token, step.logprob, id=step.id) for step in steps], before)

    return await client.persist(request, attempt)


def _whole(request: Request, ids: Sequence[int]) -> dict[str, object]:
    """What is asked of llama.cpp beside its own fields, so that it writes these tokens."""
    prompt = request.streams[0].prompt
    more: dict[str, object]
    if isinstance(prompt, str):
        more = {"prompt": prompt, "logprobs": 1}
    else:
        more = {"messages": turns_of(prompt), "logprobs": True, "top_logprobs": 1, **_template(request)}
    grammar = "root ::= " + " ".join(f"<[{id}]>" for id in ids)
    return {"grammar": grammar, "max_tokens": len(ids), "temperature": 0.0, **more}


async def _stepwise(
    client: ChatClient, request: Request, pieces: Sequence[_Piece], extra: Mapping[str, object], ends: float
) -> tuple[list[_Step], int]:
    """Every token after those before it, and how many tokens the prompt has. A token is written by its bias; of one that
    is a part of a character the server says nothing when it is written, but it is told among the alternatives to one
    that is written in its place."""
    prompt: Any = request.streams[0].prompt
    if not isinstance(prompt, str):
        told = await client.ask("/apply-template", {"messages": turns_of(prompt), **_template(request)}, ends)
        prompt = told.get("prompt") if isinstance(told, dict) else None
    first = _ids(await client.ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True}, ends))
    [other, *_] = _ids(await client.ask("/tokenize", {"content": "a"}, ends))
    before, steps = list(first), []
    for piece in pieces:
        whole = isinstance(piece.piece, str)
        for most in (1,) if whole else _ALTERNATIVES:
            bias = [[piece.id if whole else other, _FORCE]]
            asked = {"prompt": before, "logit_bias": bias, "n_predict": 1, "n_probs": most, "temperature": 0.0}
            said = _parsed(_Stepped, await client.ask("/completion", {**extra, **asked}, ends))
            [wrote] = said.completion_probabilities
            found = [step for step in (wrote, *wrote.top_logprobs) if step.id == piece.id]
            if found:
                break
        else:
            raise _bad(f"token {piece.id}, a part of a character, is not among the {most} likeliest")
        steps.append(found[0])
        before.append(piece.id)
    return steps, len(first)


async def read(client: ChatClient, request: Request, fields: Mapping[str, object]) -> Draft:
    """By vLLM, which tells them of a prompt. `fields` are its own, as `fields_of` says."""
    model, options = fields["model"], fields.get("chat_template_kwargs")

    async def attempt(ends: float) -> Draft:
        prompt = request.streams[0].prompt
        asked: dict[str, object] = {"model": model}
        if isinstance(prompt, str):
            before = {**asked, "prompt": prompt}
        else:
            more: dict[str, object] = {} if options is None else {"chat_template_kwargs": options}
            before = {**asked, "messages": turns_of(prompt), "add_generation_prompt": True, **more}
        first = _ids(await client.ask("/tokenize", before, ends))
        ids = _ids(
            await client.ask("/tokenize", {**asked, "prompt": request.target, "add_special_tokens": False}, ends)
        )
        body: dict[str, object] = {**asked, "prompt": [*first, *ids], "max_tokens": 1, "temperature": 0.0}
        told = _parsed(_Read, await client.ask("/v1/completions", {**body, "prompt_logprobs": 0}, ends))
        steps = told.choices[0].prompt_logprobs[len(first) :]
        tokens = []
        for id, step in zip(ids, steps, strict=False):
            if step is None or str(id) not in step:
                raise _bad(f"it leaves token {id} out")
            tokens.append(TokenLogprob(step[str(id)].decoded_token or "", step[str(id)].logprob, id=id))
        return _draft(request, ids, tokens, len(first))

    return await client.persist(request, attempt)


def _draft(request: Request, ids: Sequence[int], tokens: Sequence[TokenLogprob], before: int) -> Draft:
    """The whole text, each token told once and as a number."""
    if [token.id for token in tokens] != list(ids):
        raise _bad(f"{len(tokens)} tokens are told, and not the {len(ids)} that were asked for")
    if not all(math.isfinite(token.logprob) and token.logprob <= 1e-3 for token in tokens):
        raise _bad("a token has no log-probability")
    assert request.target is not None
    usage = Usage(tokens_in=before, tokens_out=len(ids), passes=len(ids))
    return Draft("", request.target, "stop", usage, logprobs=tuple(tokens))


def _parsed(form: type[P], told: Any) -> P:
    try:
        return form.model_validate(told)
    except ValidationError as why:
        first = why.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise _bad(f"it is not of the form that was asked for: {where}: {first['msg']}") from why


def _ids(told: Any) -> list[int]:
    tokens = told.get("tokens") if isinstance(told, dict) else None
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int for token in tokens):
        raise _bad("the server's /tokenize tells no tokens")
    return tokens


def _template(request: Request) -> dict[str, object]:
    options = dict(request.sampling.template)
    return {"chat_template_kwargs": options} if options else {}


def _bad(problem: str) -> Unusable:
    return Unusable("bad_response", f"the score does not count: {problem}")
