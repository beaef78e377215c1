"""Named fields out of one or two sentences, written as a JSON object.

Promise: three to six fields of one domain, the keys in the order asked; whole numbers and
prices are JSON numbers, all else is a string copied from the text. The sentences may say
more than is asked. Domains and sentence shapes are in `shapes.py`.
"""

from __future__ import annotations

import json
from random import Random

from evals.tasks.skills.item import Problem, Skill, Split, Wordings
from evals.tasks.skills.shapes import DOMAINS, Domain, Value

WORDINGS = {
    "extract": Wordings(
        train=(
            "extract {f} as JSON: {s}",
            "extract {f} as JSON. {s}",
            "extract the fields {f} as JSON. Text: {s}",
            "extract {f} from this text as JSON: {s}",
            "extract {f}: {s}",
            "extract JSON with {f} from: {s}",
            "give me JSON with {f}: {s}",
            "give {f} as a JSON object. {s}",
            "JSON with {f}: {s}",
            "JSON ({f}): {s}",
            "{s} Extract {f} as JSON.",
            "{s} Give me {f} as JSON.",
            "{s} Return {f} as JSON.",
            "{s} Write {f} as a JSON object.",
            "{s} JSON with {f}, please.",
            "{s} Put {f} into JSON.",
            "read the text and return JSON with {f}. {s}",
            "return a JSON object with {f} for: {s}",
            "return {f} in JSON. Text: {s}",
            "turn this into JSON with the keys {f}: {s}",
            "turn this sentence into JSON ({f}): {s}",
            "convert to JSON with {f}: {s}",
            "convert the text into JSON, fields {f}: {s}",
            "write JSON with the keys {f} for this text: {s}",
            "fill in the JSON fields {f}: {s}",
            "find {f} in the text and answer in JSON: {s}",
            "pull out {f} as JSON: {s}",
            "get {f} as JSON from: {s}",
            "make a JSON record with {f}: {s}",
            "please extract {f} as JSON: {s}",
            "can you extract {f} as JSON? {s}",
            "could you turn this into JSON with {f}, please? {s}",
            "I need {f} in JSON form: {s}",
            "sort the facts into JSON, keys in the order {f}: {s}",
            "parse this, keys {f}: {s}",
            "parse into JSON ({f}): {s}",
            "text: {s} Fields: {f}. Answer in JSON.",
            "from '{s}' extract {f} as JSON.",
            "structure this as JSON with {f}: {s}",
            "what are {f} here? Answer as JSON. {s}",
            "summarise as JSON with {f}: {s}",
            "the note says: {s} Extract {f} as JSON.",
            "data entry: {f} as JSON. {s}",
        ),
        held=(
            "output {f} as JSON: {s}",
            "{s} List {f} in a JSON object.",
            "create JSON holding {f}: {s}",
            "collect {f} from this message as JSON: {s}",
            "would you give me {f} as JSON? {s}",
            "{s} I want JSON with {f}.",
            "represent the text as JSON with {f}: {s}",
            "identify {f} and reply in JSON: {s}",
            "build a JSON object ({f}) from: {s}",
            "grab {f} from the text, JSON only: {s}",
            "an email says: {s} Give {f} as JSON.",
            "keys {f}, as JSON: {s}",
        ),
        test=(
            "take {f} from the text and write them as JSON: {s}",
            "{s} From this, produce JSON with {f}.",
            "I'd like a JSON object with {f}. Here is the text: {s}",
            "produce a JSON object containing {f} from this: {s}",
            "look at this: {s} Now give {f} in JSON format.",
            "help me fill a form. JSON with {f}, text: {s}",
            "format {f} as JSON. Source: {s}",
            "which {f} does the text give? Reply with JSON. {s}",
            "as JSON, please: {f}. {s}",
            "my colleague wrote: {s} Extract {f} into JSON.",
            "reply only with JSON ({f}) for the following: {s}",
            "read this and fill {f} in JSON: {s}",
        ),
    )
}


def draw(rng: Random, split: Split) -> Problem:
    """One text and the fields asked of it; the facts alone make the problem."""
    domain = rng.choice(DOMAINS)
    facts = {name: rng.choice(pool) for name, pool in domain.fields.items()}
    shape = rng.choice(_shapes(domain, split))
    asked = rng.sample(list(facts), rng.randint(3, min(6, len(facts))))
    gold: dict[str, Value] = {name: facts[name] for name in asked}
    answer = json.dumps(gold, ensure_ascii=False, separators=(",", ":"))
    text = shape.format_map({name: str(value) for name, value in facts.items()})
    key = domain.name + json.dumps(facts, sort_keys=True)
    return Problem("extract", key, {"f": _named(rng, asked), "s": text}, answer, "json", answer)


def _shapes(domain: Domain, split: Split) -> tuple[str, ...]:
    """Sentences follow the rule of the wordings: the ones of test are never trained on."""
    return domain.shapes.of(split)


def _named(rng: Random, names: list[str]) -> str:
    """The wanted fields, with or without an `and`."""
    if rng.random() < 0.5:
        return ", ".join(names)
    return ", ".join(names[:-1]) + " and " + names[-1]


SKILL = Skill("extraction", "extraction", draw, WORDINGS)
