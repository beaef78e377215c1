"""A new expert for the registry file: what its weights are, whose base it fits, and what it has shown to be good at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from composer.config import load_settings
from composer.errors import ComposerError, ConfigError, InputError, suggest
from composer.jsonl import read_questions
from composer.locking import lock_experts
from composer.pipeline import Pipeline
from composer.profile import Profile, find_profile
from composer.profiling import ITEMS, profile_file
from composer.registry.adapters import check_adapter, check_base
from composer.registry.adapting import is_adapter, sha_of
from composer.registry.bases import GgufBase, check_weights, read_base
from composer.registry.experts import Registry
from composer.registry.gguf import read_header
from composer.registry.hf_row import chatting, context_of, folder_row
from composer.registry.lock import lock_file, read_lock, write_lock
from composer.registry.peft import check_peft, read_peft
from composer.rewrite import with_rows, write_registry
from composer.settings.specs import Settings
from routers.stats import paired_difference

WORTH = 0.01
"""The share of questions that a mixture may lose against a part of it and still stand in for it (METHODS I.9)."""

_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_LEAST = 8  # questions of a skill before it is believed


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows for the registry file: the expert's, and its model's where that is new too."""

    name: str
    row: Mapping[str, Any]
    model: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def text(self, before: str) -> str:
        """The registry file `before` with these rows."""
        if self.model is not None:
            before = with_rows(before, "models", {str(self.row["model"]): self.model})
        return with_rows(before, "experts", {self.name: self.row})


@dataclass(frozen=True, slots=True)
class Added:
    """An expert that was written into the registry file, and what is to be told of it."""

    plan: Plan
    lines: tuple[str, ...] = field(default=())


def plan_file(registry: Registry, path: Path, *, name: str | None, base: str | None) -> Plan:
    """The rows for a PEFT folder, a GGUF adapter, a GGUF model or a model's folder at `path`. Raises ConfigError where it
    is none of them, fits no model of the registry (`base`: that one), or fits several."""
    settings = registry.settings
    if not path.exists():
        raise ConfigError(f"{path} is not there", remedy="name a folder of a model or an adapter, or a GGUF file")
    check_weights(path, {}, where=str(path))
    taken = _free(settings, name or name_of(path))
    place = _shown(path, settings.path.parent)
    if is_adapter(path):
        model, notes = _base_of(registry, path, base)
        return Plan(taken, {"model": model, "adapter": {"path": place, "sha256": sha_of(path)}}, notes=notes)
    if base is not None:
        raise ConfigError(f"{path.name} is a model and has no base", where="--base", remedy="leave --base out")
    row, notes = (folder_row if path.is_dir() else _gguf_row)(path, place)
    if taken in settings.models:
        raise ConfigError(f"a model is called {taken!r} already", remedy="give another --name")
    return Plan(taken, {"model": taken}, row, notes)


