"""Sums, differences and products of small whole numbers, in many wordings.

Promise: a + b and a - b with operands 0..99 (a difference is never negative) and a
two-digit number times a digit 2..9. Sums of three-digit numbers are `THREE_DIGIT`, a
group reported apart. The specialist restates the problem as an equation, and subtracts and
multiplies by parts; the last number is the answer.
"""

from __future__ import annotations

from random import Random

from evals.tasks.skills.item import Problem, Skill, Split, Wordings

NAMES = ("Ana", "Ben", "Carla", "Dan", "Eva", "Finn", "Gita", "Hugo", "Iris", "Jon", "Kim", "Leo")
THINGS = (
    "apples",
    "books",
    "cards",
    "coins",
    "cookies",
    "eggs",
    "marbles",
    "pens",
    "stamps",
    "tickets",
)

_ANY = Wordings(
    train=(
        "{e}",
        "{e} = ?",
        "{e}=",
        "{e} is?",
        "what is {e}?",
        "what's {e}?",
        "What is {e}",
        "how much is {e}?",
        "calculate {e}",
        "calculate {e}.",
        "compute {e}",
        "work out {e}.",
        "solve {e}",
        "solve: {e}",
        "evaluate {e}.",
        "tell me {e}",
        "find {e}.",
        "please calculate {e}.",
        "can you work out {e} for me?",
        "could you tell me what {e} is, please?",
        "what do you get for {e}?",
        "what does {e} make?",
        "what does {e} equal?",
        "{e}, how much is that?",
        "quick question: {e}?",
        "sort out this sum: {e}",
        "sort this out for me: {e}",
        "how many units is {e}?",
        "in order to pay I need {e}, how much is it?",
        "give me the answer only: {e}",
        "my homework says {e}. What is the result?",
        "extract the result of {e}",
        "convert {e} to a single number.",
        "I am stuck on {e}, help me.",
        "on what number do I land with {e}?",
        "do the maths: {e}",
        "the answer to {e} is",
        "I need to know {e}.",
        "math question: {e} equals what?",
        "what number is {e}?",
        "hi, what is {e}?",
        "fill in the blank: {e} = __",
    ),
    held=(
        "would you mind calculating {e}?",
        "hey, {e} is what?",
        "what is the value of {e}?",
        "just the number please: {e}",
        "the till shows {e}. How much is that?",
        "my calculator is broken, so what is {e}?",
        "{e} gives?",
        "determine {e}.",
        "let me know how much {e} makes.",
        "put {e} in order and give the total value.",
        "a pupil asks: {e}?",
        "resolve {e} into one number.",
    ),
    test=(
        "what is the result of {e}?",
        "do you know {e}?",
        "I would like to know what {e} comes to.",
        "kindly compute {e}.",
        "my teacher asked me for {e}. What should I say?",
        "{e} makes how much?",
        "so, {e}?",
        "need a hand: {e}",
        "show me the answer to {e}.",
        "what will I get if I type {e}?",
        "simple one: {e} = what?",
        "sort it for me, {e} equals?",
    ),
)

_PLUS = Wordings(
    train=(
        "add {a} and {b}",
        "add {b} to {a}.",
        "what is the sum of {a} and {b}?",
        "find the sum of {a} and {b}.",
        "sum {a} and {b}.",
        "{a} and {b} together make how many?",
        "what is {a} increased by {b}?",
        "what is {b} more than {a}?",
        "if I add {b} to {a}, what do I get?",
        "how much are {a} and {b} in total?",
        "{n} has {a} {o} and gets {b} more. How many {o} now?",
        "I have {a} {o} and buy {b} more. How many do I have?",
        "{n} found {a} {o} on Monday and {b} on Friday. How many in all?",
        "one box holds {a} {o}, another holds {b}. How many {o} altogether?",
        "there are {a} {o} here and {b} there, how many are there?",
        "a pen costs {a} cents and a pad {b} cents. What do they cost together?",
        "{n} walked {a} metres, then {b} metres. How many metres in total?",
        "total of {a} and {b}?",
        "{n} scored {a} points and then {b} points. What is the total score?",
        "it is {a} degrees and gets {b} degrees warmer. What is the temperature?",
        "begin with {a} and gain {b}. What is it now?",
        "{n} painted {a} {o} before lunch and {b} after. How many did {n} paint?",
        "{a} people are on the left and {b} on the right. How many people?",
    ),
    held=(
        "what do {a} and {b} add up to?",
        "count {a} and {b} together.",
        "raise {a} by {b}.",
        "{n} read {a} pages today and {b} yesterday. How many pages is that?",
        "a bus with {a} people picks up {b} more. How many people are on it?",
        "put {a} {o} and {b} {o} in one bag; how many {o} are in it?",
    ),
    test=(
        "what total do {a} and {b} give?",
        "please add {a} to {b}.",
        "take {a}, then add {b}. Where do you end up?",
        "{n} bakes {a} {o} in the morning and {b} in the evening. How many does {n} bake?",
        "in my left hand are {a} {o}, in my right hand {b}. How many are in both hands?",
        "a shop sold {a} {o} and later {b} more. How many {o} were sold?",
    ),
)

