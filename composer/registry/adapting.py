"""Adapters as a host takes them: files as they are, PEFT folders and mixtures made into files of the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from composer.errors import ConfigError
from composer.folders import cache_folder, replacing
from composer.registry.adapters import check_adapter, check_base
from composer.registry.bases import PICKLES, GgufBase, pickled, read_base
from composer.registry.cache import Cache, unlike
from composer.registry.gguf import Header, is_gguf, read_header
from composer.registry.peft import CONFIG, WEIGHTS, check_peft, is_peft, read_peft
from composer.settings.adapter import AdapterSpec, folder_sha
from composer.settings.specs import ModelSpec, Settings

_VERSION = 1  # of what is made here: another one makes the files of the cache anew


def sha_of(path: Path) -> str:
    """The sha256 of an adapter: of its file, or of a PEFT folder's two. Known files are not read again."""
    cache = Cache()
    if not path.is_dir():
        return cache.digest(path)
    return folder_sha(cache.digest(path / CONFIG), cache.digest(path / WEIGHTS))


def size_of(settings: Settings, spec: AdapterSpec) -> int:
    """About how many bytes it takes when loaded; 0 where it is not there."""
    if spec.mixture is None:
        file = spec.path / WEIGHTS if spec.path is not None and spec.path.is_dir() else spec.path
        return file.stat().st_size if file is not None and file.exists() else 0
    parts = (settings.experts[name].adapter for name, _ in spec.mixture.weights)
    return 2 * sum(size_of(settings, part) for part in parts if part is not None)  # in float32


class Adapters:
    """The adapters of a registry. `fetched` gives the local file with a sha256, and raises SourceError at a setting."""

    def __init__(self, settings: Settings, fetched: Callable[[Path, str, str], Path]) -> None:
        self._settings, self._fetched = settings, fetched

    def ready(self, name: str, model: ModelSpec, weights: Path | None) -> Path:
        """What the host of `model` loads for the expert `name`: a GGUF file where its weights are one, else what is
        declared. Checked: the sha256, the header, and that it belongs to the model. Raises ConfigError or SourceError."""
        spec = self._settings.experts[name].adapter
        assert spec is not None
        where = self._settings.where(f"experts.{name}.adapter")
        header = self._header(model, weights)
        if spec.mixture is not None:
            file = self._mixed(name, spec, model, header, where)
        else:
            file = self._one(name, spec, model, weights, header, where)
        if header is not None:
            check_adapter(file, header, name=model.name, where=where)
        if model.base is not None and not file.is_dir():
            check_base(file, model.base, name=model.name, where=where)
        return file

    def _header(self, model: ModelSpec, weights: Path | None) -> Header | None:
        if weights is None or weights.is_dir():
            return None
        return read_header(weights, where=self._settings.where(f"models.{model.name}"))

    def _one(
        self, name: str, spec: AdapterSpec, model: ModelSpec, weights: Path | None, header: Header | None, where: str
    ) -> Path:
        path = spec.path
        assert path is not None
        if path.suffix.lower() in PICKLES:
            raise pickled(path, where)
        if path.is_file():
            return self._fetched(path, spec.sha256, f"experts.{name}.adapter")
        if not is_peft(path):
            what = f"{path} is no PEFT folder" if path.is_dir() else f"the adapter {path} is not there"
            raise ConfigError(what, where=where, remedy="correct the path")
        found = read_peft(path, where=where)
        if (sha256 := sha_of(path)) != spec.sha256:
            raise unlike(
                str(path),
                sha256,
                spec.sha256,
                remedy="if this is the adapter you want, write its sha256 beside the path",
            )
        if header is None:
            if weights is not None:
                check_peft(found, read_base(weights, model.name, where=where), declared=model.base, where=where)
            return path
        base = GgufBase(model.name, header)
        check_peft(found, base, declared=model.base, where=where)

        def make(out: Path) -> None:
            from composer.registry.convert import convert_peft  # noqa: PLC0415 once per folder

            convert_peft(path, base, out, declared=model.base, where=where)

        return self._made([spec.sha256, model.sha256], f"{name}.gguf", make)

    def _mixed(self, name: str, spec: AdapterSpec, model: ModelSpec, header: Header | None, where: str) -> Path:
        mixture = spec.mixture
        assert mixture is not None
        parts = []
        for part, _ in mixture.weights:
            own = self._settings.experts[part].adapter
            assert own is not None
            place = self._settings.where(f"experts.{part}.adapter")
            parts.append(self._one(part, own, model, None, header, place))

        def make(out: Path) -> None:
            from composer.registry.convert import write_gguf  # noqa: PLC0415 once per mixture
            from composer.registry.lora import combine, load_lora, save_peft, to_gguf  # noqa: PLC0415

            loras = [load_lora(part, where=where) for part in parts]
            if any(lora.gguf for lora in loras):
                if header is None:
                    raise ConfigError(
                        f"{name} mixes GGUF adapters, and {model.name} is no GGUF file",
                        where=where,
                        remedy="name the PEFT folders they were made of",
                    )
                loras = [to_gguf(lora, GgufBase(model.name, header), where=where) for lora in loras]
            try:
                made = combine(loras, [weight for _, weight in mixture.weights], mixture.form, mixture.rank)
            except ConfigError as why:
                raise ConfigError(why.what, where=where, remedy=why.remedy) from why
            if header is not None:
                base = GgufBase(model.name, header)
                write_gguf(to_gguf(made, base, where=where), out, base.family, exact=True)
            else:
                save_peft(made, out)

        return self._made([spec.sha256, model.sha256], f"{name}.gguf" if header is not None else name, make)

    def _made(self, material: list[str | None], name: str, make: Callable[[Path], None]) -> Path:
        """The file (or folder) `name` that `make` writes, once per material; made anew where it has changed since."""
        key = hashlib.sha256(json.dumps([_VERSION, *material, name.endswith(".gguf")]).encode()).hexdigest()
        folder = cache_folder() / "adapters" / key
        for found in folder.glob("*"):
            note = folder.with_name(f"{key}.sha256")
            if note.is_file() and note.read_text() == _digest(found):
                return found
        with replacing(folder) as fresh:
            make(fresh / name)
        folder.with_name(f"{key}.sha256").write_text(_digest(folder / name))
        return folder / name


def _digest(path: Path) -> str:
    return sha_of(path) if path.is_file() or is_peft(path) else ""


def is_adapter(path: Path) -> bool:
    """Whether a file or folder is a LoRA adapter, and no model."""
    if path.is_dir():
        return is_peft(path)
    return is_gguf(path) and read_header(path).metadata.get("general.type") == "adapter"
