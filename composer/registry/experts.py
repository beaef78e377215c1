"""The registry at work: arms by name, what is sent for them, and everything needed to open their host."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from composer.config import ExpertSpec, ModelSpec, Settings
from composer.errors import ConfigError
from composer.plugins import load
from composer.registry.cache import Cache
from composer.registry.gguf import check_adapter, read_header
from composer.registry.sources import PathSource, Progress, fetch, parse_source
from composer.types import AdapterFile, Fingerprint, Host, Kind, Message, Prompt, Request, Sampling, Stream, Usage
from routers.types import Arm

if TYPE_CHECKING:
    from composer.engines.base import Engine

# What a small model's cache and buffers take beside its weights, where nothing is declared.
_CONTEXT_MEMORY = 70 * 2**20


class Registry:
    """Resolves the names of a registry file. Files are fetched when first needed, with `progress` on the way."""

    def __init__(self, settings: Settings, *, offline: bool = False, progress: Progress | None = None) -> None:
        self.settings = settings
        self._offline = offline
        self._progress = progress

    # What stages ask

    @property
    def generalist(self) -> str:
        """The arm for what is nobody's skill."""
        return self.settings.generalist.name

    def arms(self) -> tuple[Arm, ...]:
        """One arm per expert, in file order. The price is the model's per million tokens (unknown: 1, as for equals)."""
        return tuple(Arm(expert.name, self._price(expert)) for expert in self.settings.experts.values())

    def stream(self, arm: str, prompt: Prompt) -> Stream:
        """The arm's expert, its adapter if it has one, and the prompt."""
        expert = self._expert(arm)
        return Stream(expert.name, prompt, adapter=expert.name if expert.adapter else None)

    def sampling(self, arm: str) -> Sampling:
        """The expert's sampling."""
        return self._expert(arm).sampling

    def messages(self, arm: str, text: str) -> Prompt:
        """`text` as the arm's model takes it: a user turn for chat models, after the expert's system message if it has
        one; as it stands for models that continue."""
        if self._model(arm).completion:
            return text
        system = self._expert(arm).system
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
        """The model's file and these experts' adapters, fetched and checked. Raises SourceError or ConfigError."""
        model = self.settings.models[name]
        path = self._weights(model)
        header = read_header(path, where=self.where(name)) if adapters and path is not None else None
        files = []
        for adapter in adapters:
            spec = self.settings.experts[adapter].adapter
            assert spec is not None
            where = self.settings.where(f"experts.{adapter}.adapter")
            file = self._pinned(spec.path, spec.sha256, where)
            if header is not None:
                check_adapter(file, header, name=name, where=where)
            files.append(AdapterFile(adapter, file, spec.sha256))
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
            memory=self.estimate(name, adapters),
            options=model.options,
        )

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """The declared memory, else the size of the weights (if they are here) and a share for the context, in bytes;
        0 for what somebody else serves."""
        model = self.settings.models[name]
        specs = [self.settings.experts[adapter].adapter for adapter in adapters]
        extra = sum(spec.path.stat().st_size for spec in specs if spec is not None and spec.path.exists())
        if model.memory is not None:
            return model.memory + extra
        return (self._size(model) + _CONTEXT_MEMORY if model.sha256 else 0) + extra

    def where(self, name: str) -> str:
        """Where the model is declared."""
        return self.settings.where(f"models.{name}")

    def weights(self, name: str) -> str:
        """The sha256 of the model's file, or its name where none is pinned."""
        return self.settings.models[name].sha256 or name

    def fingerprint(self, expert: str) -> Fingerprint:
        """All that determines the expert's text besides the request; known without fetching anything."""
        return self._prints[expert]

    def engine(self, name: str) -> Engine:
        """A new engine of the model's kind."""
        engine: Engine = load("engines", self.settings.models[name].engine, self.where(name))()
        return engine

    def cost(self, request: Request, usage: Usage) -> float | None:
        """Tokens at the model's price; None where it declares none."""
        price = self._model(request.streams[0].expert).price
        if price is None:
            return None
        return (usage.tokens_in * price.tokens_in + usage.tokens_out * price.tokens_out) / 1e6

    # What profiles are keyed by

    def prints(self) -> dict[str, str]:
        """The sha256 of each arm's fingerprint, sampling and system message: an arm that changes loses its record."""
        return {
            name: hashlib.sha256(f"{self.fingerprint(name)!r}{expert.sampling!r}{expert.system!r}".encode()).hexdigest()
            for name, expert in self.settings.experts.items()
        }

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
        sources = [parse_source(text) for text in spec.sources]
        model = fetch(
            sources,
            spec.sha256,
            name="encoder",
            base=self.settings.path.parent,
            offline=self._offline,
            progress=self._progress,
        )
        if not spec.tokenizer.is_file():
            raise ConfigError(f"{spec.tokenizer} is not there", where=self.settings.where("encoder.tokenizer"))
        return model, spec.tokenizer

    @cached_property
    def _prints(self) -> dict[str, Fingerprint]:
        prints = {}
        for expert in self.settings.experts.values():
            model = self.settings.models[expert.model]
            template = self._template(model)
            prints[expert.name] = Fingerprint(
                weights=model.sha256,
                adapter=expert.adapter.sha256 if expert.adapter else None,
                tokenizer=model.sha256,  # a GGUF file holds its tokenizer
                template=hashlib.sha256(template.encode()).hexdigest() if template else model.sha256,
                engine=_engine_version(model.engine),
                context=model.context,
            )
        return prints

    def _expert(self, arm: str) -> ExpertSpec:
        return self.settings.experts[arm]

    def _model(self, arm: str) -> ModelSpec:
        return self.settings.models[self._expert(arm).model]

    def _price(self, expert: ExpertSpec) -> float:
        price = self.settings.models[expert.model].price
        return price.tokens_in + price.tokens_out if price else 1.0

    def _weights(self, model: ModelSpec) -> Path | None:
        if model.sha256 is None:
            return None  # served by somebody else: nothing of ours to fetch
        sources = [parse_source(text) for text in model.sources]
        return fetch(
            sources,
            model.sha256,
            name=model.name,
            base=self.settings.path.parent,
            offline=self._offline,
            progress=self._progress,
        )

    def _size(self, model: ModelSpec) -> int:
        """Bytes of the model's file where it is here already, else 0."""
        assert model.sha256 is not None
        sources = [parse_source(text) for text in model.sources]
        places = [self.settings.path.parent / source.path for source in sources if isinstance(source, PathSource)]
        places += [*Cache().folder(model.sha256).glob("*")]
        return max((place.stat().st_size for place in places if place.is_file()), default=0)

    def _pinned(self, path: Path, sha256: str, where: str) -> Path:
        if not path.is_file():
            raise ConfigError(f"the adapter {path} is not there", where=where, remedy="correct the path")
        return fetch([parse_source(str(path))], sha256, name=path.name, base=self.settings.path.parent, offline=True)

    def _template(self, model: ModelSpec) -> str | None:
        if model.template is None:
            return None
        try:
            return model.template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as why:
            raise ConfigError(
                f"the chat template cannot be read: {why}", where=self.settings.where(f"models.{model.name}.template")
            ) from why


def _engine_version(engine: str) -> str:
    return f"llamacpp {version('xllamacpp')}" if engine == "llamacpp" else engine
