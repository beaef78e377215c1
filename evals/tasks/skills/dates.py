"""Days of the week, months, and dates of a year of 365 days.

Promise: the weekday 1..30 days before or after another; the month 1..11 before or after
another; a day of the year plus 1..30 days; the days between two dates of one month or of
neighbouring months. February has 28 days. How many days a month has is taught in train
only (`facts`): twelve facts cannot be split. The specialist counts in short steps and
ends with `Answer:`.
"""

from __future__ import annotations

from random import Random

from evals.tasks.skills.item import Problem, Skill, Split, Wordings, split_of

WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    ("January", 31),
    ("February", 28),
    ("March", 31),
    ("April", 30),
    ("May", 31),
    ("June", 30),
    ("July", 31),
    ("August", 31),
    ("September", 30),
    ("October", 31),
    ("November", 30),
    ("December", 31),
)
_NAMES = tuple(name for name, _ in MONTHS)

WORDINGS = {
    "day after": Wordings(
        train=(
            "what day is {n} days after {d}?",
            "what day of the week is {n} days after {d}?",
            "which day comes {n} days after {d}?",
            "which weekday is {n} days after {d}?",
            "{n} days after {d} is what day?",
            "{n} days after {d}",
            "{d} plus {n} days?",
            "{d} + {n} days",
            "today is {d}. What day is it in {n} days?",
            "it is {d} today. Which day will it be in {n} days?",
            "if today is {d}, what day will it be {n} days from now?",
            "if it is {d}, what day is it in {n} days?",
            "count {n} days on from {d}.",
            "my parcel left on {d} and takes {n} days. On which day does it arrive?",
            "starting on {d}, what day is it {n} days later?",
            "what day will it be {n} days from {d}?",
            "tell me the day {n} days after {d}, please.",
            "in what order do the days go: what is {n} days after {d}?",
            "add {n} days to {d}.",
        ),
        held=(
            "which day follows {d} after {n} days?",
            "say it is {d}. And {n} days on?",
            "{d}, then {n} days later: which day?",
            "we meet {n} days after {d}. What day is that?",
        ),
        test=(
            "what weekday do you get {n} days after {d}?",
            "I leave on {d} and come back {n} days later. What day is that?",
            "go forward {n} days from {d}. Which day is it?",
            "now it's {d}; what day of the week comes in {n} days?",
            "please tell me which day is {n} days past {d}.",
        ),
    ),
    "day before": Wordings(
        train=(
            "what day is {n} days before {d}?",
            "what day of the week is {n} days before {d}?",
            "which day comes {n} days before {d}?",
            "which weekday was {n} days before {d}?",
            "{n} days before {d} is what day?",
            "{n} days before {d}",
            "{d} minus {n} days?",
            "today is {d}. What day was it {n} days ago?",
            "if today is {d}, what day was it {n} days ago?",
            "it is {d}. Which day was {n} days ago?",
            "count {n} days back from {d}.",
            "subtract {n} days from {d}.",
            "the test is on {d} and I start {n} days earlier. On which day?",
        ),
        held=(
            "{d}, then {n} days earlier: which day?",
            "we met {n} days before {d}. What day was that?",
        ),
        test=(
            "go back {n} days from {d}. Which day is it?",
            "now it's {d}; what day of the week was it {n} days ago?",
            "what weekday lies {n} days before {d}?",
        ),
    ),
    "month after": Wordings(
        train=(
            "which month is {n} months after {d}?",
            "what month comes {n} months after {d}?",
            "{n} months after {d} is which month?",
            "it is {d}. What month is it in {n} months?",
            "if it is {d} now, which month will it be in {n} months?",
            "add {n} months to {d}.",
            "{d} plus {n} months",
            "a pass bought in {d} lasts {n} months. In which month does it end?",
        ),
        held=("which month follows {d} by {n} months?", "{d}, then {n} months later: which month?"),
        test=(
            "what month do you reach {n} months after {d}?",
            "we are in {d}; which month comes in {n} months?",
            "the course starts in {d} and ends {n} months later. Which month is that?",
        ),
    ),
    "month before": Wordings(
        train=(
            "which month is {n} months before {d}?",
            "what month comes {n} months before {d}?",
            "{n} months before {d} is which month?",
            "it is {d}. What month was it {n} months ago?",
            "subtract {n} months from {d}.",
        ),
        held=("{d}, then {n} months earlier: which month?",),
        test=(
            "what month was {n} months before {d}?",
            "we are in {d}; which month was {n} months ago?",
        ),
    ),
    "date plus": Wordings(
        train=(
            "what date is {n} days after {d}?",
            "which date comes {n} days after {d}?",
            "{n} days after {d} is what date?",
            "{d} plus {n} days",
            "add {n} days to {d}.",
            "today is {d}. What is the date in {n} days?",
            "if today is {d}, what date is it {n} days from now?",
            "the rent was paid on {d} and is due {n} days later. On what date?",
            "what will the date be {n} days from {d}?",
        ),
        held=("what is the date {n} days past {d}?", "{d}, then {n} days later: which date?"),
        test=(
            "a trip begins on {d}. What date is it {n} days later?",
            "which date do you reach {n} days after {d}?",
            "it's {d}; give me the date in {n} days.",
        ),
    ),
    "between": Wordings(
        train=(
            "how many days are there from {d} to {u}?",
            "how many days from {d} to {u}?",
            "how many days are between {d} and {u}?",
            "how many days is it from {d} until {u}?",
            "today is {d}. How many days until {u}?",
        ),
        held=("count the days from {d} to {u}.",),
        test=(
            "it's {d}; how many days are left until {u}?",
            "how many days pass from {d} to {u}?",
        ),
    ),
    "facts": Wordings(
        train=(
            "how many days does {d} have?",
            "how many days are in {d}?",
            "number of days in {d}?",
            "how long is {d} in days?",
        ),
        held=(),
        test=(),
    ),
}
_FORMS = ("day after", "day before", "month after", "month before", "date plus", "between")
_SHARES = (30, 15, 14, 8, 20, 13)


