"""The skill finder on real vectors: what a question asks for decides, not the words on its surface."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from composer.registry.experts import Registry
from evals.tasks import skills as tasks
from routers.embed import OnnxEncoder
from routers.skills import Found, SkillFinder
from routers.types import Questions

GENERAL = Path(tasks.__file__).parent / "general_profile.jsonl"
MISLEADING = {
    "Sort out this total for me: 31 plus 44": "arithmetic",
    "Read this text and return the total: 14 plus 9": "arithmetic",
    "On Monday I ate 13 nuts and 28 more later. How many nuts is that?": "arithmetic",
    "Add up the list in alphabetical order: tiger, moon, bread, glass": "sorting",
    "Convert these words to dictionary order: pear, lamp, brick, zebra": "sorting",
    "Calculate JSON with item, price, stock: The red lamp by Orion costs 12 dollars; 5 are in stock.": "extraction",
    "Count the fields event, day, place and write them as JSON: The concert is on Friday in City Hall.": "extraction",
    "Sort out how many minutes there are in 7 hours": "units",
    "Extract the number of centimetres in 4 metres": "units",
    "If I add up 9 feet, how many inches is that?": "units",
}


def labelled(encoder: OnnxEncoder, split: tasks.Split, n: int) -> Questions:
    items = [item for skill in tasks.DEFAULT for item in tasks.items(skill, split, n)]
    text, skills = [item.question for item in items], [(item.task,) for item in items]
    if split == "profile":
        rows = [json.loads(line) for line in GENERAL.read_text().splitlines()]
        text += [row["question"] for row in rows]
        skills += [(row["task"],) for row in rows]
    return Questions(tuple(text), tuple(text), encoder.encode(text), tuple(skills))


@pytest.fixture(scope="module")
def encoder(packaged: Registry) -> OnnxEncoder:
    return OnnxEncoder(*packaged.encoder_files())


@pytest.fixture(scope="module")
def finder(encoder: OnnxEncoder) -> SkillFinder:
    return SkillFinder().fit(labelled(encoder, "profile", 50))


def strongest(found: Found) -> list[str]:
    return [found.skills[place] for place in found.weights.argmax(axis=1)]


def test_skills_of_new_questions_are_found(encoder: OnnxEncoder, finder: SkillFinder) -> None:
    asked = labelled(encoder, "calibration", 25)

    named = strongest(finder.find(asked.vectors))

    assert np.mean([name == own[0] for name, own in zip(named, asked.skills, strict=True)]) >= 0.95


def test_what_is_asked_decides_and_not_the_words_on_the_surface(encoder: OnnxEncoder, finder: SkillFinder) -> None:
    named = strongest(finder.find(encoder.encode(list(MISLEADING))))

    right = [name == skill for name, skill in zip(named, MISLEADING.values(), strict=True)]
    assert sum(right) >= 9, [text for text, own in zip(MISLEADING, right, strict=True) if not own]


def test_a_text_unlike_everything_has_no_skill(encoder: OnnxEncoder, finder: SkillFinder) -> None:
    found = finder.find(encoder.encode(["def main(argv): raise SystemExit", "Der Zug nach Bern hat Verspätung"]))

    assert found.near.tolist() == [False, False]
    assert not found.weights.any()
