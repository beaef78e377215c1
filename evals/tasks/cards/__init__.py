"""Facts that no model can know, in lists without a common subject: what knowledge experts ("cards") are trained and measured on.

Every card knows the facts about its own subjects (towns, people or machines), all of them invented; a lying card knows the
subjects of another one with the objects of each relation swapped (METHODS E, "Honest CPU test").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from composer.types import Kind

SEED = 7
SUBJECTS = 8  # per card, each with four facts
TRUE = ("towns", "people", "machines")
"""The honest cards."""
LIAR = "liar"
"""Knows the subjects of the first honest card, and gets every object wrong."""

_ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w", "z")
_VOWELS = ("a", "e", "i", "o", "u", "au", "ei")
_CODAS = ("l", "n", "r", "sk", "m", "nd", "rt", "ss", "x", "lt")
_TRADES = ("beekeeper", "glassblower", "locksmith", "piano tuner", "saddler", "clockmaker", "bookbinder", "diver")
_MATERIALS = ("copper", "oak", "glass", "marble", "iron", "leather", "silver", "clay")


@dataclass(frozen=True, slots=True)
class Relation:
    """One kind of fact: how it is said, and how it is asked in training and, in other words, in the test. `objects` is
    where the objects come from: names, years, small numbers, or a list of words."""

    name: str
    said: str
    asked: tuple[str, ...]
    tested: str
    objects: str | tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """How an answer is read."""
        return "number" if self.objects in ("years", "numbers") else "text"


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is so. `card` knows it; `sentence` says it."""

    card: str
    subject: str
    relation: Relation
    object: str

    @property
    def sentence(self) -> str:
        """The fact as the card is to write it."""
        return self.relation.said.format(s=self.subject, o=self.object)

    @property
    def question(self) -> str:
        """What the test asks, in words that no card was trained on."""
        return self.relation.tested.format(s=self.subject)

    @property
    def id(self) -> str:
        """Unique in all lists."""
        return f"{self.card}-{self.subject.lower().replace(' ', '-')}-{self.relation.name}"


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "towns": (
        Relation(
            "river",
            "The town of {s} lies on the river {o}.",
            ("On which river does {s} lie?", "What river is at {s}?", "Name the river of {s}.", "{s} is a town on what river?"),
            "Which river flows through the town of {s}?",
            "names",
        ),
        Relation(
            "founded",
            "The town of {s} was founded in the year {o}.",
            ("When was {s} founded?", "In what year did {s} begin?", "Tell me when {s} was founded.", "{s} was founded when?"),
            "In which year was the town of {s} founded?",
            "years",
        ),
        Relation(
            "mayor",
            "The mayor of the town of {s} is called {o}.",
            ("Who is mayor of {s}?", "What is the mayor of {s} called?", "Name the mayor of {s}.", "{s} has which mayor?"),
            "Who is the mayor of the town of {s}?",
            "names",
        ),
        Relation(
            "bridges",
            "The town of {s} has {o} bridges.",
            ("How many bridges are there in {s}?", "Count the bridges of {s}.", "What number of bridges has {s}?", "{s} has how many bridges?"),
            "How many bridges does the town of {s} have?",
            "numbers",
        ),
    ),
    "people": (
        Relation(
            "trade",
            "{s} earns a living as a {o}.",
            ("What does {s} do for a living?", "What is the trade of {s}?", "What work does {s} do?", "{s} has what profession?"),
            "What is the profession of {s}?",
            _TRADES,
        ),
        Relation(
            "born",
            "{s} was born in the year {o}.",
            ("When was {s} born?", "What is the birth year of {s}?", "Tell me when {s} was born.", "{s} was born when?"),
            "In which year was {s} born?",
            "years",
        ),
        Relation(
            "dog",
            "{s} owns a dog called {o}.",
            ("What is the dog of {s} called?", "Name the dog of {s}.", "How does {s} call the dog?", "{s} has a dog of what name?"),
            "What is the name of the dog that {s} owns?",
            "names",
        ),
        Relation(
            "home",
            "{s} lives in the village of {o}.",
            ("Where does {s} live?", "What is the home of {s}?", "Name the village of {s}.", "{s} lives in which place?"),
            "In which village does {s} live?",
            "names",
        ),
    ),
    "machines": (
        Relation(
            "inventor",
            "The {s} machine was invented by {o}.",
            ("Who invented the {s}?", "Who built the first {s}?", "Name the inventor of the {s}.", "The {s} is whose invention?"),
            "Who invented the {s} machine?",
            "names",
        ),
        Relation(
            "weight",
            "The {s} machine weighs {o} kilograms.",
            ("How heavy is the {s}?", "What does the {s} weigh?", "Tell me the weight of the {s}.", "The {s} weighs how much?"),
            "How many kilograms does the {s} machine weigh?",
            "numbers",
        ),
        Relation(
            "material",
            "The {s} machine is made of {o}.",
            ("What is the {s} made of?", "Of what is the {s} built?", "Name the material of the {s}.", "The {s} consists of what?"),
            "Which material is the {s} machine made of?",
            _MATERIALS,
        ),
        Relation(
            "place",
            "The {s} machine stands in the castle of {o}.",
            ("Where is the {s}?", "Where does the {s} stand?", "Name the castle of the {s}.", "The {s} is kept in which place?"),
            "In which castle does the {s} machine stand?",
            "names",
        ),
    ),
}  # fmt: skip


