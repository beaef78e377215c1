"""The rule-made questions: right golds, splits that share no problem, wordings kept apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from fractions import Fraction
from importlib import resources
from random import Random

import pytest

from evals.tasks.skills import DEFAULT, SKILLS, SPLITS, Item, Split, items, split_of, teach
from evals.tasks.skills.__main__ import general, packaged
from evals.tasks.skills.dates import MONTHS, WEEK
from evals.tasks.skills.units import _SHORT, PAIRS
from evals.tasks.skills.wordforms import FORMS

_MONTH = {name: place for place, (name, _) in enumerate(MONTHS, 1)}
_YEAR = 2023  # any year of 365 days before another one


def _keys(task: str, split: Split, n: int) -> set[str]:
    """The problems of a stretch of the generator, found again by drawing."""
    skill, rng = SKILLS[task], Random(f"keys/{split}")
    found = (skill.draw(rng, split).key for _ in range(n))
    return {key for key in found if split_of(key) == split}


def _rows(name: str) -> list[dict[str, str]]:
    text = resources.files("evals.tasks.skills").joinpath(name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("task", SKILLS)
def test_the_same_seed_gives_the_same_items_and_a_prefix(task: str) -> None:
    assert items(task, "test", 40, 3) == items(task, "test", 60, 3)[:40]
    assert items(task, "test", 40, 3) != items(task, "test", 40, 4)


@pytest.mark.parametrize("task", SKILLS)
def test_no_problem_is_in_two_splits(task: str) -> None:
    seen = {split: _keys(task, split, 1500) for split in SPLITS}

    assert all(seen.values())
    assert sum(map(len, seen.values())) == len(set().union(*seen.values()))


@pytest.mark.parametrize("task", SKILLS)
def test_the_wordings_of_test_are_never_trained_on(task: str) -> None:
    forms = SKILLS[task].wordings.values()

    train = {wording.lower().strip(" .?") for form in forms for wording in form.train}
    test = {wording.lower().strip(" .?") for form in forms for wording in form.test}
    held = {wording.lower().strip(" .?") for form in forms for wording in form.held}

    assert not train & test and not train & held and not held & test
    assert len(train) >= 40 and len(held) >= 12 and len(test) >= 12


@pytest.mark.parametrize("task", SKILLS)
def test_items_outside_train_do_not_repeat(task: str) -> None:
    for split in SPLITS[1:]:
        made = items(task, split, 300)

        assert len({item.question for item in made}) == len({item.id for item in made}) == 300


@pytest.mark.parametrize("task", SKILLS)
def test_every_template_is_filled_in(task: str) -> None:
    for item in items(task, "train", 800):
        without_json = re.sub(r"\{\s*\"", "", item.question)
        assert "{" not in without_json and "}" not in without_json


@pytest.mark.parametrize("task", SKILLS)
def test_a_target_ends_with_its_answer(task: str) -> None:
    for lesson in teach(task, "train", 300):
        last = lesson.target.rsplit("Answer: ", 1)[-1]
        if lesson.item.kind == "number":
            assert re.findall(r"\d+", last)[-1] == lesson.item.answer
        else:
            assert last == lesson.item.answer.split("|")[0]


@pytest.mark.parametrize("task", ["arithmetic", "arithmetic-3digit"])
def test_arithmetic_is_right(task: str) -> None:
    for split in SPLITS:
        for lesson in teach(task, split, 300):
            a, sign, b = lesson.target.split(" ")[:3]
            x, y = int(a), int(b)
            gold = {"+": x + y, "-": x - y, "*": x * y}[sign]

            assert str(gold) == lesson.item.answer and gold >= 0
            assert sorted(re.findall(r"\d+", lesson.item.question)) == sorted([a, b])
            for left, right in re.findall(r"= ([\d+ ]+) = (\d+)", lesson.target):
                assert sum(map(int, left.split("+"))) == int(right)


def test_sorting_is_right() -> None:
    for item in items("sorting", "test", 300):
        parts = item.answer.split(", ")
        words = re.findall(r"[a-z]+", item.question.lower())

        assert 4 <= len(parts) <= 8 and parts == sorted(parts)
        assert all(words.count(part) >= parts.count(part) for part in parts)


def test_extraction_copies_the_text_in_the_order_asked() -> None:
    for split in SPLITS:
        for item in items("extraction", split, 200):
            gold = json.loads(item.answer)
            places = [item.question.lower().find(name.lower()) for name in gold]

            assert 3 <= len(gold) <= 6 and -1 not in places
            assert all(str(value).lower() in item.question.lower() for value in gold.values())


def _unit(question: str) -> Iterator[str]:
    """The full names of the units of a question."""
    spelt = {short: unit for unit, all_ in _SHORT.items() for short in all_}
    names = {name for pair in PAIRS for name in (pair[1], pair[3])}
    for word in re.findall(r"[A-Za-z]+", question):
        unit = spelt.get(word, word)
        if unit in names:
            yield unit


def _sizes() -> dict[str, Fraction]:
    """Every unit in a base unit of its own dimension, from facts written here."""
    text = (
        "seconds 1 minutes 60 hours 3600 days 86400 weeks 604800 months 1 years 12 decades 120 "
        "inches 1 feet 12 yards 36 millimetres 1 centimetres 10 metres 1000 kilometres 1000000 "
        "milligrams 1 grams 1000 kilograms 1000000 tonnes 1000000000 millilitres 1 litres 1000 "
        "ounces 1 pounds 16 stone 224 pints 1 quarts 2 gallons 8 cents 1 dollars 100 pieces 1 dozen 12"
    )
    parts = text.split()
    return dict(zip(parts[::2], map(Fraction, parts[1::2]), strict=True))


def test_units_are_right() -> None:
    sizes = _sizes()
    for item in items("units", "test", 300):
        number = int(re.findall(r"\d+", item.question)[0])
        source, goal = (unit for unit in _pair(item.question, number))

        assert number * sizes[source] == int(item.answer) * sizes[goal]


def _pair(question: str, number: int) -> tuple[str, str]:
    """The unit beside the number, and the other one."""
    found = re.search(rf"\b{number} ([A-Za-z]+)", question)
    assert found
    [source] = _unit(found.group(1))
    rest = [unit for unit in _unit(question.replace(found.group(0), " ", 1)) if unit != source]
    return source, rest[0]


def test_dates_are_right() -> None:
    for split in SPLITS:
        for item in items("dates", split, 250):
            assert item.answer == _date_answer(item.question), item


def _date_answer(question: str) -> str:
    """The answer worked out with the calendar of the standard library."""
    lower = question.lower()
    back = bool(re.search(r"before|ago|earlier|minus|subtract|go back|days back", lower))
    day = next((name for name in WEEK if name in question), "")
    month = next((name for name in _MONTH if re.search(rf"\b{name}\b", question)), "")
    if day:
        n = int(re.findall(r"\d+", question)[0])
        return WEEK[(WEEK.index(day) + (-n if back else n)) % 7]
    names = "|".join(_MONTH)
    dates = [*re.finditer(rf"(?P<d>\d+) (?P<m>{names})\b|(?P<M>{names}) (?P<D>\d+)\b", question)]
    read = [date(_YEAR, _MONTH[hit["m"] or hit["M"]], int(hit["d"] or hit["D"])) for hit in dates]
    if len(read) == 2:
        return str((read[1] - read[0]).days % 365)
    if not read and "month" in lower:
        n = int(re.findall(r"\d+", question)[0])
        return MONTHS[(_MONTH[month] - 1 + (-n if back else n)) % 12][0]
    if not read:
        return str((date(_YEAR, _MONTH[month] % 12 + 1, 1) - date(_YEAR, _MONTH[month], 1)).days % 365)
    n = int(re.findall(r"\d+", question.replace(dates[0].group(0), ""))[0])
    there = read[0] + timedelta(days=n)
    name = MONTHS[there.month - 1][0]
    return f"{there.day} {name}|{name} {there.day}"


def test_hand_written_rows_are_valid_and_right() -> None:
    rows = _rows("handwritten.jsonl")

    assert len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == len(rows) == 174
    for row in rows:
        item = Item(**row, split="test")  # type: ignore[arg-type]
        assert _hand_check(item), item


def _hand_check(item: Item) -> bool:
    """Recompute a hand-written gold as far as a rule can."""
    numbers = [int(n) for n in re.findall(r"\d+", item.question)]
    if item.task == "arithmetic":
        a, b = numbers[-2:]
        return int(item.answer) in (a + b, abs(a - b), a * b)
    if item.task == "sorting":
        parts = item.answer.split(", ")
        return parts == sorted(parts) and all(part in item.question.lower() for part in parts)
    if item.task == "extraction":
        gold = json.loads(item.answer)
        return all(str(text).lower() in item.question.lower() for text in [*gold, *gold.values()])
    if item.task == "units":
        big, small = max(numbers[0], int(item.answer)), min(numbers[0], int(item.answer))
        return any(small * factor == big for *_, factor, _ in PAIRS)
    if item.task == "numerals":
        return _number_in(item.question) == _number_in(item.answer) and _number_in(item.answer) > 0
    if item.task == "wordforms":
        return _form_of(item) is not None
    return item.task == "dates" and item.answer == _date_answer(item.question)


def _number_in(text: str) -> int:
    """The one number of a text, in whichever form: read by rules of this test's own, not by the generator's tables."""
    if found := re.findall(r"\d+", text):
        return int(found[-1])
    if found := re.findall(r"\b[MDCLXVI]+\b", text.split("|")[0]):
        values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}[letter] for letter in found[-1]]
        return sum(-one if any(later > one for later in values[i + 1 :]) else one for i, one in enumerate(values))
    total = 0
    for word in re.findall(r"[a-z]+", text.split("|")[0].lower()):
        if word == "hundred":
            total *= 100
        elif (unit := word.removesuffix("ty")) in _STEMS and word != unit:
            total += 10 * _STEMS[unit]
        elif (unit := word.removesuffix("teen")) in _STEMS and word != unit:
            total += 10 + _STEMS[unit]
        else:
            total += _UNITS.get(word, 0)
    return total


_UNITS = {
    name: value
    for value, name in enumerate(
        ["-", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    )
}
_STEMS = _UNITS | {"twen": 2, "thir": 3, "for": 4, "fif": 5, "eigh": 8}


def _form_of(item: Item) -> str | None:
    """The word and form that a hand-written answer belongs to."""
    asked = re.findall(r"[a-z]+", item.question.lower())
    return next(
        (f"{form} {word}" for form, words in FORMS.items() for word, gold in words.items()
         if gold == item.answer and word in asked),
        None,
    )  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_numerals_are_the_same_number_in_another_form(split: Split) -> None:
    for item in items("numerals", split, 300):
        quiet = re.sub(r"\bI (?=need|wrote|am)|(One more|Next one)\.?", "", item.question)

        assert _number_in(item.answer) == _number_in(quiet) in range(1, 1000), item


@pytest.mark.parametrize(
    ("form", "wrong"),
    [
        ("plural", r"[^aeiou]ys$|(s|x|ch|sh)s$"),
        ("past", r"[^aeiou]yed$|eed$(?<!agreed)"),
        ("ing", r"[^eoy]eing$|ieing$"),
        ("comparative", r"yer$|eer$"),
        ("superlative", r"yest$|eest$"),
    ],
)
def test_no_form_breaks_the_rules_of_spelling(form: str, wrong: str) -> None:
    for word, made in FORMS[form].items():
        assert word.isalpha() and made.isalpha() and not re.search(wrong, made), (word, made)


def test_hand_written_numerals_and_forms_are_not_trained_on() -> None:
    for row in _rows("handwritten.jsonl"):
        if row["task"] in ("numerals", "wordforms"):
            item = Item(**row, split="test")  # type: ignore[arg-type]
            key = str(_number_in(item.answer)) if item.task == "numerals" else _form_of(item)
            assert key is not None and split_of(key) != "train", row


def test_hand_written_sums_are_not_trained_on() -> None:
    for row in _rows("handwritten.jsonl"):
        if row["task"] == "arithmetic":
            a, b = (int(n) for n in re.findall(r"\d+", row["question"])[-2:])
            gold = int(row["answer"])
            sign = "plus" if gold == a + b else "times" if gold == a * b else "-"
            low, high = sorted((a, b))
            assert split_of(f"{high}-{low}" if sign == "-" else f"{low}{sign}{high}") != "train", row


def test_the_packaged_questions_cover_the_default_skills_and_general_knowledge() -> None:
    rows = list(packaged())

    for task in (*DEFAULT, "general"):
        splits = [item.split for item in rows if item.task == task]
        assert splits.count("profile") in (60, 64) and splits.count("calibration") in (16, 20)
    assert len({item.id for item in rows}) == len({item.question for item in rows}) == len(rows) == 400


def test_general_rows_are_short_answers() -> None:
    for item in general():
        assert item.kind == "text" and item.question.strip() and len(item.answer.split("|")[0]) < 30
        assert all(answer.strip() == answer and answer for answer in item.answer.split("|"))