_MINUS = Wordings(
    train=(
        "subtract {b} from {a}",
        "subtract {b} from {a}.",
        "take {b} away from {a}.",
        "take {b} from {a}, what is left?",
        "what is the difference between {a} and {b}?",
        "find the difference of {a} and {b}.",
        "what is {a} decreased by {b}?",
        "what is {b} less than {a}?",
        "if I take {b} from {a}, what remains?",
        "{a} take away {b} is what?",
        "how much more is {a} than {b}?",
        "{n} has {a} {o} and gives away {b}. How many are left?",
        "I had {a} {o} and lost {b}. How many do I still have?",
        "there were {a} {o}, {b} were sold. How many remain?",
        "{n} had {a} dollars and spent {b}. How many dollars are left?",
        "of {a} {o}, {b} are broken. How many are fine?",
        "a rope is {a} metres long and I cut off {b} metres. How long is the rest?",
        "{n} is {a} years old. How old was {n} {b} years ago?",
        "it was {a} degrees and fell by {b} degrees. What is the temperature?",
        "from {a} remove {b}.",
        "{n} plucks {a} {o} and throws away {b} of them. How many does {n} keep?",
        "{n} made {a} {o} but dropped {b}. How many are whole?",
        "the road is {a} miles long and we drove {b}. How many miles remain?",
        "of {a} pupils, {b} are ill. How many came?",
        "{b} plus which number is {a}?",
        "how many more than {b} is {a}?",
        "{n} has {b} {o} and wants {a}. How many are missing?",
        "begin with {a} and lose {b}. What remains?",
        "{a} less {b}",
        "{a} seats, {b} taken, how many free?",
    ),
    held=(
        "deduct {b} from {a}.",
        "lower {a} by {b}.",
        "how far is {b} from {a}?",
        "{n} owns {a} {o} and drops {b}. How many does {n} keep?",
        "a bus with {a} people lets out {b}. How many people stay?",
        "{a} guests came and {b} went home. How many are still here?",
    ),
    test=(
        "how much is left if you remove {b} from {a}?",
        "please take {b} off {a}.",
        "start at {a} and go down {b}. Where do you end up?",
        "{n} picks {a} {o} and eats {b} of them. How many does {n} still have?",
        "my book has {a} pages and I have read {b}. How many pages are left to read?",
        "what must I add to {b} to get {a}?",
    ),
)

_TIMES = Wordings(
    train=(
        "multiply {a} by {b}",
        "multiply {b} by {a}.",
        "multiply {a} and {b}.",
        "what is the product of {a} and {b}?",
        "find the product of {a} and {b}.",
        "what is {b} times {a}?",
        "how much is {b} lots of {a}?",
        "what are {b} groups of {a}?",
        "if I multiply {a} by {b}, what do I get?",
        "{b} boxes with {a} {o} each: how many {o}?",
        "{n} has {b} bags of {a} {o}. How many {o} in all?",
        "there are {b} rows of {a} chairs. How many chairs are there?",
        "a ticket costs {a} dollars. What do {b} tickets cost?",
        "{n} saves {a} cents a day for {b} days. How many cents is that?",
        "each of {b} children gets {a} {o}. How many {o} are needed?",
        "one page has {a} lines. How many lines are on {b} pages?",
        "{a} multiplied by {b} is",
        "a train makes {a} trips a week, how many in {b} weeks?",
        "one of them weighs {a} grams. What do {b} of them weigh?",
        "{n} needs {b} lots of {a} {o}. How many is that?",
        "{b} buses with {a} people on each, how many people?",
    ),
    held=(
        "take {a} {b} times.",
        "what do you get when {a} is multiplied by {b}?",
        "{b} packs hold {a} {o} each. How many {o} are there?",
        "{n} runs {a} metres {b} times. How many metres in total?",
        "a shelf holds {a} books. How many do {b} shelves hold?",
        "give me {b} times {a}.",
    ),
    test=(
        "what does {a} multiplied by {b} come to?",
        "please multiply {a} with {b}.",
        "{b} trays carry {a} {o} apiece. How many {o} do they carry?",
        "{n} buys {b} sets of {a} {o}. How many {o} does {n} buy?",
        "a machine makes {a} {o} an hour. How many in {b} hours?",
        "if one costs {a} cents, how many cents do {b} cost?",
    ),
)


