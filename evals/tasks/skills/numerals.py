"""Whole numbers from 1 to 999 in digits, in words, and in Roman numerals, each turned into another.

Promise: words as English writes them, with or without hyphens and "and"; Roman numerals in their standard form. All ways
to write one number are one problem. The specialist goes by parts: hundreds, tens, ones.
"""

from __future__ import annotations

from random import Random

from evals.tasks.skills.item import Problem, Skill, Split, Wordings

MOST = 999
_BELOW_20 = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen
    """
_ONES = tuple(_BELOW_20.split())
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ROMAN = (
    ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"),
    ("", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC"),
    ("", "C", "CC", "CCC", "CD", "D", "DC", "DCC", "DCCC", "CM"),
)

WORDINGS = {
    "to digits": Wordings(
        train=(
            "write {x} in digits.",
            "write {x} as a number.",
            "write the number {x} with digits.",
            "{x} in digits",
            "{x} in digits?",
            "{x} as a number",
            "what number is {x}?",
            "which number is {x}?",
            "what is {x} in digits?",
            "what is {x} in figures?",
            "convert {x} to digits.",
            "convert {x} to a number.",
            "turn {x} into digits.",
            "put {x} into figures.",
            "give {x} in digits.",
            "how is {x} written in digits?",
            "how do you write {x} in numbers?",
            "the cheque says {x}. What is that in digits?",
            "I wrote {x}. Show it in figures.",
            "express {x} in digits.",
            "type {x} as digits, please.",
            "digits for {x}?",
        ),
        held=(
            "note {x} down in digits.",
            "how would {x} look as a number?",
            "change {x} to figures.",
            "{x}, with digits please",
            "which digits does {x} have?",
        ),
        test=(
            "can you show {x} using digits?",
            "someone said {x}; write it in figures.",
            "what would {x} be in digits?",
            "spell out {x} as a numeral with digits.",
            "I need {x} in numeric form.",
        ),
    ),
    "to words": Wordings(
        train=(
            "write {x} in words.",
            "write the number {x} in words.",
            "write {x} out in words.",
            "{x} in words",
            "{x} in words?",
            "what is {x} in words?",
            "spell {x}.",
            "spell out {x}.",
            "spell the number {x} in English.",
            "how do you spell {x}?",
            "how is {x} written in words?",
            "convert {x} to words.",
            "turn {x} into words.",
            "give {x} in words.",
            "say {x} in words.",
            "express {x} in words.",
            "for a cheque, write {x} in words.",
            "put {x} into words.",
            "the number {x}, in words?",
            "{x} as English words",
        ),
        held=(
            "note {x} down in words.",
            "how would you say {x}?",
            "change {x} to words.",
            "{x}, in words please",
            "which words stand for {x}?",
        ),
        test=(
            "can you show {x} as words?",
            "what would {x} be in words?",
            "I need {x} written out in words.",
            "read {x} out in words for me.",
        ),
    ),
    "to Roman": Wordings(
        train=(
            "write {x} in Roman numerals.",
            "write {x} as a Roman numeral.",
            "{x} in Roman numerals",
            "{x} in Roman numerals?",
            "{x} as a Roman numeral",
            "what is {x} in Roman numerals?",
            "what is the Roman numeral for {x}?",
            "Roman numeral for {x}?",
            "convert {x} to Roman numerals.",
            "turn {x} into a Roman numeral.",
            "give {x} in Roman numerals.",
            "how did the Romans write {x}?",
            "how do you write {x} in Roman numerals?",
            "express {x} in Roman numerals.",
            "put {x} into Roman numerals.",
            "chapter {x}: what is it in Roman numerals?",
            "Roman: {x}",
        ),
        held=(
            "note {x} down in Roman numerals.",
            "how would {x} look as a Roman numeral?",
            "change {x} to Roman numerals.",
            "{x}, as a Roman numeral please",
        ),
        test=(
            "can you show {x} using Roman numerals?",
            "what would {x} be as a Roman numeral?",
            "I need {x} carved in Roman numerals.",
            "which Roman numeral stands for {x}?",
        ),
    ),
    "from Roman": Wordings(
        train=(
            "what number is {x}?",
            "which number is the Roman numeral {x}?",
            "what is the Roman numeral {x} in digits?",
            "what is {x} in digits?",
            "what does {x} mean in Roman numerals?",
            "convert {x} to a number.",
            "convert the Roman numeral {x} to digits.",
            "turn the Roman numeral {x} into a number.",
            "read the Roman numeral {x}.",
            "write {x} in digits.",
            "write the Roman numeral {x} in digits.",
            "{x} in digits",
            "{x} as a number",
            "Roman {x} is which number?",
            "the clock tower shows {x}. What number is that?",
            "give the value of {x}.",
            "how much is the Roman numeral {x}?",
        ),
        held=(
            "note the Roman numeral {x} down in digits.",
            "which value does {x} have?",
            "change {x} from Roman numerals to digits.",
            "{x} is Roman. And in digits?",
        ),
        test=(
            "can you read {x} for me? It is a Roman numeral.",
            "what would {x} be as an ordinary number?",
            "the stone says {x}; which number is it?",
            "decode the Roman numeral {x}.",
        ),
    ),
}


def parts(value: int) -> list[int]:
    """The hundreds, tens and ones that are there.

    >>> parts(407), parts(320)
    ([400, 7], [300, 20])
    """
    return [part for part in (value // 100 * 100, value % 100 // 10 * 10, value % 10) if part]


def roman(value: int) -> str:
    """The Roman numeral of 1 to 999.

    >>> roman(447), roman(999)
    ('CDXLVII', 'CMXCIX')
    """
    return _ROMAN[2][value // 100] + _ROMAN[1][value % 100 // 10] + _ROMAN[0][value % 10]


def spoken(value: int, *, link: str = " ", hyphen: str = "-") -> str:
    """The number in English words.

    >>> spoken(447), spoken(300), spoken(16), spoken(447, link=" and ", hyphen=" ")
    ('four hundred forty-seven', 'three hundred', 'sixteen', 'four hundred and forty seven')
    """
    hundreds, rest = divmod(value, 100)
    below = _ONES[rest] if rest < 20 else _TENS[rest // 10] + (hyphen + _ONES[rest % 10] if rest % 10 else "")
    if not hundreds:
        return below
    return f"{_ONES[hundreds]} hundred" + (link + below if rest else "")


def draw(rng: Random, split: Split) -> Problem:
    """One number and the two ways to write it."""
    value = rng.randint(1, MOST) if rng.random() < 0.85 else rng.randint(1, 99)
    form = rng.choice(tuple(WORDINGS))
    key, digits = str(value), str(value)
    sum_ = " + ".join(map(str, parts(value)))
    numerals = " + ".join(map(roman, parts(value)))
    if form == "to digits":
        said = spoken(value, link=rng.choice((" ", " and ")), hyphen=rng.choice(("-", "-", " ")))
        target = digits if sum_ == digits else f"{sum_} = {digits}"
        return Problem(form, key, {"x": said}, digits, "number", target)
    if form == "to words":
        others = (spoken(value, link=" and "),) if value > 100 and value % 100 else ()
        answer = "|".join((spoken(value), *others))
        return Problem(form, key, {"x": digits}, answer, "text", spoken(value))
    if form == "to Roman":
        answer = roman(value)
        return Problem(form, key, {"x": digits}, answer, "text", f"{sum_} = {numerals}\nAnswer: {answer}")
    target = f"{numerals} = {digits}" if sum_ == digits else f"{numerals} = {sum_} = {digits}"
    return Problem(form, key, {"x": roman(value)}, digits, "number", target)


SKILL = Skill("numerals", "numerals", draw, WORDINGS)
