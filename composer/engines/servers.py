"""How servers of OpenAI's API differ: what they call the model, where they say what it holds, who counts, who cuts.

Facts, each from the server's source, its documentation or its issues; a server is known by `owned_by` in its list of models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from composer.types import Stop

LLAMACPP_SEEDS = 2**32 - 1  # the last 32-bit number means "a random seed" to llama.cpp
Extra = Literal["top_k", "min_p", "repetition_penalty", "template"]
_ALL: frozenset[Extra] = frozenset(get_args(Extra))
Name = Literal["vllm", "llamacpp", "ollama", "sglang", "lmstudio", "tgi", "other"]


@dataclass(frozen=True, slots=True)
class Server:
    """One kind of server.

    `owner`: what `owned_by` says (TGI: the model's own name). `context`: where it tells how many tokens a request may
    hold, as a path and the keys there (`*`: the entry of our model). `counts`: the form of its tokenizer's requests, None
    where it has none. `cuts`: a prompt that is too long may be shortened in silence. `penalty`: its name of the
    repetition penalty. `latest`: a name without a tag means `:latest`. `own_name`: replies say its own name of the model,
    whatever was asked. `limit`: where its owner sets the context. `omits`: fields it refuses to be told that they change
    nothing. `seeds`: how many there are. `takes`: what it is known to heed of the sampling beyond OpenAI's own fields; others
    ignore or refuse the rest. `all_k`: its `top_k` for all tokens.
    """

    name: Name
    owner: str = ""
    context: tuple[str, tuple[str, ...]] | None = None
    counts: Literal["vllm", "llamacpp", "tgi"] | None = None
    cuts: bool = False
    penalty: str = "repetition_penalty"
    latest: bool = False
    own_name: bool = False
    limit: str = "the context the model was started with"
    omits: tuple[tuple[str, object], ...] = ()
    seeds: int | None = None
    takes: frozenset[Extra] = frozenset()
    all_k: int = 0


SERVERS: Mapping[Name, Server] = {
    server.name: server
    for server in (
        Server(
            "vllm",
            "vllm",
            context=("/v1/models", ("data", "*", "max_model_len")),
            counts="vllm",
            limit="--max-model-len",
            takes=_ALL,
        ),
        Server(
            "llamacpp",
            "llamacpp",
            context=("/props", ("default_generation_settings", "n_ctx")),
            counts="llamacpp",
            penalty="repeat_penalty",
            own_name=True,
            seeds=LLAMACPP_SEEDS,
            limit="--ctx-size, which is shared by its slots (--parallel)",
            takes=_ALL,
        ),
        # No tokenizer, and of models with the older runner the middle of a long prompt is dropped; `num_ctx` of a request
        # is ignored under /v1.
        Server(
            "ollama",
            "library",
            context=("/api/ps", ("models", "*", "context_length")),
            cuts=True,
            penalty="",
            latest=True,
            limit="OLLAMA_CONTEXT_LENGTH, or num_ctx in the Modelfile",
        ),
        # Its /tokenize knows no messages; it refuses what is too long.
        Server(
            "sglang",
            "sglang",
            context=("/v1/models", ("data", "*", "max_model_len")),
            limit="--context-length",
            takes=_ALL,
            all_k=-1,
        ),
        # No tokenizer over HTTP; what happens to a long prompt is a setting of its window; errors come with status 200.
        Server(
            "lmstudio",
            "organization_owner",
            context=("/api/v0/models", ("data", "*", "loaded_context_length")),
            cuts=True,
            penalty="repeat_penalty",
            limit="the context length set where the model is loaded",
            takes=frozenset({"top_k", "repetition_penalty"}),
        ),
        Server(
            "tgi",
            context=("/info", ("max_total_tokens",)),
            counts="tgi",
            penalty="",
            own_name=True,
            limit="--max-total-tokens",
            omits=(("top_p", 1.0),),
        ),
        Server("other", penalty=""),
    )
}

STOPS: Mapping[str, Stop] = {"stop": "stop", "length": "length", "eos_token": "stop", "stop_sequence": "stop"}
"""Reasons for an end that count; the last two are TGI's. Any other is no answer to a question: a tool, a filter, an abort."""

_TOO_LONG = re.compile(
    r"exceed_context_size|context_length_exceeded|maximum context length|model's context length|context length of only"
    r"|exceeds? the (available )?context|greater than the context length|max context length|`inputs` must have less than"
    r"|`inputs` tokens \+ `max_new_tokens`",
    re.IGNORECASE,
)
_DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4})")


def says_too_long(text: str) -> bool:
    """Whether an error means that the prompt does not fit, in the words of any of these servers.

    >>> says_too_long("This model's maximum context length is 512 tokens. However, you requested 600 tokens")
    True
    """
    return _TOO_LONG.search(text) is not None


def known_by(entries: Sequence[Mapping[str, Any]], wanted: Name | None) -> Server:
    """The kind of server that gives such a list of models."""
    if wanted is not None:
        return SERVERS[wanted]
    for entry in entries:
        owner = entry.get("owned_by")
        if owner and owner == entry.get("id"):
            return SERVERS["tgi"]
        for server in SERVERS.values():
            if server.owner and server.owner == owner:
                return server
    return SERVERS["other"]


def names_of(entry: Mapping[str, Any], server: Server) -> frozenset[str]:
    """What a listed model may be asked by."""
    names = {str(entry.get("id", ""))}
    aliases = entry.get("aliases")
    names.update(str(alias) for alias in aliases) if isinstance(aliases, list) else None
    if server.latest:
        names.update([name.removesuffix(":latest") for name in names])
    if server.name == "llamacpp":  # without an alias it says its file, with all folders
        files = {re.split(r"[\\/]", name)[-1] for name in names}
        names |= files | {file.removesuffix(".gguf") for file in files}
    return frozenset(names - {""})


def is_dated(told: str, asked: str) -> bool:
    """Whether `told` is `asked` as it was on a day, the way OpenAI names what it serves.

    >>> is_dated("gpt-4o-2024-08-06", "gpt-4o"), is_dated("gpt-4o-mini", "gpt-4o")
    (True, False)
    """
    return told.startswith(asked) and _DATED.fullmatch(told[len(asked) :]) is not None


def dug(told: Any, keys: Sequence[str], names: frozenset[str]) -> Any:
    """The value at `keys`; `*` stands for the entry of the model with one of these names. None where there is none."""
    for key in keys:
        if key == "*":
            rows = told if isinstance(told, list) else []
            told = next((row for row in rows if isinstance(row, dict) and names & {*_said(row)}), None)
        else:
            told = told.get(key) if isinstance(told, dict) else None
    return told


def _said(row: Mapping[str, Any]) -> list[str]:
    return [str(row.get(key)) for key in ("id", "name", "model")]
