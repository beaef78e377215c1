"""Invented things and their attributes: a corpus that no model knows, with questions of which half have no document.

Names and values are drawn by a seed, so without a document nothing but luck answers. Of the questions that no document
answers, half are about a thing whose namesakes have documents (they share a word of its name), half about a thing whose document
tells everything else: to both a search finds something, and it misleads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from composer.errors import InputError
from composer.jsonl import Labelled, Question
from composer.retrieval.documents import Document
from evals.tasks.passages.corpus import Corpus

MOST = 800
"""Questions that a corpus may have."""

Case = Literal["covered", "namesake", "silent"]
"""Whether a document tells the answer; else only documents of namesakes are there, or one that is silent on it."""

_KINDS = ("village", "ship", "lighthouse", "library", "school", "mine", "garden", "hotel", "theatre", "castle")
_FIRST = ("Anna", "Boris", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karla", "Leo", "Marta", "Oskar", "Paula", "Rosa", "Simon", "Tilda", "Viktor", "Wanda")  # fmt: skip
_LEFT = ("amber", "apple", "autumn", "birch", "black", "blue", "bronze", "butter", "candle", "cherry", "clover", "copper", "coral", "cotton", "crystal", "dawn", "eagle", "ember", "fern", "fire", "frost", "ginger", "glass", "golden", "granite", "green", "hazel", "honey", "iron", "ivory", "jade", "lemon", "lily", "maple", "marble", "meadow", "mint", "moon", "mountain", "oak", "ocean", "olive", "orange", "pearl", "pepper", "pine", "plum", "rain", "raven", "river", "rose", "ruby", "salt", "shadow", "silk", "silver", "snow", "spring", "star", "stone", "storm", "summer", "sun", "thunder", "tiger", "velvet", "violet", "walnut", "willow", "winter")  # fmt: skip
_RIGHT = ("anchor", "apron", "arrow", "basket", "beard", "blanket", "bottle", "bread", "bridge", "brush", "bucket", "button", "camel", "castle", "chain", "chimney", "coat", "crown", "dancer", "donkey", "dragon", "engine", "feather", "finger", "flute", "garden", "glove", "guitar", "hammer", "hat", "helmet", "horn", "horse", "island", "jacket", "kettle", "king", "kitchen", "knife", "ladder", "lantern", "letter", "lion", "market", "mirror", "monkey", "needle", "novel", "orchard", "paper", "pencil", "piano", "pillow", "pocket", "prince", "rabbit", "ribbon", "saddle", "sailor", "scarf", "shoulder", "sister", "spoon", "sword", "temple", "ticket", "trumpet", "turtle", "wagon", "whistle")  # fmt: skip
_PATIENCE = 10_000
_LAST = ("Abbott", "Barlow", "Bishop", "Carter", "Chandler", "Cooper", "Dalton", "Dawson", "Ellis", "Fisher", "Foster", "Gibson", "Grant", "Harper", "Hayes", "Hudson", "Irving", "Jensen", "Keller", "Lambert", "Lawson", "Mason", "Meyer", "Morgan", "Nelson", "Norton", "Olsen", "Parker", "Pearson", "Porter", "Quinn", "Ramsey", "Reed", "Russell", "Sawyer", "Spencer", "Stone", "Sutton", "Taylor", "Turner", "Vance", "Wagner", "Walker", "Warren", "Weaver", "Webster", "Winters", "Wright", "York", "Ziegler")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attribute:
    """What may be told of a thing: two lists of words to draw from (`word` is one of each, joined by a space), and how a
    document tells it and a question asks for it, in one wording while profiling and in another while testing."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    told: str
    profile: str
    test: str


ATTRIBUTES: Mapping[str, Attribute] = {
    "count": Attribute(
        ("big", "blue", "broken", "cheap", "copper", "glass", "green", "iron", "new", "old", "paper", "red", "round",
         "silver", "small", "square", "steel", "white", "wooden", "yellow"),
        ("barrels", "bells", "benches", "candles", "carpets", "chairs", "clocks", "doors", "drums", "flags", "keys",
         "ladders", "lamps", "maps", "mirrors", "paintings", "ropes", "statues", "vases", "windows"),
        "The {kind} {name} has {value} {word}.",
        "How many {word} does the {kind} {name} have?",
        "What is the number of {word} of the {kind} {name}?",
    ),
    "person": Attribute(
        ("assistant", "chief", "day", "first", "former", "new", "night", "old", "second", "summer", "third", "weekend",
         "winter", "young"),
        ("accountant", "baker", "builder", "carpenter", "cleaner", "clerk", "cook", "director", "doctor", "driver",
         "gardener", "guard", "manager", "musician", "nurse", "owner", "painter", "secretary", "tailor", "teacher"),
        "The {word} of the {kind} {name} is {value}.",
        "Who is the {word} of the {kind} {name}?",
        "What is the name of the {word} of the {kind} {name}?",
    ),
    "year": Attribute(
        ("abandoned", "built", "closed", "inherited", "inspected", "measured", "painted", "photographed", "rebuilt",
         "renamed", "rented", "repaired", "robbed", "sold", "visited"),
        ("by artists", "by a bank", "by a baron", "by a bishop", "by a duke", "by farmers", "by a king", "by merchants",
         "by monks", "by nuns", "by a prince", "by a queen", "by sailors", "by soldiers", "by students"),
        "The {kind} {name} was {word} in {value}.",
        "In which year was the {kind} {name} {word}?",
        "When was the {kind} {name} {word}?",
    ),
}  # fmt: skip
"""The three facts of everything that is invented: a number of 112 to 989, a person, and a year of 1412 to 1889. All are read as
kind `text`: a small model that goes on after the number tells other numbers."""