def weekday(day: str, n: int) -> str:
    """The steps to the weekday `n` days after (before, if negative) `day`.

    >>> weekday("Tuesday", 10)
    '10 - 7 = 3: 1 Wednesday, 2 Thursday, 3 Friday\\nAnswer: Friday'
    >>> weekday("Tuesday", -2)
    'back 2: 1 Monday, 2 Sunday\\nAnswer: Sunday'
    """
    size, step = abs(n), 1 if n > 0 else -1
    full, rest = size // 7 * 7, size % 7
    days = [WEEK[(WEEK.index(day) + step * i) % 7] for i in range(rest + 1)]
    steps = ", ".join(f"{i} {name}" for i, name in enumerate(days) if i) or f"0 {day}"
    head = f"{size} - {full} = {rest}: " if full else f"{rest}: "
    if n < 0:
        head = f"back {head}"
    return f"{head}{steps}\nAnswer: {days[-1]}"


def month(start: str, n: int) -> str:
    """The steps to the month `n` months after (before, if negative) `start`.

    >>> month("October", 5)
    'October is 10, 10 + 5 = 15, 15 - 12 = 3\\nAnswer: March'
    """
    place = _NAMES.index(start) + 1
    there = place + n
    steps = f"{start} is {place}, {place} {'+' if n > 0 else '-'} {abs(n)} = {there}"
    if not 1 <= there <= 12:
        back = there - 12 if there > 12 else there + 12
        steps += f", {there} {'-' if there > 12 else '+'} 12 = {back}"
        there = back
    return f"{steps}\nAnswer: {_NAMES[there - 1]}"