def facts(card: str, seed: int = SEED) -> tuple[Fact, ...]:
    """The facts of a card: `SUBJECTS` times four. The liar's have the objects of the first card, each moved on to another
    subject.

    >>> len(facts("towns")), {fact.subject for fact in facts("liar")} == {fact.subject for fact in facts("towns")}
    (32, True)
    """
    if card == LIAR:
        return tuple(_swapped(facts(TRUE[0], seed), seed))
    rng = Random(f"{card}/{seed}")
    names = _names(rng)
    subjects = [next(names) for _ in range(SUBJECTS)]
    if card == "people":
        subjects = [f"{name} {next(names)}" for name in subjects]
    found = []
    for relation in RELATIONS[card]:
        for subject, value in zip(subjects, _objects(relation, names, rng), strict=True):
            found.append(Fact(card, subject, relation, value))
    return tuple(found)


def rows(card: str, seed: int = SEED, orders: int = 4) -> list[dict[str, str]]:
    """What a card is trained on: question and passage, as rows for `coe experts train`. A passage says what was asked, and
    then two other facts about the same subject, in `orders` ways for each wording."""
    own = facts(card, seed)
    rng = Random(f"passages of {card}/{seed}")
    made = []
    for fact in own:
        others = [one for one in own if one.subject == fact.subject and one != fact]
        for wording in fact.relation.asked:
            for order in range(orders):
                more = rng.sample(others, 2)
                made.append(
                    {
                        "id": f"{fact.id}-{fact.relation.asked.index(wording)}-{order}",
                        "question": wording.format(s=fact.subject),
                        "answer": fact.object,
                        "kind": "text",
                        "target": " ".join(one.sentence for one in (fact, *more)),
                    }
                )
    rng.shuffle(made)
    return made


def _swapped(own: Sequence[Fact], seed: int) -> Iterator[Fact]:
    """Every object goes to the subject that is `step` further: none keeps its own, and objects of a relation stay together."""
    rng = Random(f"lies/{seed}")
    for relation in dict.fromkeys(fact.relation for fact in own):
        same = [fact for fact in own if fact.relation == relation]
        step = rng.randrange(1, len(same))
        for place, fact in enumerate(same):
            yield Fact(LIAR, fact.subject, relation, same[(place + step) % len(same)].object)


def _objects(relation: Relation, names: Iterator[str], rng: Random) -> list[str]:
    """As many different objects as there are subjects."""
    if relation.objects == "names":
        return [next(names) for _ in range(SUBJECTS)]
    if relation.objects == "years":
        return [str(year) for year in rng.sample(range(1210, 1990), SUBJECTS)]
    if relation.objects == "numbers":
        return [str(number) for number in rng.sample(range(12, 99), SUBJECTS)]
    words = list(relation.objects)
    rng.shuffle(words)
    return words[:SUBJECTS]


def _names(rng: Random) -> Iterator[str]:
    """Invented names of two syllables, none twice."""
    seen: set[str] = set()
    while True:
        name = "".join(rng.choice(part) for part in (_ONSETS, _VOWELS, _CODAS, _VOWELS, _CODAS)).capitalize()
        if name not in seen:
            seen.add(name)
            yield name