@dataclass(frozen=True, slots=True)
class _Thing:
    kind: str
    name: str
    words: Mapping[str, str]  # by attribute
    values: Mapping[str, str]


def generate(n: int, seed: int = 0) -> Corpus:
    """`n` questions (a multiple of 8, at most `MOST`), half of them `profile` and half `test`, of each half of either covered by a document;
    the documents are shared. `task` says which case an item is: `invented-covered`, `invented-namesake`,
    `invented-silent`. The same for the same arguments. Raises InputError for another `n`."""
    if n % 8 or not 8 <= n <= MOST:
        raise InputError(f"a corpus of {n} questions cannot be made", remedy=f"ask for a multiple of 8, {MOST} at most")
    rng = Random(f"invented/{seed}")
    used: set[str] = set()
    documents: list[Document] = []
    items: list[Labelled] = []
    relevant: dict[str, tuple[str, ...]] = {}
    cases: Sequence[Case] = ("covered", "namesake", "covered", "silent")
    for place in range(n):
        case, split = cases[place % 4], "profile" if place < n // 2 else "test"
        asked = rng.choice(sorted(ATTRIBUTES))
        thing = _thing(rng, _fresh(rng, used))
        names = _namesakes(rng, thing.name, used)
        if case == "namesake":
            told = [_document(rng, _thing(rng, name, like=thing)) for name in names]
        else:
            own = _document(rng, thing, without=asked if case == "silent" else None)
            told = [own, *(_document(rng, _thing(rng, name, kind=thing.kind), without=asked) for name in names)]
        documents += told
        name = f"invented-{seed}-{place:05d}"
        if case == "covered":
            relevant[name] = (told[0].name,)
        attribute = ATTRIBUTES[asked]
        form = attribute.profile if split == "profile" else attribute.test
        question = form.format(kind=thing.kind, name=thing.name, word=thing.words[asked])
        items.append(
            Labelled(Question(name, question, (), "text", place + 1), thing.values[asked], f"invented-{case}", split)
        )
    rng.shuffle(documents)
    return Corpus("invented", tuple(documents), tuple(items), relevant)


def _thing(rng: Random, name: str, *, kind: str | None = None, like: _Thing | None = None) -> _Thing:
    """A thing with drawn facts; `like` another it has the same kind and is told the same of, but nothing of it is equal."""
    values: dict[str, str] = {}
    for attribute in ATTRIBUTES:
        while (value := _value(rng, attribute)) in (like.values.values() if like else ()):
            pass
        values[attribute] = value
    if like is not None:
        return _Thing(like.kind, name, like.words, values)
    words = {
        attribute: f"{rng.choice(about.first)} {rng.choice(about.second)}" for attribute, about in ATTRIBUTES.items()
    }
    return _Thing(kind or rng.choice(_KINDS), name, words, values)


def _value(rng: Random, attribute: str) -> str:
    if attribute == "count":
        return str(rng.randint(112, 989))
    return str(rng.randint(1412, 1889)) if attribute == "year" else f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"


def _document(rng: Random, thing: _Thing, without: str | None = None) -> Document:
    told = [
        about.told.format(kind=thing.kind, name=thing.name, word=thing.words[attribute], value=thing.values[attribute])
        for attribute, about in ATTRIBUTES.items()
        if attribute != without
    ]
    rng.shuffle(told)
    return Document(thing.name.lower().replace(" ", "-"), " ".join(told), thing.name)


def _fresh(rng: Random, used: set[str]) -> str:
    """A name of two words that nobody has yet: `Copper Trumpet`."""
    return _named(used, lambda: (rng.choice(_LEFT), rng.choice(_RIGHT)))


def _namesakes(rng: Random, name: str, used: set[str]) -> list[str]:
    """Two names that share a word with `name`, the first its first and the second its last."""
    left, right = name.lower().split()
    return [
        _named(used, lambda: (left, rng.choice(_RIGHT))),
        _named(used, lambda: (rng.choice(_LEFT), right)),
    ]


def _named(used: set[str], draw: Callable[[], tuple[str, str]]) -> str:
    for _ in range(_PATIENCE):
        name = " ".join(draw()).title()
        if name not in used:
            used.add(name)
            return name
    raise InputError("there are not enough names for so many questions", remedy=f"ask for {MOST} at most")
