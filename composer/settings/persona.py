"""Personas as the registry file declares them: a short text after an expert's own system message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from composer.errors import ConfigError

if TYPE_CHECKING:
    from composer.settings.specs import ArmSpec, Settings

MARK = "!"
"""Between an expert and its persona in the name of an arm: `general!warm`."""

Fault = Callable[[str, str, str], ConfigError]
"""The error of a setting: what, and the remedy."""


@dataclass(frozen=True, slots=True)
class PersonaSpec:
    """How an expert may speak: `text` is added to its system message, and goes nowhere else (PRISM, persona routing by
    intent; METHODS G.2)."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Voiced:
    """As which persona an expert speaks on a row: the `arm` that has it, the question's `intent`, and `why`."""

    arm: str
    intent: str
    why: str


def personas_of(expert: str, rows: Mapping[str, str], error: Fault) -> tuple[PersonaSpec, ...]:
    """What the registry declares. Raises ConfigError for a text that says nothing."""
    for name, text in rows.items():
        if not text.strip():
            raise error(f"experts.{expert}.personas.{name}", "the persona says nothing", "write a text, or remove it")
    return tuple(PersonaSpec(name, text.strip()) for name, text in rows.items())


def told_of(arm: ArmSpec) -> dict[str, str]:
    """What a persona adds to what the arm's record belongs to."""
    return {"persona": arm.persona.text} if arm.persona else {}


def system_of(settings: Settings, arm: str) -> str | None:
    """The system message of an arm, or of an expert that writes, by its name: the expert's own, and the persona's text after it."""
    known = settings.arms.get(arm)
    system = settings.experts[arm if known is None else known.expert].system
    own = [text for text in (system, known.persona.text if known and known.persona else None) if text is not None]
    return "\n\n".join(own) if own else None
