"""Whether the name in a provider's reply is that of the model that was asked. Pure."""

from __future__ import annotations

import re

_WORDS = re.compile(r"[a-z0-9.]+")
_RELEASE = re.compile(r"latest|\d{3,8}|\d{4}-\d\d-\d\d|v\d+|preview|exp|stable")  # of the same model, sooner or later
_TUNED = frozenset({"instruct", "chat", "it", "hf", "fp8", "bf16", "turbo", "versatile", "instant", "maas"})
_OWN_NAMES = (
    "azure",
    "azure_ai",
    "sagemaker",
    "vertex_ai",
    "litellm_proxy",
)  # what is asked there, its owner has named


def is_another(told: str, asked: str) -> bool:
    """Whether `told` is clearly not the model `asked` (`provider/name`): a word of its name is another, not only its
    provider, its day or release, or what it was tuned for. Names that owners give to deployments say nothing.

    >>> is_another("gpt-4o-2024-08-06", "openai/gpt-4o"), is_another("gpt-4o-mini", "openai/gpt-4o")
    (False, True)
    >>> is_another("claude-3-5-sonnet-20241022", "anthropic/claude-3-5-sonnet-latest")
    False
    >>> is_another("meta-llama/Llama-3.1-8B-Instruct", "groq/llama-3.1-8b-instant"), is_another("gpt-4o", "azure/mine")
    (False, False)
    >>> is_another("models/gemini-2.0-flash-001", "gemini/gemini-2.0-flash"), is_another("qwen3-8b", "openai/qwen3-4b")
    (False, True)
    """
    if asked.partition("/")[0] in _OWN_NAMES:
        return False
    one, other = _words(told), _words(asked)
    return bool((one ^ other) - _TUNED)


def _words(name: str) -> frozenset[str]:
    """The words of a name's last part that tell models apart; of Bedrock's, without region and vendor."""
    last = name.lower().rpartition("/")[2].partition(":")[0].partition("@")[0]
    last = re.sub(r"^([a-z]{2,4}\.)?(anthropic|meta|amazon|mistral|cohere|ai21|deepseek)\.", "", last)
    return frozenset(
        word for word in _WORDS.findall(re.sub(r"\d{4}-\d\d-\d\d", "", last)) if not _RELEASE.fullmatch(word)
    )
