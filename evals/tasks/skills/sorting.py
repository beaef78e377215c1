"""Putting four to eight letters or common lower-case words into alphabetical order.

Promise: ascending alphabetical order only. Letters may repeat, words do not. The answer
is the list, parted by a comma and a space.
"""

from __future__ import annotations

from random import Random

from evals.tasks.skills.item import Problem, Skill, Split, Wordings

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BANK = """
    air apple arm art baby bag ball bank barn bath bean bear bed bell belt bird boat bone book
    boot bowl box boy bread brick bridge brush bus butter cake camel camp card carpet carrot castle
    cat chair cheese cherry chicken child city clock cloud coat coffee coin color cook corn cotton
    cow cream cup curtain dance desk dinner doctor dog door dragon dream dress drum duck dust eagle
    ear earth egg elbow engine eye face family farm father feather field finger fire fish flag floor
    flower fly foot forest fork fox friend frog fruit garden gate ghost gift girl glass glove goat
    gold grape grass green guitar hair hammer hand hat heart hill home honey horse hotel house ice
    idea ink island jacket jam jar job judge juice jungle key king kitchen kite knee knife ladder
    lake lamp leaf leg lemon letter library light lion lip list lock lunch machine magic mango map
    market mask meal meat melon milk mirror money monkey moon morning mother mountain mouse mouth
    music nail name neck needle nest night noise nose nurse nut oak ocean office oil olive onion
    orange oven owl page paint pan paper park party path pea pear pen pencil pepper piano picture
    pie pig pillow pilot pizza plane plant plate pocket poem pond pool potato prince pump queen
    question quiet rabbit radio rain ring river road robot rock roof room root rope rose sail salad
    salt sand school sea seed sheep ship shirt shoe shop silver sister skin sky snake snow soap sock
    soup spoon spring star stone storm story street sugar summer sun table tail tea teacher tent
    tiger time toe tomato tooth tower town toy train tree truck uncle valley van vase violin voice
    wagon wall watch water wave whale wheel wind window wine winter wolf wood wool yard year zebra
    """
WORDS = tuple(_BANK.split())
_ALIKE = 0.4  # of the training lists of words take theirs from four first letters

WORDINGS = {
    "sort": Wordings(
        train=(
            "sort {x}",
            "sort: {x}",
            "sort these: {x}",
            "sort this list: {x}",
            "sort these {k} alphabetically: {x}",
            "sort the {k} alphabetically: {x}",
            "sort these {k} in alphabetical order: {x}",
            "sort {x} alphabetically",
            "sort {x} in alphabetical order.",
            "sort the following {k}: {x}",
            "sort a to z: {x}",
            "sort from A to Z: {x}",
            "please sort {x}",
            "please sort these {k}: {x}",
            "alphabetize {x}",
            "alphabetize these {k}: {x}",
            "alphabetise: {x}",
            "alphabetical order: {x}",
            "{x} in alphabetical order",
            "{x}: sort alphabetically",
            "{x}. Put these {k} in order.",
            "{x}. Sort them.",
            "put {x} in alphabetical order.",
            "put {x} in order.",
            "put these {k} in alphabetical order: {x}",
            "put these in order from a to z: {x}",
            "order these {k}: {x}",
            "order these {k} alphabetically: {x}",
            "arrange {x} alphabetically.",
            "arrange these {k} in alphabetical order: {x}",
            "arrange the {k} from a to z: {x}",
            "list {x} in alphabetical order.",
            "list these {k} alphabetically: {x}",
            "what is the alphabetical order of {x}?",
            "what is {x} sorted alphabetically?",
            "in what order do {x} come in the alphabet?",
            "in which order would a dictionary list {x}?",
            "can you sort {x}?",
            "could you put these {k} in alphabetical order? {x}",
            "I need these {k} sorted: {x}",
            "I have the {k} {x}. Sort them alphabetically.",
            "my {k} are {x}. What is their alphabetical order?",
            "rank these {k} alphabetically: {x}",
            "give me {x} in alphabetical order.",
            "convert this list to alphabetical order: {x}",
            "calculate the alphabetical order of {x}",
            "extract the {k} and sort them: {x}",
            "make an index of {x}, sorted by the alphabet.",
            "how would {x} be ordered from a to z?",
            "the cards on the table say {x}. Sort them.",
            "the {w} book names {x}. Sort the {k}.",
            "my {w} list is {x}. Alphabetical order?",
            "on the {w} somebody wrote {x}. Sort that.",
            "for the {w}, put {x} in order from a to z.",
            "{w} game: sort {x}",
            "we saw {x} near the {w}. Sort these {k}.",
            "{x}: which order has the dictionary for them?",
            "mix-up: {x}. Correct alphabetical order?",
            "{k} by alphabet: {x}",
            "index {x}",
        ),
        held=(
            "write {x} in alphabetical order.",
            "which order is alphabetical for {x}?",
            "bring these {k} into alphabetical order: {x}",
            "reorder {x} from a to z.",
            "a teacher wants {x} sorted by the alphabet.",
            "tidy this list alphabetically: {x}",
            "{x}, from a to z please",
            "show {x} sorted.",
            "return these {k} in alphabetical order: {x}",
            "would you alphabetize {x}, please?",
            "line up {x} alphabetically.",
            "these {k} are jumbled: {x}. Order them by the alphabet.",
        ),
        test=(
            "place these {k} in alphabetical order: {x}",
            "how do {x} look in alphabetical order?",
            "organize {x} alphabetically.",
            "I wrote down {x}. Please order them from a to z.",
            "what comes out if you sort {x} by the alphabet?",
            "help me alphabetize this: {x}",
            "need {x} in dictionary order",
            "rearrange these {k} so that they are alphabetical: {x}",
            "for a glossary, sort {x}.",
            "could you arrange {x} from A to Z, please?",
            "the shopping list reads {x}. Put it in alphabetical order.",
            "tell me the alphabetical order of these {k}: {x}",
        ),
    )
}


def draw(rng: Random, split: Split) -> Problem:
    """One list: letters or words, half each; train has more words of few first letters."""
    if rng.random() < (0.25 if split == "train" else 0.5):
        name, things = "letters", [rng.choice(LETTERS) for _ in range(rng.randint(4, 8))]
    else:
        name, bank = "words", WORDS
        if split == "train" and rng.random() < _ALIKE:
            first = rng.sample(LETTERS, 4)
            bank = tuple(word for word in WORDS if word[0] in first)
        things = rng.sample(bank, min(len(bank), rng.randint(4, 8)))
    ordered = sorted(things)
    if things == ordered:
        things.reverse()
    answer = ", ".join(ordered)
    idle = Random(answer).choice([word for word in WORDS if word not in things])
    slots = {"x": _listed(rng, things), "k": name, "w": idle}
    return Problem("sort", f"{name}: {answer}", slots, answer, "list", answer)


def _listed(rng: Random, things: list[str]) -> str:
    """The things as people write them: commas, spaces, or an `and` before the last."""
    style = rng.random()
    if style < 0.55:
        return ", ".join(things)
    if style < 0.85:
        return " ".join(things)
    return ", ".join(things[:-1]) + " and " + things[-1]


SKILL = Skill("sorting", "sorting", draw, WORDINGS, bare="{x}")
