"""The registry at work: arms by name, what is sent for them, and everything needed to open their host."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.errors import ConfigError, SourceError
from composer.plugins import check_options, load
from composer.registry.adapting import Adapters, size_of
from composer.registry.bases import check_weights
from composer.registry.cache import Cache, is_whole
from composer.registry.hf import when_computed, when_served
from composer.registry.indexes import evidence_print, most_tokens
from composer.registry.lock import UNSEEN, check_locked
from composer.registry.memory import UNKNOWN_CACHE, when_loaded
from composer.registry.release import changed, engine_version
from composer.registry.sources import Progress, fetch
from composer.settings.contrast import ContrastSpec, partners
from composer.settings.evidence import EvidenceSpec
from composer.settings.persona import system_of, told_of
from composer.settings.sources import PathSource, Source
from composer.settings.specs import EncoderSpec, ExpertSpec, ModelSpec, Settings
from composer.settings.strategy import StrategySpec
from composer.types import AdapterFile, Fingerprint, Host, Kind, Message, Prompt, Request, Sampling, Stream, Usage
from routers.types import Arm

if TYPE_CHECKING:
    from composer.engines.base import Engine

_TURN = 64  # tokens that a chat template puts around a question, at most


class Registry:
    """Resolves the names of a registry file. Files are fetched when first needed, with `progress` on the way.

    Raises ConfigError for options that a model's engine does not take.
    """

    def __init__(self, settings: Settings, *, offline: bool = False, progress: Progress | None = None) -> None:
        self.settings = settings
        self._offline = offline
        self._progress = progress
        self._releases: dict[str, str | None] = {}
        self._reads: dict[str, list[Any]] = {}
        self.stopped = False  # fetches under way end at their next piece: whoever wanted the file has gone
        self._adapters = Adapters(
            settings, lambda path, sha256, at: self._file([PathSource(str(path))], sha256, path.name, at)
        )
        self._options = {name: self._checked(model) for name, model in settings.models.items() if model.options}

    # What stages ask

    @property
    def generalist(self) -> str:
        """The arm for what is nobody's skill."""
        return self.settings.generalist.name

    def arms(self) -> tuple[Arm, ...]:
        """Every expert that answers in file order, then those with evidence: what routers choose from. The price is the
        model's per million tokens (unknown: 1, as for equals)."""
        arms = self.settings.arms.values()
        return tuple(Arm(arm.name, self._price(self._expert(arm.name))) for arm in arms if arm.routed)

    def variants(self, arm: str) -> tuple[str, ...]:
        """All arms of the arm's expert: as it is, then with each evidence. An arm with a strategy is the only one."""
        if self.strategy(arm) is not None:
            return (arm,)
        expert, arms = self.settings.arms[arm].expert, self.settings.arms.values()
        return tuple(one.name for one in arms if one.expert == expert and one.routed and not one.strategy)

    def evidence(self, arm: str) -> EvidenceSpec | None:
        """What the arm is given to read beside the question."""
        return self.settings.arms[arm].evidence

    def contrast(self, arm: str) -> ContrastSpec | None:
        """What is taken off of what the arm says."""
        return self.settings.arms[arm].contrast

    def strategy(self, arm: str) -> StrategySpec | None:
        """How the arm answers, where that is not in prose."""
        return one.strategy if (one := self.settings.arms.get(arm)) else None  # writers are no arms

    def contrasts(self) -> dict[str, str]:
        """The arms with a contrast, and what each is without it."""
        return {arm.name: arm.plain for arm in self.settings.contrasting}

    def planners(self) -> Sequence[str]:
        """The experts that write plans."""
        return [name for name, expert in self.settings.experts.items() if expert.writes == "plans"]

    def partners(self, arm: str) -> Sequence[str]:
        """Who may be the one that is taken off: several where they are chosen question by question."""
        own = self.settings.arms[arm]
        return partners(own.contrast, own.expert, self.settings.experts) if own.contrast else ()

    def description(self, expert: str) -> str:
        """What the registry says of an expert, "" where it says nothing."""
        return self._expert(expert).description

    def fits(self, arm: str, text: str) -> bool:
        """Whether this text and an answer fit into the context of the arm's model, by a count that errs on the safe side."""
        needed = most_tokens(text) + most_tokens(system_of(self.settings, arm) or "") + self.sampling(arm).max_tokens
        return needed + _TURN <= self._model(arm).context

    def stream(self, arm: str, prompt: Prompt, *, bare: bool = False) -> Stream:
        """The arm's expert, its adapter if it has one (unless `bare`), and the prompt."""
        expert = self._expert(arm)
        return Stream(expert.name, prompt, adapter=expert.name if expert.adapter and not bare else None)

    def sampling(self, arm: str) -> Sampling:
        """The expert's sampling, with what its strategy changes."""
        own, strategy = self._expert(arm).sampling, self.strategy(arm)
        return own if strategy is None else strategy.sampling(own)

    def messages(self, arm: str, text: str) -> Prompt:
        """`text` as the arm's model takes it: a user turn for chat models, after the expert's system message if it has
        one; as it stands for models that continue. An arm with a strategy is told of it first."""
        text = strategy.asked(text) if (strategy := self.strategy(arm)) else text
        if self._model(arm).completion:
            return text
        system = system_of(self.settings, arm)
        turn = Message("user", text)
        return (turn,) if system is None else (Message("system", system), turn)

    def kind(self, arm: str) -> Kind:
        """How the expert's answers are read."""
        return self._expert(arm).answers

    # What the pool asks

    def host_of(self, expert: str) -> str:
        """One host per model."""
        return self._expert(expert).model

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        """The model's file and these experts' adapters, fetched and checked, and as the lock file says where there is
        one. Raises SourceError or ConfigError."""
        model = self.settings.models[name]
        path = self._weights(model)
        if path is not None and path.suffix != ".gguf":  # those are read on the way to their only engine
            check_weights(path, model.allow_code, where=self.where(name))
        files = []
        for adapter in adapters:
            spec = self.settings.experts[adapter].adapter
            assert spec is not None
            files.append(AdapterFile(adapter, self._adapters.ready(adapter, model, path), spec.sha256))
        bare = [expert.name for expert in self.settings.experts.values() if expert.model == name and not expert.adapter]
        check_locked(self, [*bare, *adapters])
        return Host(
            name=name,
            engine=model.engine,
            path=path,
            adapters=tuple(files),
            context=model.context,
            slots=model.slots,
            threads=model.threads,
            template=self._template(model),
            chat=not model.completion,
            memory=self._memory(model, path, adapters),
        )

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """Bytes when loaded: as declared, else by the weights if they are here (a `Host` has it with the weights); 0 for
        what somebody else serves."""
        model = self.settings.models[name]
        return self._memory(model, self._here(model), adapters)

    def is_sized(self, name: str) -> bool:
        """Whether the model's size is known: it is declared, or its file is on this machine."""
        model = self.settings.models[name]
        return model.memory is not None or model.sha256 is None or self._here(model) is not None

    def replicas(self, name: str) -> int:
        """How many copies of the model may run beside each other."""
        return self.settings.models[name].replicas

    def where(self, name: str) -> str:
        """Where the model is declared."""
        return self.settings.where(f"models.{name}")

    def weights(self, name: str) -> str:
        """The sha256 of the model's file, or its name where none is pinned."""
        return self.settings.models[name].sha256 or name

    def here(self, name: str) -> Path | None:
        """The model's file or folder where it is on this machine already; nobody has looked into it."""
        return self._here(self.settings.models[name])

    def folder(self, name: str) -> Path | str | None:
        """Where the model's folder is, of one that is a folder; `UNSEEN` while it is not here, None for a file."""
        model = self.settings.models[name]
        if model.sha256 is None:
            return None
        here = self._here(model)
        if here is not None:
            return here if here.is_dir() else None
        return UNSEEN if any(not getattr(source, "file", "file") for source in model.sources) else None

    def release(self, name: str) -> str | None:
        """What would serve the model, and in which version, where its engine says so."""
        if name not in self._releases:  # vLLM's interpreter is asked, which takes a moment
            model = self.settings.models[name]
            told = getattr(load("engines", model.engine, self.where(name)), "release", None)
            self._releases[name] = None if told is None else str(told(dict(model.options)))
        return self._releases[name]

    def fingerprint(self, expert: str) -> Fingerprint:
        """All that determines the expert's text besides the request; known without fetching anything."""
        return self._prints[expert]

    def engine(self, name: str) -> Engine:
        """A new engine of the model's kind."""
        make = load("engines", self.settings.models[name].engine, self.where(name))
        engine: Engine = make(**self._options.get(name, {}))
        return engine

    def cost(self, request: Request, usage: Usage) -> float | None:
        """Tokens at the model's price; None where it declares none, or streams have several."""
        prices = {self._model(stream.expert).price for stream in request.streams}
        price = prices.pop()
        if price is None or prices:  # of several models nobody says which has read what
            return None
        return (usage.tokens_in * price.tokens_in + usage.tokens_out * price.tokens_out) / 1e6

    # What profiles are keyed by

    def prints(self) -> dict[str, str]:
        """What each arm's record belongs to, as a sha256 per arm: an arm that changes loses its record.

        Named one by one, because a record outlives what a draft does not: another release of the engine, another length
        of the context, or a new setting that everybody leaves as it is, say nothing new about how good an arm is.
        """
        prints = {}
        for name, arm in self.settings.arms.items():
            material = self.material(arm.expert) | told_of(arm)
            if arm.evidence is not None:
                material["evidence"] = self._evidence_print(arm.evidence)
            if arm.strategy is not None:
                material["strategy"] = asdict(arm.strategy)
            if arm.contrast is not None:
                who = partners(arm.contrast, arm.expert, self.settings.experts)
                material["contrast"] = [asdict(arm.contrast), [[name, self.material(name)] for name in who]]
            prints[name] = hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()
        return prints

    def material(self, expert: str) -> dict[str, Any]:
        """What decides how good an expert is, or the plans and passages that it writes."""
        own, shared = self._expert(expert), self.fingerprint(expert)
        return {
            "weights": self.weights(own.model),
            "adapter": shared.adapter,
            "template": shared.template,
            "completion": self._model(expert).completion,
            "system": own.system,
            "sampling": changed(own.sampling),
        }

    def _evidence_print(self, spec: EvidenceSpec) -> list[Any]:
        """What decides what an arm is given to read: the indexes, and who writes and how it is chosen. As it was when first
        asked for: what is open under a run stays so, whatever has its name now."""
        if spec.name not in self._reads:
            told = evidence_print(self.settings, spec)
            if (writers := spec.writers) is not None:
                options = {name: value for name, value in asdict(writers).items() if name not in ("experts", "against")}
                descriptions = [self._expert(name).description for name in writers.experts]  # top-down chooses by them
                cards = [[name, self.material(name)] for name in writers.experts]
                told += [options, cards, descriptions, self.encoder_sha]
            self._reads[spec.name] = told
        return self._reads[spec.name]

    @property
    def encoder_sha(self) -> str:
        """The sha256 of the encoder's file: vectors of another one cannot be compared."""
        return self.settings.encoder.sha256 if self.settings.encoder else ""

    def encoder_files(self) -> tuple[Path, Path]:
        """The encoder's ONNX file (fetched) and its tokenizer. Raises SourceError, or ConfigError if none is declared."""
        spec = self.settings.encoder
        if spec is None:
            raise ConfigError(
                "routing needs an encoder and this registry declares none",
                where=str(self.settings.path),
                remedy="copy the `encoder:` block of the default registry",
            )
        return self._with_tokenizer(spec, "encoder")

    def reranker_files(self) -> tuple[Path, Path]:
        """The cross-encoder's ONNX file (fetched) and its tokenizer. Raises SourceError, or ConfigError if none is
        declared."""
        spec = self.settings.reranker
        if spec is None:
            raise ConfigError(
                "ordering passages anew needs a cross-encoder and this registry declares none",
                where=str(self.settings.path),
                remedy="add `reranker:` with its `sources`, `sha256` and `tokenizer`",
            )
        return self._with_tokenizer(spec, "reranker")

    def _with_tokenizer(self, spec: EncoderSpec, at: str) -> tuple[Path, Path]:
        model = self._file(spec.sources, spec.sha256, at, f"{at}.sources")
        if not spec.tokenizer.is_file():
            where = self.settings.where(f"{at}.tokenizer")
            raise ConfigError(f"the tokenizer {spec.tokenizer} is not there", where=where, remedy="correct the path")
        return model, spec.tokenizer

    @cached_property
    def _prints(self) -> dict[str, Fingerprint]:
        engines = {name: engine_version(model) for name, model in self.settings.models.items()}
        prints = {}
        for expert in self.settings.experts.values():
            model = self.settings.models[expert.model]
            template = self._template(model)
            prints[expert.name] = Fingerprint(
                weights=model.sha256,
                adapter=expert.adapter.sha256 if expert.adapter else None,
                tokenizer=model.sha256,  # a GGUF file holds its tokenizer
                template=hashlib.sha256(template.encode()).hexdigest() if template else model.sha256,
                engine=engines[model.name],
                context=model.context,
            )
        return prints

    def _expert(self, arm: str) -> ExpertSpec:
        known = self.settings.arms.get(arm)
        return self.settings.experts[arm if known is None else known.expert]  # writers are no arms

    def _model(self, arm: str) -> ModelSpec:
        return self.settings.models[self._expert(arm).model]

    def _price(self, expert: ExpertSpec) -> float:
        price = self.settings.models[expert.model].price
        return price.tokens_in + price.tokens_out if price else 1.0

    def _weights(self, model: ModelSpec) -> Path | None:
        if model.sha256 is None:
            return None  # served by somebody else: nothing of ours to fetch
        return self._file(model.sources, model.sha256, model.name, f"models.{model.name}.sources")

    def _file(self, sources: Sequence[Source], sha256: str, name: str, at: str) -> Path:
        """The file with this sha256. Raises SourceError at the setting `at`."""
        base = self.settings.path.parent
        try:
            return fetch(sources, sha256, name=name, base=base, offline=self._offline, progress=self._heard)
        except SourceError as why:
            raise type(why)(why.what, where=self.settings.where(at), remedy=why.remedy) from why

    def _heard(self, name: str, done: int, total: int | None) -> None:
        if self.stopped:
            raise SourceError("the download was stopped", where=name, remedy="ask again: it goes on from there")
        if self._progress:
            self._progress(name, done, total)

    def _here(self, model: ModelSpec) -> Path | None:
        """The model's file where it is on this machine already; nobody has looked into it."""
        places = [Path(source.path) for source in model.sources if isinstance(source, PathSource)]
        if model.sha256 is not None:
            places += sorted(Cache().folder(model.sha256).glob("*"))
            places.append(Cache().root / "folders" / model.sha256)
        return next((place for place in places if is_whole(place)), None)

    def _memory(self, model: ModelSpec, weights: Path | None, adapters: Sequence[str]) -> int:
        specs = [self.settings.experts[adapter].adapter for adapter in adapters]
        extra = sum(size_of(self.settings, spec) for spec in specs if spec is not None)
        if model.memory is not None:
            return model.memory + extra
        if model.sha256 is None:
            return 0  # somebody else's memory
        if weights is not None and weights.is_dir():
            dtype = str(dict(model.options).get("dtype", "float32"))
            try:
                if model.engine == "transformers":
                    return extra + when_computed(weights, model.context, model.slots, dtype)
                return extra + when_served(weights, model.context, model.slots)
            except ConfigError as why:
                raise ConfigError(why.what, where=self.where(model.name), remedy=why.remedy) from why
        return extra + (when_loaded(weights, model.context, model.slots) if weights is not None else UNKNOWN_CACHE)

    def _checked(self, model: ModelSpec) -> dict[str, Any]:
        """The options of the model's engine as its factory takes them."""
        factory = load("engines", model.engine, self.where(model.name))
        at = f"models.{model.name}.options"
        return check_options(factory, dict(model.options), lambda option: self.settings.where(f"{at}.{option}"))

    def _template(self, model: ModelSpec) -> str | None:
        if model.template is None:
            return None
        try:
            return model.template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as why:
            raise ConfigError(
                f"the chat template cannot be read: {why}",
                where=self.settings.where(f"models.{model.name}.template"),
                remedy="correct the path, or save the file as UTF-8",
            ) from why