def _gguf_row(path: Path, place: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The row of a GGUF model, and what is to be told of it."""
    header = read_header(path, where=str(path))
    length = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length")
    row: dict[str, Any] = {"sources": [place], "sha256": sha_of(path), "context": context_of(length)}
    return chatting(row, chats="tokenizer.chat_template" in header.metadata)


def plan_mixture(
    registry: Registry, weights: Mapping[str, float], *, form: str, rank: int | None, name: str | None
) -> Plan:
    """The row of a mixture of experts. Raises ConfigError for one that is not there."""
    settings = registry.settings
    for part in weights:
        if part not in settings.experts:
            raise ConfigError(f"no expert is called {part!r}", remedy=suggest(part, settings.experts))
    taken = _free(settings, name or "-".join(weights))
    adapter: dict[str, Any] = {form: dict(weights)}
    if rank is not None:
        adapter["rank"] = rank
    return Plan(taken, {"model": settings.experts[next(iter(weights))].model, "adapter": adapter})


def add(
    settings: Settings,
    plan: Plan,
    pipeline: Callable[[Path], Pipeline],
    *,
    skills: Sequence[str] | None,
    data: Path | None,
    measured: bool,
    run_code: bool = False,
) -> Added:
    """Write `plan` into the registry file and measure the new expert on `data` (None: the packaged questions); without
    `skills` it claims those that it has shown. If it cannot be measured, the file is as it was. Raises ComposerError."""
    before = settings.path.read_text(encoding="utf-8")
    locked = read_lock(lock_file(settings.path))
    if skills is not None:
        plan = replace(plan, row={**plan.row, "skills": list(skills)})
    write_registry(settings.path, plan.text(before))
    if locked is not None:  # whoever adds an expert means it; the others stay as they are locked
        lock_experts(Registry(load_settings(settings.path)), [plan.name])
    if not measured:
        return Added(plan, (*plan.notes, f"measure it with `coe profile` before `{plan.name}` is chosen"))
    try:
        report = profile_file(pipeline(settings.path), data, None, run_code=run_code, only=[plan.name])
        if plan.name not in report.profile.known:
            raise ConfigError(f"no call to {plan.name} gave an answer", remedy="coe experts check")
    except ComposerError:
        write_registry(settings.path, before)
        if locked is not None:
            write_lock(lock_file(settings.path), locked)
        raise
    registry = Registry(load_settings(settings.path))
    profile, _ = find_profile(registry)
    if skills is None:
        found = shown_skills(profile, plan.name, registry.generalist)
        plan = replace(plan, row={**plan.row, **_claims(found, data)})
        write_registry(settings.path, plan.text(before))
    lines = [*plan.notes, *scores_of(profile, plan.name, registry.generalist)]
    lines += stands_in(profile, plan.name, registry)
    return Added(plan, tuple(lines))


def shown_skills(profile: Profile, name: str, generalist: str) -> list[str]:
    """The skills at which `name` is better than the generalist, by a paired test over the same questions; without the
    generalist's record, those at which it is surely right more often than not."""
    found = []
    for skill, own, other in _by_skill(profile, name, generalist):
        if len(own) < _LEAST:
            continue
        if paired_difference(own, [0.5] * len(own) if other is None else other)[1] > 0:
            found.append(skill)
    return found


def scores_of(profile: Profile, name: str, generalist: str) -> Iterator[str]:
    """Per skill, how often it was right, and the generalist on the same questions."""
    for skill, own, other in _by_skill(profile, name, generalist):
        beside = "" if other is None else f", {generalist} {100 * sum(other) / len(other):.1f} %"
        yield f"{skill}: right {100 * sum(own) / len(own):.1f} % of {len(own)}{beside}"


def stands_in(profile: Profile, name: str, registry: Registry) -> Iterator[str]:
    """Of a mixture: what it loses against each of its parts, at the skills that the part claims."""
    spec = registry.settings.experts[name].adapter
    if spec is None or spec.mixture is None:
        return
    for part, _ in spec.mixture.weights:
        skills = registry.settings.experts[part].skills
        pairs = [
            (sum(own), sum(other), len(own))
            for skill, own, other in _by_skill(profile, name, part)
            if other is not None and (not skills or skill in skills)
        ]
        if not (n := sum(count for _, _, count in pairs)):
            yield f"{part}: not measured on the same questions, so nothing is known of what is lost"
            continue
        loss = (sum(other for _, other, _ in pairs) - sum(own for own, _, _ in pairs)) / n
        verdict = f"may stand in for {part}" if loss <= WORTH else f"keep {part}"
        yield f"against {part} on {n} of its questions: loses {100 * loss:.1f} points: {verdict}"


def _by_skill(profile: Profile, name: str, other: str) -> Iterator[tuple[str, list[float], list[float] | None]]:
    """Per skill the scores of `name`, and those of `other` on the same questions (None: it has none there)."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for row in profile.table.select(["skill", "arm", "question", "score"]).to_pylist():
        if row["arm"] in (name, other):
            scores.setdefault(row["skill"], {}).setdefault(row["arm"], {})[row["question"]] = row["score"]
    for skill, arms in sorted(scores.items()):
        own, theirs = arms.get(name, {}), arms.get(other, {})
        shared = [question for question in own if question in theirs]
        if shared and name != other:
            yield skill, [own[question] for question in shared], [theirs[question] for question in shared]
        elif own:
            yield skill, list(own.values()), None


def _claims(skills: Sequence[str], data: Path | None) -> dict[str, Any]:
    """The settings that say what it is good at, and how the answers to such questions are read where all are of a kind."""
    if not skills:
        return {}
    rows = read_questions(data or ITEMS, labelled=True).rows
    kinds = {row.question.kind for row in rows if row.task in skills}
    return {"skills": list(skills)} | ({"answers": kinds.pop()} if len(kinds) == 1 else {})


def _base_of(registry: Registry, path: Path, base: str | None) -> tuple[str, tuple[str, ...]]:
    """The model that an adapter was made for, by the names and shapes of its layers, and what to tell about it."""
    settings = registry.settings
    if base is not None and base not in settings.models:
        raise ConfigError(f"no model is called {base!r}", where="--base", remedy=suggest(base, settings.models))
    fits, reasons = [], []
    for name in [base] if base is not None else settings.models:
        try:
            _check_fit(registry, path, name)
            fits.append(name)
        except ComposerError as why:
            reasons.append(why)
    if len(fits) == 1:
        return fits[0], () if base is not None else (f"its layers fit {fits[0]}",)
    if base is not None:
        raise reasons[0]
    if fits:
        raise ConfigError(
            f"{path.name} fits several models: {', '.join(fits)}",
            where=str(path),
            remedy=f"say which: --base {fits[0]}",
        )
    raise ConfigError(
        f"{path.name} fits no model of the registry" + "".join(f"\n  {why.what}" for why in reasons),
        where=str(path),
        remedy="add the model it was trained on first: coe experts add MODEL (a GGUF file, or its folder)",
    )


def _check_fit(registry: Registry, path: Path, name: str) -> None:
    model = registry.settings.models[name]
    weights = registry.host(name, ()).path
    if weights is None:
        raise ConfigError(f"{name} is served by somebody else: its layers are not known", remedy="name its weights")
    where = str(path)
    if path.is_dir():
        found = read_base(weights, name, where=registry.where(name))
        check_peft(read_peft(path, where=where), found, declared=model.base, where=where)
        return
    if weights.is_dir():
        raise ConfigError(
            f"{name} is a folder, which takes no GGUF adapter", remedy="name the PEFT folder it was made of"
        )
    header = read_header(weights, where=registry.where(name))
    check_adapter(path, header, name=name, where=where)
    if model.base is not None:
        check_base(path, model.base, name=name, where=where)


def _free(settings: Settings, name: str) -> str:
    if name.casefold() in {known.casefold() for known in settings.experts}:
        raise InputError(f"an expert is called {name!r} already", remedy="give another --name")
    return name


def name_of(path: Path) -> str:
    """A name out of a path.

    >>> name_of(Path("adapters/My law (v2)")), name_of(Path("tiny.Q4_1.gguf"))
    ('my-law-v2', 'tiny.q4_1')
    """
    stem = path.name.removesuffix(".gguf")
    return _ODD.sub("-", stem).strip("-._").lower()[:64] or "expert"


def _shown(path: Path, folder: Path) -> str:
    """As the registry file may name it: relative inside its folder, else as it is."""
    full, inside = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return full.relative_to(inside).as_posix() if full.is_relative_to(inside) else str(full)


def base_for(registry: Registry, path: Path, base: str | None) -> tuple[GgufBase, str | None]:
    """The base to convert an adapter for, and what it calls itself: a GGUF file, a model of the registry, or (None) the
    one that fits. Raises ComposerError."""
    if base is not None and base not in registry.settings.models and Path(base).is_file():
        return GgufBase(Path(base).name, read_header(Path(base), where=base)), None
    name, _ = _base_of(registry, path, base)
    weights = registry.host(name, ()).path
    assert weights is not None
    if weights.is_dir():
        raise ConfigError(
            f"{name} is a folder, which takes the PEFT folder as it is", remedy="convert it for a GGUF base"
        )
    return GgufBase(name, read_header(weights, where=registry.where(name))), registry.settings.models[name].base
