"""What a good answer can do, as questions about one: by category, that is a skill of the registry or a kind of answer.

The lists stand in for the capability points of DMoERM (Quan 2024; METHODS I.8), one list per category instead of one adapter per point.
"""

from __future__ import annotations

from collections.abc import Mapping

Capabilities = Mapping[str, tuple[str, ...]]
"""The questions of each category, three to five, each to be answered by a number from 1 (not at all) to 5 (completely)."""

CAPABILITIES: Capabilities = {
    "number": (
        "Does the response use the numbers of the question, and no others?",
        "Does it do the right operations with them, in the right order?",
        "Is its result free of mistakes in calculation?",
        "Does its result have the size and the unit that the question asks for?",
    ),
    "math": (
        "Does the response work on the expression that the question gives?",
        "Does every step follow from the one before?",
        "Is its result free of mistakes in calculation?",
        "Is its result in the form that the question asks for?",
    ),
    "choice": (
        "Does the response choose exactly one of the options?",
        "Does what it says fit the facts that the question gives?",
        "Is the option that it chooses better than every other one?",
    ),
    "list": (
        "Does the response hold every item that the question asks for?",
        "Does it hold nothing else, and nothing twice?",
        "Are its items in the order that the question asks for?",
    ),
    "set": (
        "Does the response hold every item that the question asks for?",
        "Does it hold nothing that does not belong to it?",
        "Is every item written as the question writes it?",
    ),
    "json": (
        "Does the response have every field that the question asks for?",
        "Does every field hold what the text says, in its words?",
        "Is it free of fields and values that the text does not have?",
    ),
    "code": (
        "Does the program do what the question asks for?",
        "Does it handle empty, smallest and largest input?",
        "Is it free of errors that would stop it?",
    ),
    "text": (
        "Does the response answer the question that was asked?",
        "Is what it says true?",
        "Is it complete, without what nobody asked for?",
    ),
}
LEAST, MOST = 3, 5


def category_of(capabilities: Capabilities, skill: str | None, kind: str) -> str:
    """The category of a question: its strongest skill where there are questions about that, else the kind of its answer."""
    return skill if skill is not None and skill in capabilities else kind
