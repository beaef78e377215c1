"""Does composing pay? The default experts on unlabelled, mixed questions, against every simpler way to use them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from composer.config import PACKAGED
from composer.jsonl import Labelled, Question, read_questions
from composer.pipeline import Pipeline
from composer.plugins import load
from composer.profile import Profile, measure, read_profile
from composer.settings.adapter import AdapterSpec
from composer.settings.specs import ExpertSpec, Settings
from composer.types import Kind, Message
from evals import systems
from evals.metrics import Gap, Result, Row, gap, row
from evals.runner import Shots, Table, ask_all
from evals.tasks.skills import DEFAULT, Item, items
from routers.baselines import KeywordRouter, TfidfRouter
from routers.errors import RouterError
from routers.types import Questions, Router

HERE = Path(__file__).parent / "tasks" / "skills"
LATE = "dates"  # the specialist that joins after everything else is fixed
GROUPS = ("templates", "handwritten", "noskill", "misleading", "all")
EXTRA = "three-digit"
_SEED = 1  # of the test questions: replies to those of seed 0 were read while the specialists were trained

RULES: Mapping[str, Sequence[str]] = {
    "arithmetic": (
        "plus",
        "minus",
        "times",
        "add",
        "subtract",
        "sum",
        "difference",
        "product",
        "multiply",
        "multiplied",
    ),
    "sorting": ("sort", "alphabetical", "alphabetically", "order", "arrange", "alphabet"),
    "extraction": ("json", "extract", "fields", "field"),
    "units": (
        "convert",
        "minutes",
        "hours",
        "seconds",
        "feet",
        "inches",
        "meters",
        "metres",
        "grams",
        "kilograms",
        "days",
    ),
}
"""What a careful person writes down for a rule router, before seeing a test question."""

INSTRUCTION = (
    "Answer with the result only: a number for calculations and conversions, a comma separated list for sorting, "
    "a JSON object for extraction, a short phrase otherwise."
)
SHOTS: Sequence[tuple[str, str]] = (
    ("What is 12 + 30?", "42"),
    ("Sort these words alphabetically: pear, apple, fig, melon", "apple, fig, melon, pear"),
    (
        'Extract name, age and city as JSON: "Nora, 34, lives in Bergen."',
        '{"name": "Nora", "age": 34, "city": "Bergen"}',
    ),
    ("Convert 3 hours to minutes.", "180 minutes"),
)


@dataclass(frozen=True, slots=True)
class Report:
    """Rows of the four skills, rows after the late specialist joined, comparisons, and what could not be measured."""

    rows: tuple[Row, ...]
    late: tuple[Row, ...]
    gaps: tuple[Gap, ...]  # the router against every other system, on all questions
    notes: tuple[str, ...]


def test_items(n: int) -> dict[str, list[Item]]:
    """The test questions by group: `n` per skill from held-out templates, and all hand-written ones."""
    written = _read(HERE / "handwritten.jsonl")
    return {
        "templates": [item for skill in DEFAULT for item in items(skill, "test", n, _SEED)],
        "handwritten": [item for item in written if item.task in DEFAULT],
        "noskill": _read(HERE / "noskill.jsonl"),
        "misleading": _read(HERE / "misleading.jsonl"),
        EXTRA: items("arithmetic-3digit", "test", n, _SEED),
        LATE: items(LATE, "test", n, _SEED) + [item for item in written if item.task == LATE],
    }


def with_extras(settings: Settings) -> Settings:
    """The packaged experts and, beside them, the adapters that only the evaluation uses."""
    model = next(iter(settings.models))
    rows: Mapping[str, Mapping[str, Any]] = json.loads((HERE / "extras.json").read_text())
    extra = {
        name: ExpertSpec(
            name=name,
            model=model,
            adapter=AdapterSpec(_adapter(entry["path"]), entry["sha256"]),
            description=entry["description"],
            skills=(),
            answers=entry["answers"],
            sampling=replace(settings.models[model].sampling, max_tokens=entry["max_tokens"]),
            generalist=False,
        )
        for name, entry in rows.items()
    }
    return replace(settings, experts={**settings.experts, **extra})


def evaluate(pipeline: Pipeline, n: int, say: Callable[[str], None]) -> Report:
    """Ask all, grade all, read every system off the table. `pipeline` is made from `with_extras(...)`; it is closed."""
    groups = test_items(n)
    tested = [item for group in groups.values() for item in group]
    place: dict[str, list[int]] = {}
    for name, members in groups.items():
        start = sum(map(len, place.values()))
        place[name] = list(range(start, start + len(members)))
    place["all"] = [i for name in GROUPS[:-1] for i in place[name]]
    pool = [name for name in pipeline.settings.experts if name in DEFAULT or name == pipeline.registry.generalist]
    extras = [name for name in pipeline.settings.experts if name not in pool]
    shots = Shots(pipeline.registry.generalist, _turns())
    with pipeline:
        say(f"asking {len(pool) + len(extras) + 1} arms {len(tested)} questions")
        profile, after, notes = pipeline.complete(_profiles(pipeline, pool))
        table = pipeline.complete(
            ask_all(pipeline, pipeline.registry, tested, ["base", *pool, *extras], {"base": shots})
        )
        vectors = pipeline.encoder().encode([item.question for item in tested])
    questions = Questions(tuple(item.id for item in tested), tuple(item.question for item in tested), vectors)
    results = _first_part(pipeline, table, questions, pool, profile, notes)
    rows = [row(result, group, place[group]) for result in results for group in (*GROUPS, EXTRA)]
    late = [
        row(result, group, place[group])
        for result in _second_part(pipeline, table, questions, pool, after)
        for group in (*GROUPS, LATE)
    ]
    router = next(each for each in results if each.system == "router")
    gaps = tuple(gap(router, other, place["all"]) for other in results if other is not router)
    known = {(each.system, each.group) for each in rows}
    return Report(
        tuple(rows), tuple(each for each in late if (each.system, each.group) not in known), gaps, tuple(notes)
    )


def _first_part(
    pipeline: Pipeline, table: Table, questions: Questions, pool: Sequence[str], profile: Profile, notes: list[str]
) -> list[Result]:
    generalist = pipeline.registry.generalist
    found = [systems.single(table, "base", "base"), *(systems.single(table, arm) for arm in pool)]
    found += [systems.at_random(table, pool), systems.majority(table, pool)]
    makes: Sequence[tuple[str, Callable[[], Router]]] = (
        ("keywords", lambda: KeywordRouter(rules=RULES, generalist=generalist)),
        ("tfidf", lambda: TfidfRouter(generalist=generalist)),
    )
    for name, make in makes:
        try:
            found.append(systems.routed(table, name, _fitted(make(), pipeline, profile, pool), questions))
        except RouterError as why:  # scikit-learn comes with the test extra only
            notes.append(f"{name}: not measured: {why}")
    if "union" in table.arms:
        found.append(systems.single(table, "union", "union"))
    router = _fitted(load("routers", "skill")(generalist=generalist), pipeline, profile, pool)
    found.append(systems.routed(table, "router", router, questions, chosen=True))
    found.append(systems.oracle(table, pool))
    return found


def _second_part(
    pipeline: Pipeline, table: Table, questions: Questions, pool: Sequence[str], profile: Profile
) -> list[Result]:
    wider = [*pool, LATE]
    router = _fitted(load("routers", "skill")(generalist=pipeline.registry.generalist), pipeline, profile, wider)
    found = [systems.routed(table, "router+dates", router, questions, chosen=True)]
    found += [systems.single(table, name) for name in (LATE,) if name in table.arms]
    for arm, name in (("union", "union"), ("union5", "union retrained")):
        if arm in table.arms:
            found.append(systems.single(table, arm, name))
    return [*found, replace(systems.oracle(table, wider), system="oracle+dates")]


async def _profiles(pipeline: Pipeline, pool: Sequence[str]) -> tuple[Profile, Profile, list[str]]:
    """The packaged profile, and the one after `coe profile` has met the late specialist: nothing else is relearnt."""
    registry = pipeline.registry
    assert pipeline.settings.profile is not None
    profile = read_profile(pipeline.settings.profile, encoder=registry.encoder_sha)
    profile, stale = profile.without_stale(registry.prints())
    notes = [f"the packaged profile does not fit: {', '.join(stale)}"] if stale else []
    new = [
        Labelled(Question(item.id, item.question, (), item.kind, i), item.answer, item.task, item.split)
        for i, item in enumerate([*items(LATE, "profile", 60), *items(LATE, "calibration", 20)])
    ]
    vectors = pipeline.encoder().encode([labelled.question.text for labelled in new])
    arms = [*pool, LATE]
    prints = {name: registry.prints()[name] for name in arms}
    added = await measure(new, pipeline.pool, registry, vectors, arms=arms, encoder=registry.encoder_sha, prints=prints)
    return profile, profile.plus(added), notes


def _fitted(router: Router, pipeline: Pipeline, profile: Profile, pool: Sequence[str]) -> Router:
    arms = [arm for arm in pipeline.registry.arms() if arm.name in pool]
    questions, _ = profile.columns()
    return router.fit(questions, profile.outcomes(questions, arms))


def _turns() -> tuple[Message, ...]:
    turns = [Message("user", f"{INSTRUCTION}\n{SHOTS[0][0]}"), Message("assistant", SHOTS[0][1])]
    for question, answer in SHOTS[1:]:
        turns += [Message("user", question), Message("assistant", answer)]
    return tuple(turns)


def _read(path: Path) -> list[Item]:
    rows = read_questions(path, labelled=True).rows
    return [Item(r.question.id, r.question.text, r.answer, _kind(r), r.task or "none", "test") for r in rows]


def _kind(labelled: Labelled) -> Kind:
    assert labelled.question.kind is not None
    return labelled.question.kind


def _adapter(path: str) -> Path:
    """A file of the evaluation, or with `default:` one of the packaged data."""
    packaged = path.removeprefix("default:")
    return PACKAGED / packaged if packaged != path else HERE / path
