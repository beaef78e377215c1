"""The values everything hangs on: what is asked (`Request`), what comes back (`Draft`), who can serve it (`Caps`)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from composer.errors import RequestError

Scalar = str | int | float | bool | None
Speaker = Literal["system", "user", "assistant"]
Role = Literal[
    "draft",
    "judge",
    "merge",
    "annotate",
    "knowledge",
    "probe",
    "plan",
    "step",
    "discuss",
    "tool",
    "score",
    "check",
    "refine",
    "search",
]
Writes = Literal["answers", "knowledge", "plans"]
Stop = Literal["stop", "bound", "length", "error", "cancelled"]
WHOLE: frozenset[Stop] = frozenset({"stop", "bound"})
"""How a draft ends that is whole: by itself, or at the most tokens of a request that means it to end there."""
Level = Literal["text", "logprobs", "logits", "hooks"]
Kind = Literal["number", "choice", "list", "set", "json", "math", "code", "text"]
"""How an answer is read out of a draft and compared with others."""

DEFAULT_ENGINE = "llamacpp"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Speaker
    content: str


Prompt = str | tuple[Message, ...]
"""Text is continued as it stands; messages go through the chat template of whoever serves the model."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One source of next-token logits: an expert's weights, an adapter on them (None: the bare base), and a prompt.

    `weight` is its factor where several streams are combined (METHODS C.2); a plain request has one stream of weight 1.
    `base` names the host among those that are opened together (`Host.beside`); None: the first of them. `routing` "weak":
    in each layer of a mixture-of-experts model the one expert answers that it would not choose (METHODS C.1), which
    engines whose level is `hooks` can.
    """

    expert: str
    prompt: Prompt
    adapter: str | None = None
    weight: float = 1.0
    base: str | None = None
    routing: Literal["weak"] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy. `schema` is a JSON schema as text, `template` the options handed
    to the chat template; `logprobs` asks for that many alternatives per generated token (0: the token alone, None:
    nothing). `top_k` 0, `min_p` 0 and `repetition_penalty` 1 change nothing; all are sent always, because a server
    fills what is left out from the model's own settings.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: str | None = None
    logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    template: tuple[tuple[str, Scalar], ...] = ()


@dataclass(frozen=True, slots=True)
class Mix:
    """How several streams become one distribution (METHODS C.2): their scores, each times the weight of its stream, are
    summed in `space` over the tokens that stream `mask_from` finds plausible: at least `alpha` times as probable as its
    best one, and among the fewest that hold `top_p` of its probability.

    Spaces: `logprob`, the log-softmax of each stream (a normalised geometric mean where weights sum to 1); `logit`, scores
    as they are; `prob`, probabilities (a mixture). Raises RequestError for numbers that mean nothing.
    """

    space: Literal["logprob", "logit", "prob"] = "logprob"
    alpha: float = 0.1
    mask_from: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise RequestError(f"alpha lies in [0, 1], not {self.alpha}", where="a mix of streams")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p lies in (0, 1], not {self.top_p}", where="a mix of streams")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is put before a question: its `text` ("" where nothing was found, or nothing fits), the ids of the passages in
    it, best first, and of those that were left out because they did not fit. `missing`: why nothing could be looked up; `without`: who could tell nothing, where
    others could."""

    text: str = ""
    used: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: str | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to be generated. Several streams are atomic by construction: they are decoded in lockstep or not at all.

    `id` and `parent` say where it comes from and are no part of the draft's key; neither are `deadline` (seconds on the
    monotonic clock), `priority` (higher goes first), `deltas` (somebody reads along: pieces are wanted, where the
    engine has them) and `bounded` (what is wanted of the text is read wherever its most tokens end it, see `ended`). Ids are unique within a submission: engines do not check it.

    With a `target` nothing is written: the draft's text is the target, its `logprobs` those of the target's tokens after
    the prompt, of the whole distribution. Of the sampling only `template` counts. Engines whose caps say `scores` can.
    """

    id: str
    streams: tuple[Stream, ...]
    sampling: Sampling = Sampling()
    sample: int = 0
    mix: Mix | None = None
    target: str | None = None
    role: Role = "draft"
    arm: str = ""
    parent: str | None = None
    deadline: float | None = None
    priority: int = 0
    deltas: bool = False
    bounded: bool = False

    def __post_init__(self) -> None:
        if not self.streams:
            raise RequestError("a request needs at least one stream", where=f"request {self.id!r}")
        if (len(self.streams) > 1) != (self.mix is not None):
            raise RequestError(
                f"{len(self.streams)} stream(s) with mix={self.mix!r}: several streams need a mix, one takes none",
                where=f"request {self.id!r}",
            )
        if self.mix is not None and not 0 <= self.mix.mask_from < len(self.streams):
            raise RequestError(
                f"mask_from is the place of one of {len(self.streams)} streams, not {self.mix.mask_from}",
                where=f"request {self.id!r}",
            )
        if self.sample > 0 and self.sampling.temperature == 0:
            raise RequestError(
                f"sample {self.sample} at temperature 0 would repeat sample 0",
                where=f"request {self.id!r}",
                remedy="ask for one sample, or set a temperature above 0",
            )
        if self.target == "":
            raise RequestError("a target without a character has no score", where=f"request {self.id!r}")
        if self.target is not None and self.sampling != Sampling(template=self.sampling.template):
            raise RequestError(
                "nothing is sampled where a target is scored",
                where=f"request {self.id!r}",
                remedy="leave the sampling as it is by default, but for `template`",
            )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token, its natural-log probability, the most probable alternatives, and its id where it is told."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost. `passes` counts forward passes over the weights' streams; `cost` is None where no price is known."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached_in: int = 0
    passes: int = 0
    seconds: float = 0.0
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer. `kind` is one of a small set (`timeout`, `bad_response`, `host_died`, `refused`, …)."""

    kind: str
    message: str
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Draft:
    """One expert's reply. `stop` is `stop` only where the server said so, `bound` where `ended` does; a failure is a draft
    with an `error`.

    `stop_detail` is what the server tells beside it: the stop text that was met, a context that was full.
    """

    key: str
    text: str
    stop: Stop
    usage: Usage = Usage()
    served_by: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    error: Failure | None = None
    cached: bool = False
    stop_detail: str = ""

    @property
    def ok(self) -> bool:
        """Complete (see `WHOLE`), no failure. Only such drafts are stored for reuse and served from the store."""
        return self.error is None and self.stop in WHOLE