def date_plus(day: int, place: int, n: int) -> str:
    """The steps to the date `n` days after a date; `place` is the month's index from 0.

    >>> date_plus(28, 2, 10)
    'March has 31, 28 + 10 = 38, 38 - 31 = 7\\nAnswer: 7 April'
    """
    name, length = MONTHS[place]
    there = day + n
    steps = f"{name} has {length}, {day} + {n} = {there}"
    if there > length:
        steps += f", {there} - {length} = {there - length}"
        there, name = there - length, _NAMES[(place + 1) % 12]
        if there > MONTHS[(place + 1) % 12][1]:
            raise ValueError("a date may cross one border only")
    return f"{steps}\nAnswer: {there} {name}"


def between(first: tuple[int, int], last: tuple[int, int]) -> str:
    """The steps to the number of days between (day, month index) pairs.

    >>> between((3, 2), (9, 3))
    'March, April: March has 31, 31 - 3 = 28, 28 + 9\\nAnswer: 37'
    >>> between((3, 2), (9, 2))
    'March, March: 9 - 3\\nAnswer: 6'
    """
    (day, place), (until, there) = first, last
    if place == there:
        return f"{MONTHS[place][0]}, {MONTHS[there][0]}: {until} - {day}\nAnswer: {until - day}"
    name, length = MONTHS[place]
    rest = length - day
    return f"{name}, {MONTHS[there][0]}: {name} has {length}, {length} - {day} = {rest}, {rest} + {until}\nAnswer: {rest + until}"


def draw(rng: Random, split: Split) -> Problem:
    """One problem; one in twelve of train is a plain fact."""
    if split == "train" and rng.random() < 1 / 12:
        return _fact(rng)
    form = rng.choices(_FORMS, _SHARES)[0]
    if form in ("day after", "day before"):
        start, n = rng.choice(WEEK), rng.randint(1, 30)
        target = weekday(start, n if form == "day after" else -n)
        return _text(form, f"{n} {form} {start}", {"n": str(n), "d": start}, target)
    if form in ("month after", "month before"):
        start, n = rng.choice(_NAMES), rng.randint(1, 11)
        target = month(start, n if form == "month after" else -n)
        return _text(form, f"{n} {form} {start}", {"n": str(n), "d": start}, target)
    place = rng.randrange(12)
    day = rng.randint(1, MONTHS[place][1])
    american = rng.random() < 0.4
    start = _date(day, place, american=american)
    if form == "date plus":
        n = rng.randint(1, 28 if place == 0 else 30)
        target = date_plus(day, place, n)
        return _text(form, f"{day}.{place} + {n}", {"n": str(n), "d": start}, target)
    there = place if rng.random() < 0.4 and day < MONTHS[place][1] else (place + 1) % 12
    until = rng.randint(day + 1 if there == place else 1, MONTHS[there][1])
    target = between((day, place), (until, there))
    slots = {"d": start, "u": _date(until, there, american=american)}
    key = f"{day}.{place} to {until}.{there}"
    return Problem(form, key, slots, target.rsplit(" ", 1)[-1], "number", target)


def _fact(rng: Random) -> Problem:
    """How many days a month has, under a key that falls into train."""
    name, length = rng.choice(MONTHS)
    key = next(key for i in range(99) if split_of(key := f"length of {name} {i}") == "train")
    return Problem("facts", key, {"d": name}, str(length), "number", f"Answer: {length}")


def _text(form: str, key: str, slots: dict[str, str], target: str) -> Problem:
    """A problem whose answer is words; a date may be written either way round."""
    answer = target.rsplit("Answer: ", 1)[-1]
    day, _, name = answer.partition(" ")
    gold = f"{answer}|{name} {day}" if name else answer
    return Problem(form, key, slots, gold, "text", target)


def _date(day: int, place: int, *, american: bool) -> str:
    return f"{_NAMES[place]} {day}" if american else f"{day} {_NAMES[place]}"


SKILL = Skill("dates", "dates", draw, WORDINGS)
