"""What a request means to vLLM, read by vLLM's own classes for its server; and how its tokens are told.

Loaded by `vllm_loop.py` in the interpreter that has vLLM.
"""

from __future__ import annotations

import math
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.utils.mistral import is_mistral_tokenizer

_LEAST = -9999.0  # what the server writes for a log-probability of minus infinity, which JSON has no word for


def render(
    engine: Any, template: str | None, thoughts: type[Any] | None, chat: bool, body: dict[str, Any]
) -> tuple[Any, Any, Any]:
    """A request as vLLM's server reads it, who parts its thoughts, and its prompt. Raises for what cannot be read."""
    model = engine.model_config
    request: Any = (ChatCompletionRequest if chat else CompletionRequest).model_validate(body)
    parser = None
    if chat:
        tokens = is_mistral_tokenizer(engine.get_tokenizer()) or model.enable_prompt_embeds
        params = request.build_chat_params(template, "auto").with_defaults({"tools": None, "tokenize": tokens})
        if thoughts is not None:
            kwargs = params.chat_template_kwargs
            parser = thoughts(engine.get_tokenizer(), None, chat_template_kwargs=kwargs, model_config=model)
            request = parser.adjust_request(request)
        words = request.build_tok_params(model)
        _, (prompt,) = engine.renderer.render_chat([request.messages], params, words)
    else:
        words = request.build_tok_params(model)
        (prompt,) = engine.renderer.render_cmpl([parse_model_prompt(model, request.prompt)], words)
    return request, parser, prompt


def most_tokens(engine: Any, body: dict[str, Any], prompt: int) -> int:
    """How many tokens may be written after `prompt` tokens."""
    model = engine.model_config
    return int(get_max_tokens(model.max_model_len, body.get("max_tokens"), prompt, model.get_diff_sampling_param()))


def lora(name: str, number: int, path: str) -> Any:
    """An adapter as vLLM knows it."""
    return LoRARequest(name, number, path)


def placed(sampling: Any, place: int) -> Any:
    """The sampling of a stream: every token is told, as it comes; text is made of the first stream alone."""
    own = sampling.clone()
    own.output_kind, own.logprobs = type(own.output_kind).DELTA, None
    if place:
        own.detokenize, own.stop = False, []
    return own


def weighed(engine: Any, token: int, mixed: Any, most: int) -> dict[str, Any]:
    """A token, and the likeliest in its place, of the combined scores [tokens] before anything is drawn."""
    logprobs, tokenizer = mixed.log_softmax(-1), engine.get_tokenizer()
    values, places = logprobs.topk(most)
    ranked = {int(place): float(value) for value, place in zip(values, places, strict=True) if value > -math.inf}
    ranked.setdefault(token, float(logprobs[token]))
    tops = {
        place: Logprob(value, int((logprobs > value).sum()) + 1, tokenizer.decode([place]))
        for place, value in ranked.items()
    }
    return step_of(token, tops, most)


def step_of(token: int, tops: dict[int, Any], most: int) -> dict[str, Any]:
    """A token, its log-probability, and the `most` likeliest in its place."""
    best = [(number, one) for number, one in tops.items() if one.rank is None or one.rank <= most][:most]
    return {
        "token": tops[token].decoded_token or "",
        "logprob": max(tops[token].logprob, _LEAST),
        "id": token,
        "top_logprobs": [
            {"token": one.decoded_token or "", "logprob": max(one.logprob, _LEAST), "id": number}
            for number, one in best
        ],
    }
