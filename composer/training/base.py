"""The model that an adapter is trained on: found by name or file, and asked as it will be served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from composer.errors import ConfigError, EngineError, suggest
from composer.plugins import load
from composer.registry.adapters import HUB_NAME
from composer.registry.adapting import is_adapter
from composer.registry.bases import Base, check_weights, read_base
from composer.registry.cache import Cache
from composer.registry.experts import Registry
from composer.registry.gguf import is_gguf, read_header
from composer.registry.hf import digest, settings, template_of
from composer.registry.hf_row import context_of
from composer.registry.to_hf import converted
from composer.types import AdapterFile, Delta, Draft, Host, Message, Prompt, Request, Sampling, Stream

if TYPE_CHECKING:
    from composer.engines.base import Engine

_CONTEXT = 2048  # tokens per request of a model that no registry declares
_ADAPTER = "trained"  # what the new adapter is called while it is measured
_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class Trainee:
    """A model that can be trained on. `weights` is a GGUF file or a folder in Hugging Face's form; `public` is what
    adapters call it, `host` what its engine is opened with (None: it has no engine, torch answers for it)."""

    name: str
    weights: Path
    sha256: str
    public: str
    declared: str | None
    template: str | None
    chat: bool
    context: int
    sampling: Sampling
    host: Host | None
    engine: Callable[[], Engine] | None

    def prompt(self, text: str) -> Prompt:
        """`text` as an expert of this model is sent it that has no system message."""
        return (Message("user", text),) if self.chat else text

    def turns(self, text: str) -> list[dict[str, str]] | str:
        """The same for the chat template of transformers."""
        prompt = self.prompt(text)
        if isinstance(prompt, str):
            return prompt
        return [{"role": turn.role, "content": turn.content} for turn in prompt]

    def form(self) -> Base:
        """Its layers, as adapters for it are checked."""
        return read_base(self.weights, self.name, where=str(self.weights))

    def folder(self, python: str) -> Path:
        """In the form that transformers trains on; of a GGUF file it is made once. Raises ComposerError."""
        return self.weights if self.weights.is_dir() else converted(self.weights, self.sha256, python=python)


def find_trainee(registry: Registry, base: str) -> Trainee:
    """The model `base`: its name in the registry, a GGUF file, or a folder. A file that is a model of the registry is
    served as that. Raises ComposerError."""
    models = registry.settings.models
    path = Path(base).expanduser()
    if base in models:
        return _of_registry(registry, base)
    if not path.exists():
        raise ConfigError(
            f"{base!r} is no model of {registry.settings.path}, and no file or folder",
            where="--base",
            remedy=suggest(base, models),
        )
    if is_adapter(path):
        raise ConfigError(
            f"{path.name} is an adapter", where="--base", remedy="name the model; --start goes on from an adapter"
        )
    check_weights(path, {}, where=str(path))
    sha256 = digest(path, Cache()) if path.is_dir() else Cache().digest(path)
    known = next((name for name, model in models.items() if model.sha256 == sha256), None)
    if known is not None:
        return _of_registry(registry, known)
    return _of_folder(path, sha256) if path.is_dir() else _of_file(path, sha256)


def _of_registry(registry: Registry, name: str) -> Trainee:
    model = registry.settings.models[name]
    host = registry.host(name, ())
    if host.path is None or model.sha256 is None:
        raise ConfigError(
            f"{name} is served by somebody else: there are no weights to train on",
            where=registry.where(name),
            remedy="name a model whose weights are here",
        )
    public = model.base or name
    return Trainee(
        name, host.path, model.sha256, public, model.base, host.template, host.chat, host.context,
        model.sampling, host, lambda: registry.engine(name),
    )  # fmt: skip


def _of_file(path: Path, sha256: str) -> Trainee:
    if not is_gguf(path):
        raise ConfigError(f"{path} is no GGUF file", where="--base", remedy="name a GGUF model, or a folder of one")
    header = read_header(path, where=str(path))
    if "general.architecture" not in header.metadata:
        raise ConfigError(
            f"{path} holds no model (no general.architecture)", where="--base", remedy="name a GGUF model"
        )
    chat = _TEMPLATE in header.metadata
    length = header.metadata.get(f"{header.metadata['general.architecture']}.context_length")
    context = context_of(length, _CONTEXT)
    public = path.name.removesuffix(".gguf")
    host = Host(public, "llamacpp", path, context=context, chat=chat)

    def engine() -> Engine:
        found: Engine = load("engines", "llamacpp")()
        return found

    return Trainee(public, path, sha256, public, None, None, chat, context, Sampling(), host, engine)


def _of_folder(path: Path, sha256: str) -> Trainee:
    config = settings(path, where="--base")
    chat = template_of(path, where="--base") is not None
    context = context_of(config.get("max_position_embeddings"), _CONTEXT)
    named = config.get("_name_or_path")
    public = named if isinstance(named, str) and HUB_NAME.fullmatch(named) else path.resolve().name
    return Trainee(path.name, path, sha256, public, None, None, chat, context, Sampling(), None, None)


def answer(trainee: Trainee, texts: Sequence[str], adapter: Path | None = None) -> list[Draft]:
    """What the model, with the adapter if one is named, writes greedily to each text, served by its own engine. Raises
    ComposerError where the engine does not open or a call fails."""
    return asyncio.run(_answer(trainee, texts, adapter))


async def _answer(trainee: Trainee, texts: Sequence[str], adapter: Path | None) -> list[Draft]:
    assert trainee.host is not None and trainee.engine is not None
    files = () if adapter is None else (AdapterFile(_ADAPTER, adapter, "0" * 64),)
    name = None if adapter is None else _ADAPTER
    sampling = replace(trainee.sampling, temperature=0.0)
    asked = [
        Request(str(number), (Stream(_ADAPTER, trainee.prompt(text), name),), sampling, arm=_ADAPTER)
        for number, text in enumerate(texts)
    ]
    engine = trainee.engine()
    drafts: dict[str, Draft] = {}
    try:
        await engine.open(replace(trainee.host, adapters=files))
        async with aclosing(engine.generate(asked)) as pieces:  # type: ignore[type-var]
            async for number, piece in pieces:
                if not isinstance(piece, Delta):
                    drafts[number] = piece
    finally:
        await engine.close()
    found = [drafts[request.id] for request in asked]
    failed = next((draft.error for draft in found if draft.error is not None), None)
    if failed is not None:
        raise EngineError(f"it does not answer: {failed.message}", where=trainee.name, remedy="coe experts check")
    return found
