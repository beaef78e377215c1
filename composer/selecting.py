"""Chooses a few experts of many by labelled examples: those that solve them, follow the reasons given, and differ from
each other (METHODS H)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError
from composer.jsonl import read_questions
from composer.marks import check_programs
from composer.pipeline import Pipeline
from composer.profile import Profile, measure
from composer.reasoning import Followed, follow
from composer.registry.experts import Registry
from composer.registry.lora import Lora, load_lora, similarity

Numbers = NDArray[np.float64]

_ENUMERATED = 20_000  # sets of experts that are all looked at; of more, the best is built up one by one
_ALIKE = 0.5  # correlation of right and wrong from which two experts may become one


@dataclass(frozen=True, slots=True)
class Judged:
    """An expert on the examples: its share of right answers, its rank among all (1: the best) by these and by how well it
    follows the rationales, whether it was chosen; of one that was not, the chosen one most like it, their correlation,
    and the weights of their mixture. `perplexity` and `bits` per character are of the rationales (None: not scored)."""

    name: str
    right: float
    quality: float
    chosen: bool
    like: str | None = None
    correlation: float | None = None
    weights: tuple[float, float] | None = None
    perplexity: float | None = None
    bits: float | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Every expert, best first, and what is to be said of how they were ranked."""

    experts: tuple[Judged, ...]
    notes: tuple[str, ...] = ()


def select(pipeline: Pipeline, data: Path, keep: int, *, diversity: float = 0.5, run_code: bool = False) -> Selection:
    """Ask every expert the questions in `data`, have it score the rationales there, and judge it; `keep` of them are
    chosen, with this much weight on how they differ. Drafts come from the store where they are there; the profile is not touched. Closes the pipeline.

    Raises InputError where no row can be used, or there are not more experts than `keep`.
    """
    registry = pipeline.registry
    names = [name for name, expert in registry.settings.experts.items() if expert.writes == "answers" and expert.prose]
    if not 1 <= keep < len(names):
        raise InputError(
            f"{keep} of {len(names)} experts is no choice", where="--keep", remedy="keep fewer than there are"
        )
    items = read_questions(data, labelled=True).rows
    if not items:
        raise InputError("no row can be used", where=str(data), remedy="give rows a question and its answer")
    check_programs(items, str(data), run_code=run_code)
    blank = np.zeros((len(items), 1), dtype=np.float32)  # nothing is routed: the questions need no vectors
    with pipeline:
        asked = measure(
            items, pipeline.pool, registry, blank, encoder="", prints=registry.prints(), arms=names, run_code=run_code
        )
        profile = pipeline.complete(asked)
        reasoning = pipeline.complete(follow(items, pipeline.pool, registry, names))
    scores, answers = _columns(profile, names)
    distance = distances(registry, names, answers)
    quality = quality_of(np.nanmean(scores, axis=0), [reasoning.experts.get(name) for name in names])
    chosen = choose(quality, distance, keep, diversity)
    found = judged(names, scores, quality, chosen, mixable(registry, names))
    return Selection(tuple(with_reasoning(found, reasoning.experts)), reasoning.notes)


def quality_of(right: Numbers, followed: Sequence[Followed | None]) -> Numbers:
    """The mean of two ranks: of right answers, and of bits per character of the rationales (few are good); of an expert
    without these, the first alone. On one tokenizer bits and perplexities have one order, across several only bits do.

    >>> guesser, solver = Followed(perplexity=9.0, bits=2.0), Followed(perplexity=2.0, bits=0.6)
    >>> quality_of(np.array([0.8, 0.8, 0.2]), [guesser, solver, None]).tolist()
    [0.375, 0.875, 0.0]
    """
    quality = ranked(right)
    scored = [i for i, one in enumerate(followed) if one is not None]
    if len(scored) > 1:
        quality[scored] = (quality[scored] + ranked(np.array([-one.bits for one in followed if one is not None]))) / 2
    return quality


def with_reasoning(found: Sequence[Judged], followed: Mapping[str, Followed]) -> list[Judged]:
    """The same, with what was found about rationales."""
    return [
        replace(one, perplexity=followed[one.name].perplexity, bits=followed[one.name].bits)
        if one.name in followed
        else one
        for one in found
    ]


def ranked(values: Numbers) -> Numbers:
    """Ranks from 0 to 1, the largest 1; equals share the mean of theirs.

    >>> ranked(np.array([0.2, 0.9, 0.2, 0.5])).round(2).tolist()
    [0.17, 1.0, 0.17, 0.67]
    """
    less = (values[None] < values[:, None]).sum(axis=1)
    equal = (values[None] == values[:, None]).sum(axis=1)
    return np.asarray((less + (equal - 1) / 2) / max(len(values) - 1, 1), dtype=np.float64)


def choose(quality: Numbers, distance: Numbers, keep: int, diversity: float = 0.5) -> list[int]:
    """The set of `keep` with the largest mean quality + diversity * mean distance between its members, among the 3 * keep
    best; found by looking at all sets where there are few, else built up from the best one.

    >>> quality, same = np.array([1.0, 0.9, 0.6]), np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0.0]])
    >>> choose(quality, same, 2), choose(quality, same, 2, diversity=0)
    ([0, 2], [0, 1])
    """
    best = sorted(range(len(quality)), key=lambda i: (-quality[i], i))[: 3 * keep]

    def worth(members: Sequence[int]) -> float:
        pairs = [float(distance[i, j]) for i, j in combinations(members, 2)]
        apart = sum(pairs) / len(pairs) if pairs else 0.0
        return float(np.mean(quality[list(members)])) + diversity * apart

    if math.comb(len(best), keep) <= _ENUMERATED:
        found = max(combinations(best, keep), key=worth)
        return sorted(found)
    members = best[:1]
    while len(members) < keep:
        members.append(max((i for i in best if i not in members), key=lambda i: worth([*members, i])))
    return sorted(members)


