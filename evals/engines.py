"""Do the packaged specialists know as much through another engine? The same questions through llama.cpp and through vLLM.

llama.cpp serves the Q4_1 file with GGUF adapters, vLLM the same file as a folder (bfloat16) with the PEFT adapters they
were made of, both greedily. Tokens part at near-ties, so scores are compared, paired by question, and never texts.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from composer.config import PACKAGED
from composer.engines.transformers import MAKE_ONE as TORCH
from composer.engines.vllm_keeper import MAKE_ONE as VLLM
from composer.errors import InputError, suggest
from composer.pipeline import Pipeline
from composer.registry.cache import Cache
from composer.registry.experts import Registry
from composer.registry.hf import digest
from composer.registry.to_hf import converted
from composer.registry.vllm_home import find_python, torch_versions, vllm_version
from composer.settings.adapter import AdapterSpec, folder_sha
from composer.settings.sources import PathSource
from composer.settings.specs import Settings
from composer.types import DEFAULT_ENGINE, Scalar
from evals.metrics import Gap, Result, Row, gap, row
from evals.runner import Table, ask_all
from evals.tasks.skills import DEFAULT, Item, items

GROUPS = (*DEFAULT, "all")
CONTRASTING = (DEFAULT_ENGINE, "vllm", "transformers")  # that decode several streams together
_SEED = 1  # of the test questions, as in `coe eval skills`


@dataclass(frozen=True, slots=True)
class Report:
    """Rows per engine and skill; the second engine minus the first per group; wall seconds per engine, loading included."""

    rows: tuple[Row, ...]
    gaps: Mapping[str, Gap]
    seconds: Mapping[str, float]


def evaluate(systems: Mapping[str, Settings], n: int, say: Callable[[str], None], *, offline: bool = False) -> Report:
    """Ask each skill's specialist `n` held-out questions through each of two systems."""
    asked = [item for skill in DEFAULT for item in items(skill, "test", n, _SEED)]
    place = {skill: [i for i, item in enumerate(asked) if item.task == skill] for skill in DEFAULT}
    place["all"] = list(range(len(asked)))
    results, seconds = [], {}
    for name, settings in systems.items():
        say(f"asking {len(asked)} questions through {name}")
        began = time.monotonic()
        with Pipeline(settings, offline=offline, say=say) as pipeline:
            tables = pipeline.complete(_ask(pipeline, asked))
        seconds[name] = time.monotonic() - began
        results.append(_result(name, tables))
    rows = [row(result, group, place[group]) for result in results for group in GROUPS]
    first, second = results
    return Report(tuple(rows), {group: gap(second, first, place[group]) for group in GROUPS}, seconds)


def through_vllm(settings: Settings, folder: Path, options: Mapping[str, Scalar]) -> Settings:
    """The packaged registry with its model from a folder, served by vLLM, and its adapters from their PEFT folders."""
    return _through(settings, "vllm", 16, folder, {"dtype": "bfloat16"} | dict(options))


def served_by(settings: Settings, engine: str, *, offline: bool = False) -> Settings:
    """The packaged registry served by one of `CONTRASTING`: vLLM in process (bfloat16), or transformers (float32). Raises
    InputError for another name and where it is not installed, ConvertError, SourceError."""
    if engine not in CONTRASTING:
        raise InputError(f"{engine!r} is no engine here", where="--engine", remedy=suggest(engine, CONTRASTING))
    if engine == DEFAULT_ENGINE:
        return settings
    python = find_python(None)
    vllm = engine == "vllm"
    missing = (
        vllm_version(python) == "unknown" if vllm else not {"torch", "peft"} <= set(torch_versions(python).split())
    )
    if missing:
        what = "vLLM is not" if vllm else "torch, transformers and peft are not all"
        raise InputError(f"{what} installed for {python}", where=f"--engine {engine}", remedy=VLLM if vllm else TORCH)
    folder = as_folder(settings, python, offline=offline)
    if vllm:
        return through_vllm(settings, folder, {"python": python, "in_process": True})
    return _through(settings, engine, 8, folder, {"dtype": "float32", "python": python})


def _through(settings: Settings, engine: str, slots: int, folder: Path, options: Mapping[str, Scalar]) -> Settings:
    [model] = settings.models.values()
    served = replace(
        model,
        engine=engine,
        sources=(PathSource(str(folder)),),
        sha256=digest(folder, Cache()),
        memory=None,
        slots=slots,
        options=tuple(options.items()),
    )
    experts = {
        name: replace(expert, adapter=_peft(PACKAGED / "adapters" / name)) if expert.adapter else expert
        for name, expert in settings.experts.items()
    }
    return replace(settings, models={model.name: served}, experts=experts)


def as_folder(settings: Settings, python: str, *, offline: bool = False) -> Path:
    """The packaged model's file as a folder; made once per machine."""
    [model] = settings.models.values()
    weights = Registry(settings, offline=offline).host(model.name, ()).path
    assert weights is not None and model.sha256 is not None
    return converted(weights, model.sha256, python=python)


def told(report: Report) -> list[str]:
    """A line per group: the difference in points, and its interval; then the seconds."""
    lines = []
    for group, found in report.gaps.items():
        interval = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        lines.append(f"{found.system} - {found.other}, {group:12} {100 * found.mean:+6.1f}  {interval}")
    return [*lines, *(f"{name}: {seconds:.0f} s in all" for name, seconds in report.seconds.items())]


async def _ask(pipeline: Pipeline, asked: Sequence[Item]) -> list[Table]:
    """All skills at once: an engine that mixes adapters in a batch may do so."""
    groups = {skill: [item for item in asked if item.task == skill] for skill in DEFAULT}
    work = (ask_all(pipeline, pipeline.registry, group, [skill], {}) for skill, group in groups.items())
    return list(await asyncio.gather(*work))


def _result(name: str, tables: Sequence[Table]) -> Result:
    right = np.concatenate([table.right[:, 0] for table in tables])
    tokens = np.concatenate([table.tokens[:, 0] for table in tables])
    seconds = np.concatenate([table.seconds[:, 0] for table in tables])
    return Result(name, right, np.ones(len(right)), tokens, seconds)


def _peft(folder: Path) -> AdapterSpec:
    files = ("adapter_config.json", "adapter_model.safetensors")
    return AdapterSpec(
        folder, folder_sha(*(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files))
    )