def _with_any(own: Wordings) -> Wordings:
    """A form's own templates and the ones that take any expression."""
    return Wordings(_ANY.train + own.train, _ANY.held + own.held, _ANY.test + own.test)


WORDINGS = {
    "plus": _with_any(_PLUS),
    "minus": _with_any(_MINUS),
    "times": _with_any(_TIMES),
}

_SIGNS = {
    "plus": ("{a} + {b}", "{a}+{b}", "{a} + {b}", "{a} plus {b}"),
    "minus": ("{a} - {b}", "{a}-{b}", "{a} - {b}", "{a} minus {b}"),
    "times": ("{a} x {b}", "{a} * {b}", "{a}*{b}", "{a} times {b}"),
}


def plus(a: int, b: int) -> str:
    """What the specialist writes for a sum (by parts it learnt more slowly).

    >>> plus(47, 36)
    '47 + 36 = 83'
    """
    return f"{a} + {b} = {a + b}"


def minus(a: int, b: int) -> str:
    """What the specialist writes for a difference: less the tens, then less the ones.

    >>> minus(95, 66)
    '95 - 66 = 35 - 6 = 29'
    >>> minus(95, 60)
    '95 - 60 = 35'
    """
    tens, ones = b // 10 * 10, b % 10
    if tens and ones:
        return f"{a} - {b} = {a - tens} - {ones} = {a - b}"
    return f"{a} - {b} = {a - b}"


def times(a: int, b: int) -> str:
    """What the specialist writes for a product: tens first, then ones, then their sum.

    >>> times(64, 7)
    '64 * 7 = 420 + 28 = 448'
    >>> times(60, 7)
    '60 * 7 = 420'
    """
    tens, ones = a // 10 * 10 * b, a % 10 * b
    return f"{a} * {b} = {tens} + {ones} = {a * b}" if ones else f"{a} * {b} = {a * b}"


def _problem(rng: Random, form: str, a: int, b: int) -> Problem:
    """The problem `a form b`; a sum is the same problem whichever operand comes first."""
    solve = {"plus": plus, "minus": minus, "times": times}[form]
    target = solve(a, b)
    sign = rng.choice(_SIGNS[form]).format(a=a, b=b)
    low, high = sorted((a, b))
    slots = {"a": str(a), "b": str(b), "e": sign, "n": rng.choice(NAMES), "o": rng.choice(THINGS)}
    key = f"{high}-{low}" if form == "minus" else f"{low}{form}{high}"
    return Problem(form, key, slots, target.rsplit(" ", 1)[-1], "number", target)


def draw(rng: Random, split: Split) -> Problem:
    """One problem of the promised ranges, a third of each form; train has more of the harder ones."""
    shares = (3, 5, 2) if split == "train" else (1, 1, 1)
    form = rng.choices(("plus", "minus", "times"), shares)[0]
    if form == "times":
        return _problem(rng, form, rng.randint(10, 99), rng.randint(2, 9))
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    if form == "minus" and a < b:
        a, b = b, a
    return _problem(rng, form, a, b)


def draw_three_digit(rng: Random, split: Split) -> Problem:
    """A sum with two operands of 100..999."""
    del split
    return _problem(rng, "plus", rng.randint(100, 999), rng.randint(100, 999))


SKILL = Skill("arithmetic", "arithmetic", draw, WORDINGS, bare="{e}")
THREE_DIGIT = Skill("arithmetic", "arithmetic-3digit", draw_three_digit, WORDINGS)