def ended(draft: Draft, request: Request) -> Draft:
    """The draft as `request` takes it: at the most tokens of a `bounded` one it ends as it was meant to, for any other it is
    cut off there. One that ended sooner, in a context that was full, is cut off for both."""
    if request.bounded and draft.stop == "length" and not draft.stop_detail:
        return replace(draft, stop="bound")
    if not request.bounded and draft.stop == "bound":
        return replace(draft, stop="length")
    return draft


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of text of a draft that is still being written. `at` characters of the draft stand before it: a draft that
    is begun again, because its host died, begins at 0 again (None: the engine does not say, and nobody can pass it on)."""

    text: str
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """All that determines an expert's text besides the request. `weights` None: remote, so it proves no identity."""

    weights: str | None
    adapter: str | None
    tokenizer: str | None
    template: str | None
    engine: str
    context: int


@dataclass(frozen=True, slots=True)
class Caps:
    """What an engine can do. `level` is the most it gives: text, logprobs, logits or hooks (each includes those before).

    `mixed_adapters`: different adapters share one batch. `adapters`: named when the host opens (`fixed`) or attached to
    a running one (`live`), `adapter_slots` of them at a time (None: no bound). `slots`: how many requests run at once.
    `max_logprobs`: the most alternatives per token. `scores`: it tells how probable a given text is (`Request.target`).
    `memory`: bytes it may use, None where unknown. `contrast`: it decodes several streams of its base and adapters
    together; `beside`: also of several bases.
    """

    level: Level = "text"
    contrast: bool = False
    beside: bool = False
    mixed_adapters: bool = False
    adapters: Literal["fixed", "live"] = "fixed"
    adapter_slots: int | None = None
    slots: int = 1
    max_logprobs: int = 0
    scores: bool = False
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter ready to be loaded: the name it is asked by, its file, and the file's sha256."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Host:
    """What an engine process is opened with: a base, the adapters this plan needs, and its limits.

    `context` is tokens per request, `template` the text of a chat template (None: the one inside the weights),
    `chat` False for models that only continue text. `memory` is the estimate in bytes that the residency counts with.
    `beside` are other bases that the same engine opens with it, because requests combine streams of both: adapters, slots
    and threads are theirs each, and `memory` counts them all.
    """

    name: str
    engine: str
    path: Path | None = None
    adapters: tuple[AdapterFile, ...] = ()
    context: int = 2048
    slots: int = 8
    threads: int = 1
    template: str | None = None
    chat: bool = True
    memory: int = 0
    beside: tuple[Host, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What opening a host showed: seconds until its first completion could be asked, resident bytes (0: not ours), and
    the tokens that one request may hold (0: it does not say)."""

    seconds: float
    memory: int
    context: int = 0


@dataclass(frozen=True, slots=True)
class Reuse:
    """Tokens of prompts that a host looked up in its prefix cache, and those of them that it found there. An engine
    that knows has it as `reuse`, of its last host from `open` to `close`."""

    looked_up: int = 0
    found: int = 0


def draft_key(request: Request, fingerprints: dict[str, Fingerprint]) -> str:
    """The sha256 (hex) of all that determines a draft, as JSON with sorted keys: streams with their fingerprints,
    sampling, mix, sample index, and the target where there is one.

    `fingerprints` maps each stream's expert name to its fingerprint. Who asked, for which arm, by when and how urgently
    is left out, so equal work is done once.
    """
    streams = ",".join(
        f'{{"adapter":{"false" if stream.adapter is None else "true"},"model":{_shared(fingerprints[stream.expert])},'
        f'"prompt":{_prompt(stream.prompt)},{_routed(stream)}"weight":{stream.weight!r}}}'
        for stream in request.streams
    )
    mix = _shared(request.mix) if request.mix else "null"
    rest = f'"sample":{request.sample!r},"sampling":{_shared(request.sampling)}'
    target = "" if request.target is None else f',"target":{_JSON.encode(request.target)}'
    return hashlib.sha256(f'{{"mix":{mix},{rest},"streams":[{streams}]{target}}}'.encode()).hexdigest()


# Every request passes here, 100,000 of a file one after the other: what they share is turned into JSON once. It is known
# by identity, not by equality: 1 and 1.0 are equal, and are not written alike.
_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"))
_written: dict[int, tuple[object, str]] = {}


def _shared(value: Fingerprint | Mix | Sampling) -> str:
    known = _written.get(id(value))
    if known is not None and known[0] is value:
        return known[1]
    if len(_written) >= 1000:
        _written.clear()
    text = _JSON.encode({name: getattr(value, name) for name in value.__slots__})
    _written[id(value)] = value, text
    return text


def _routed(stream: Stream) -> str:
    """What a stream's routing adds; nothing to all that the model routes itself, whose keys stay as they were."""
    return f'"routing":"{stream.routing}",' if stream.routing else ""


def _prompt(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return _JSON.encode(prompt)
    turns = (f'{{"content":{_JSON.encode(turn.content)},"role":{_JSON.encode(turn.role)}}}' for turn in prompt)
    return f"[{','.join(turns)}]"
