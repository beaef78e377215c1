"""Whether an adapter is at work on a vLLM or transformers: what it says of one that it refuses, and the proof that one changes something."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from composer.errors import ConfigError, EngineError
from composer.registry.differ import SAME, difference
from composer.registry.hf import strangers
from composer.types import AdapterFile

PROBE = "Question: What is 7 + 5?\nAnswer:"
TOP = 20


class Answers(Protocol):
    """Whoever can be asked by the name of the base or of an adapter."""

    async def alternatives(self, model: str) -> dict[str, float]:
        """The `TOP` likeliest first tokens after `PROBE`, with their log-probabilities. Raises EngineError."""
        ...


def refused(
    adapter: AdapterFile, told: str, where: str, *, remedy: str | None = None, program: str = "vLLM"
) -> EngineError:
    """What to say of an adapter that the program does not take, with its own words."""
    if remedy is None and "max_lora_rank" in told:
        remedy = "set option `max_lora_rank` of the model to the adapter's rank or more"
    remedy = remedy or f"name the model it was trained on; {program} has to see the folder under this path"
    return EngineError(
        f"{program} refuses the adapter {adapter.name!r} ({adapter.path}): {told}", where=where, remedy=remedy
    )


async def prove(vllm: Answers, adapter: AdapterFile, alias: str, base: str, where: str, folder: Path | None) -> None:
    """Raise EngineError unless the adapter, called `alias`, changes what comes next after the base (in `folder`, if here).

    vLLM loads an adapter whose modules it does not find without a word, and answers with the base in its name. The
    base is asked before and after: what it differs from itself is no change.
    """
    parted, noise = await _parting(vllm, alias, base)
    if parted is None or noise is None:
        raise EngineError(
            f"the adapter {adapter.name!r} cannot be proved to change the model: no log-probabilities came", where=where
        )
    if parted < max(SAME, 2 * noise):
        try:
            why = strangers(adapter.path, folder)
        except ConfigError as unread:
            why = unread.what
        raise EngineError(
            f"the adapter {adapter.name!r} changes nothing (largest difference {parted:.1e} nats): the base would "
            f"answer in its name; {why}",
            where=where,
            remedy="name the model it was trained on, or save it with the model's own module names",
        )


async def same(vllm: Answers, alias: str, base: str, where: str) -> None:
    """Raise EngineError unless `alias` is the base by another name."""
    parted, noise = await _parting(vllm, alias, base)
    if (parted or 0.0) >= max(SAME, 2 * (noise or 0.0)):
        raise EngineError(
            f"an adapter of zeros changes the base by {parted:.1e} nats, expected nothing",
            where=where,
            remedy="report it with the version of vLLM; option `null_adapter: false` does without",
        )


async def _parting(vllm: Answers, alias: str, base: str) -> tuple[float | None, float | None]:
    """How far `alias` is from the base, and how far the base from itself."""
    before, ours, after = [await vllm.alternatives(model) for model in (base, alias, base)]
    return difference(ours, before), difference(before, after)
