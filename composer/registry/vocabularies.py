"""Whether models that are to be contrasted share a vocabulary, as far as their files say so before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.decoding.vocabulary import shared
from composer.errors import ConfigError, RequestError
from composer.registry.gguf import is_gguf, read_tokens
from composer.settings.contrast import partners

if TYPE_CHECKING:
    from composer.registry.experts import Registry

_MOST_BYTES = 256 * 2**20  # of a tokenizer's file


def check_vocabularies(registry: Registry) -> None:
    """Refuse contrasts of bases with different vocabularies, where the files of both are here. What their files leave open
    (a model that has to be fetched, a folder without `tokenizer.json`) is compared when the host is opened, as always.
    Raises ConfigError."""
    settings = registry.settings
    known: dict[str, list[str] | None] = {}
    for arm in settings.contrasting:
        assert arm.contrast is not None
        own = settings.experts[arm.expert].model
        others = (settings.experts[name].model for name in partners(arm.contrast, arm.expert, settings.experts))
        for other in dict.fromkeys(model for model in others if model != own):
            for model in (own, other):
                if model not in known:
                    known[model] = _tokens(registry.here(model))
            if (one := known[own]) is not None and (two := known[other]) is not None:
                try:
                    shared(
                        [(own, one), (other, two)] if _whole(registry, own, other) else _certain(own, one, other, two)
                    )
                except RequestError as why:
                    at = settings.where(f"contrasts.{arm.contrast.name}")
                    raise ConfigError(f"{arm.name}: {why.what}", where=at, remedy=why.remedy) from why


def _whole(registry: Registry, *models: str) -> bool:
    """Whether what was read is all that the engine will see: a GGUF file holds the whole vocabulary."""
    return all((here := registry.here(model)) is not None and here.is_file() for model in models)


def _certain(own: str, one: Sequence[str], other: str, two: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Only the ids that both folders name: tokens may be added to either by other files of it."""
    pairs = [(a, b) if a and b else ("", "") for a, b in zip(one, two, strict=False)]
    return [(own, [a for a, _ in pairs]), (other, [b for _, b in pairs])]


def _tokens(place: Path | None) -> list[str] | None:
    """The tokens of a model by id, "" where its file names none; None where they cannot be read here."""
    if place is None:
        return None
    if place.is_file():
        try:
            return read_tokens(place) if is_gguf(place) else None
        except ConfigError:
            return None  # opening it says what is wrong with it
    path = place / "tokenizer.json"
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        told: Mapping[str, Any] = json.loads(path.read_bytes())
        words = told["model"]["vocab"]
        pairs = list(words.items()) if isinstance(words, dict) else [(one[0], i) for i, one in enumerate(words)]
        pairs += [(one["content"], one["id"]) for one in told.get("added_tokens") or ()]
        ids = {int(id): str(token) for token, id in pairs}
    except (OSError, ValueError, OverflowError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if not ids or min(ids) < 0 or max(ids) > 4 * len(ids):
        return None
    return [ids.get(id, "") for id in range(max(ids) + 1)]
