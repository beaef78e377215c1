"""What a registry file declares, as values: models, experts, arms, stages, and all of it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from composer.document import Document
from composer.errors import suggest
from composer.settings.adapter import AdapterSpec
from composer.settings.contrast import ContrastSpec
from composer.settings.evidence import EvidenceSpec
from composer.settings.persona import MARK, PersonaSpec
from composer.settings.sources import Source
from composer.settings.strategy import AT, StrategySpec
from composer.types import Kind, Sampling, Scalar, Writes


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens, read and written."""

    tokens_in: float
    tokens_out: float


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Weights and how to serve them. `sources` are tried in order; paths among them are absolute.

    `context` is tokens per request, `memory` an estimate in bytes; None is unknown, for `price` as well.
    """

    name: str
    engine: str
    sources: tuple[Source, ...]
    sha256: str | None
    base: str | None
    context: int
    template: Path | None
    completion: bool
    sampling: Sampling
    memory: int | None
    price: Price | None
    slots: int
    threads: int
    replicas: int
    options: tuple[tuple[str, Scalar], ...]
    allow_code: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ExpertSpec:
    """A model, or an adapter on it, by name. `sampling` is the model's with the expert's own changes. One that `writes`
    knowledge or plans is no arm: it writes passages or plans for others. `strategies` are those beside prose; without
    `prose` it is no arm as it is."""

    name: str
    model: str
    adapter: AdapterSpec | None
    description: str
    skills: tuple[str, ...]
    answers: Kind
    sampling: Sampling
    generalist: bool
    system: str | None = None
    writes: Writes = "answers"
    personas: tuple[PersonaSpec, ...] = ()
    strategies: tuple[StrategySpec, ...] = ()
    prose: bool = True


@dataclass(frozen=True, slots=True)
class ArmSpec:
    """What is routed: an expert, as it is, with evidence, or with a strategy, and what is taken off of what it says. The name
    says so: `general`, `general+manuals`, `general@code`, `arithmetic~base`. One with a persona is
    never routed to: `general!warm`."""

    name: str
    expert: str
    evidence: EvidenceSpec | None = None
    contrast: ContrastSpec | None = None
    strategy: StrategySpec | None = None
    persona: PersonaSpec | None = None

    @property
    def routed(self) -> bool:
        """Whether routers may choose it."""
        return self.contrast is None and self.persona is None

    @property
    def plain(self) -> str:
        """The arm without the contrast."""
        return self.expert if self.evidence is None else f"{self.expert}+{self.evidence.name}"


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """The sentence encoder of the routers, or a cross-encoder: an ONNX file from `sources`, and its tokenizer."""

    sources: tuple[Source, ...]
    sha256: str
    tokenizer: Path


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A step of the pipeline. `options` are checked against its factory by `plugins.check_options`."""

    use: str
    options: Mapping[str, Any]
    line: int


@dataclass(frozen=True)
class Settings:
    """A registry file. `config_sha` is that of its content, so comments and layout do not change it; `memory` bounds
    what is resident, in bytes (None: no bound); paths are absolute, and nobody has looked yet whether they exist."""

    path: Path
    config_sha: str
    models: Mapping[str, ModelSpec]
    experts: Mapping[str, ExpertSpec]
    encoder: EncoderSpec | None
    profile: Path | None
    pipeline: tuple[StageSpec, ...]
    memory: int | None
    document: Document
    pipelines: Mapping[str, tuple[StageSpec, ...]] = field(default_factory=dict[str, tuple[StageSpec, ...]])
    reading: tuple[ArmSpec, ...] = ()  # the arms with evidence
    reranker: EncoderSpec | None = None
    contrasting: tuple[ArmSpec, ...] = ()  # the arms with a contrast

    @cached_property
    def arms(self) -> Mapping[str, ArmSpec]:
        """Every arm by name: the experts that answer as they are, in file order, then those with a strategy, then those with
        evidence, then those with a contrast, then those with a persona."""
        experts = [expert for expert in self.experts.values() if expert.writes == "answers"]
        plain = [ArmSpec(expert.name, expert.name) for expert in experts if expert.prose]
        return {arm.name: arm for arm in (*plain, *self.strategic, *self.reading, *self.contrasting, *self.personas)}

    @property
    def strategic(self) -> tuple[ArmSpec, ...]:
        """The arms with a strategy."""
        pairs = [(expert.name, one) for expert in self.experts.values() for one in expert.strategies]
        return tuple(ArmSpec(f"{name}{AT}{one.use}", name, strategy=one) for name, one in pairs)

    @property
    def personas(self) -> tuple[ArmSpec, ...]:
        """The arms with a persona."""
        pairs = [(expert.name, one) for expert in self.experts.values() for one in expert.personas]
        return tuple(ArmSpec(f"{name}{MARK}{one.name}", name, persona=one) for name, one in pairs)

    @property
    def writers(self) -> tuple[str, ...]:
        """The experts that write knowledge or plans, and answer nothing."""
        return tuple(name for name, expert in self.experts.items() if expert.writes != "answers")

    @property
    def skills(self) -> tuple[str, ...]:
        """What experts claim to be good at, each once."""
        return tuple(dict.fromkeys(skill for expert in self.experts.values() for skill in expert.skills))

    def unanswering(self, name: str, known: Sequence[str], what: str = "expert") -> tuple[str, str]:
        """Why `name`, which is none of the arms (or pipelines) that are `known` where it was written, cannot be asked there, and
        what to write instead: it is misspelt, or an expert that answers nothing, or one that answers by its strategies alone.
        `what` was expected."""
        expert = self.experts.get(name)
        if expert is None or name in self.arms:
            return f"no {what} is called {name!r}", suggest(name, known)
        if expert.writes != "answers":
            return f"{name!r} writes {expert.writes} and answers nothing", f"name one that answers: {', '.join(known)}"
        own = [arm.name for arm in self.arms.values() if arm.expert == name]
        usable = [arm for arm in own if arm in known]
        return (
            f"{name!r} answers only as {' or '.join(own)}",
            f"write {' or '.join(usable)}" if usable else f"name one that answers in prose: {', '.join(known)}",
        )

    @property
    def generalist(self) -> ExpertSpec:
        """The expert that gets what is nobody's skill."""
        return next(expert for expert in self.experts.values() if expert.generalist)

    def where(self, path: str) -> str:
        """Where a setting stands, for errors found later: `experts.yaml:23 (experts.arithmetic.adapter)`."""
        return self.document.where(path)