def judged(
    names: Sequence[str], scores: Numbers, quality: Numbers, chosen: Sequence[int], may_mix: Numbers
) -> list[Judged]:
    """Every expert, best first. One that was not chosen is held against the chosen ones it may be mixed with, by which
    questions both get right; the weights of the mixture are how often each is the best (METHODS I.9)."""
    credit = _credit(scores)
    found = []
    for i in sorted(range(len(names)), key=lambda i: (i not in chosen, -quality[i], i)):
        alike = [(correlation(scores[:, i], scores[:, j]), j) for j in chosen if i not in chosen and may_mix[i, j]]
        near, place = max(alike, default=(0.0, -1))
        weights = None
        if near >= _ALIKE:
            own, other = float(credit[i]), float(credit[place])
            weights = (own / (own + other), other / (own + other)) if own + other else (0.5, 0.5)
        found.append(
            Judged(
                names[i],
                float(np.nanmean(scores[:, i])),
                float(quality[i]),
                i in chosen,
                names[place] if alike else None,
                near if alike else None,
                weights,
            )
        )
    return found


def correlation(one: Numbers, other: Numbers) -> float:
    """Of right and wrong over the questions both were asked; 0 where either is always the same."""
    both = ~(np.isnan(one) | np.isnan(other))
    a, b = one[both], other[both]
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def distances(registry: Registry, names: Sequence[str], answers: Sequence[Mapping[str, str]]) -> Numbers:
    """How much two experts differ: for adapters on one model by what they change, else by how often their answers do."""
    found = np.zeros((len(names), len(names)))
    adapters = _loaded(registry, names)
    for i, j in combinations(range(len(names)), 2):
        one, other = (adapters.get(names[k]) for k in (i, j))
        if one is not None and other is not None and may_mix(registry, names[i], names[j]):
            apart = 1 - similarity(one, other)
        else:
            shared = answers[i].keys() & answers[j].keys()
            apart = sum(answers[i][q] != answers[j][q] for q in shared) / len(shared) if shared else 1.0
        found[i, j] = found[j, i] = apart
    return found


def may_mix(registry: Registry, one: str, other: str) -> bool:
    """Whether both are adapters with files of their own, on one model."""
    specs = [registry.settings.experts[name] for name in (one, other)]
    return specs[0].model == specs[1].model and all(
        spec.adapter is not None and spec.adapter.path is not None for spec in specs
    )


def mixable(registry: Registry, names: Sequence[str]) -> Numbers:
    """`may_mix` of all pairs."""
    return np.array([[may_mix(registry, one, other) for other in names] for one in names], dtype=np.float64)


def lines(found: Sequence[Judged]) -> list[str]:
    """A table for people, and how to make one expert of two that are alike."""
    width = max(len(one.name) for one in found)
    told = []
    for one in found:
        note = "keep" if one.chosen else ""
        if one.weights is not None and one.like is not None:
            own, other = one.weights
            note = f"like {one.like} ({one.correlation:.2f}): coe experts add --sum {one.like}={other:.2f},{one.name}={own:.2f}"
        reasons = "" if one.bits is None else f"perplexity {one.perplexity:.2f} ({one.bits:.3f} bits a character)  "
        told.append(f"{one.name:{width}}  right {one.right:.2f}  {reasons}rank {one.quality:.2f}  {note}".rstrip())
    return told


def data_of(found: Sequence[Judged]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [asdict(one) for one in found]


def _credit(scores: Numbers) -> Numbers:
    """How often each expert is the best on a question that somebody gets right; equals share it."""
    known = np.nan_to_num(scores, nan=0.0)
    best = (known == known.max(axis=1, keepdims=True)) & (known > 0)
    return np.asarray((best / np.maximum(best.sum(axis=1, keepdims=True), 1)).sum(axis=0), dtype=np.float64)


def _columns(profile: Profile, names: Sequence[str]) -> tuple[Numbers, list[dict[str, str]]]:
    """Scores [question, expert] (NaN: not observed), and each expert's answers by question."""
    rows = profile.table.select(["question", "arm", "score", "answer"]).to_pylist()
    place = {question: i for i, question in enumerate(dict.fromkeys(row["question"] for row in rows))}
    scores = np.full((len(place), len(names)), np.nan)
    answers: list[dict[str, str]] = [{} for _ in names]
    for row in rows:
        column = names.index(row["arm"])
        scores[place[row["question"]], column] = row["score"]
        answers[column][row["question"]] = row["answer"] or ""
    if unseen := [name for name, column in zip(names, scores.T, strict=True) if np.isnan(column).all()]:
        raise InputError(f"no call to {', '.join(unseen)} gave an answer", remedy="coe experts check")
    return scores, answers


def _loaded(registry: Registry, names: Sequence[str]) -> dict[str, Lora]:
    """The adapters with files of their own, as their host loads them."""
    found = {}
    for name in names:
        expert = registry.settings.experts[name]
        if expert.adapter is None or expert.adapter.path is None:
            continue
        # What a host loads is in one form for all of its adapters.
        found[name] = load_lora(registry.host(expert.model, [name]).adapters[0].path)
    return found
