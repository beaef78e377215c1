"""Reads the answer out of a draft, in one canonical form per kind, and says which answers are equal."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from composer.answers.equal import compare
from composer.answers.formula import formula
from composer.answers.number import DASHES, after, boxed, number
from composer.answers.program import Verdict, program
from composer.types import Kind

LOOK = 20_000
"""Characters of a draft that are looked at: the last ones for all that is concluded or fenced, the first ones for the rest."""

PHRASE = 4_000
"""Characters of one phrase that are compared. Unicode's normal forms take quadratic time on a run of accents."""

DEPTH = 32
"""How deeply JSON may be nested."""

_OUTER = " \t\r\n.,;:!?\"'`*_()[]{}<>…“”‘’«»¿¡"  # no + - # % $: they belong to C++, -40, C#, 5%, $3

_CONCLUSION = re.compile(r"^[ \t]{0,8}(?:final )?answer:", re.IGNORECASE | re.MULTILINE)
# The gaps are bounded, so that every pattern here stays linear in the length of the text.
_LETTER_MARKER = re.compile(r"\b(?:answer|option|choice)\b[^.\n=:]{0,40}?(?:\bis\b|[:=])", re.IGNORECASE)
_LIST_MARKER = re.compile(
    r"\b(?:answer|sorted|ordered|order|list|result|output)\b[^.,;\n=:]{0,40}?(?:\b(?:is|are)\b:?|:)",
    re.IGNORECASE,
)
_TEXT_MARKER = re.compile(r"\A\W{0,20}(?:the |my )?(?:final |correct |short )?answer(?: is\b|:)")

_PLAIN_NUMBER = re.compile(r"\s*[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d)\.?)(?:[eE][-+]?\d{1,2})?\s*")
_LATEX = re.compile(
    r"\\(?:boxed|[dt]?frac|sqrt|pi|infty|cdot|times|left|begin|text|mathrm|cup|in|leq?|geq?|neq?|pm|circ|theta|log|sin|cos)(?![A-Za-z])"
    r"|\bsqrt\b|[\w)}]\^[\w({-]|√"
)

_LONE_LETTER = re.compile(r"[\s*_\"'(\[]{0,20}([A-Za-z])[*_\"']{0,4}(?:[)\].:,]|\s+[-–—]\s|\s*\Z)")
_FIRST_LETTER = re.compile(r"[\s*_\"'(\[]{0,20}([A-Z])(?![\w'’])")
_NAMED_LETTER = re.compile(r"\b(?:option|choice|answer)\s{1,3}\(?([A-Z])\b(?!['’])", re.IGNORECASE)
_BRACKETED_LETTER = re.compile(r"\(([A-Z])\)")

_SEPARATOR = re.compile(r"[,;\n，、；]|→|->|=>")
_SAME_LINE = re.compile(r"[,;，、；]|→|->|=>")
_BULLET = re.compile(r"[ \t]{0,20}(?:[-*•·–][ \t]+|\(?\d{1,3}[.)][ \t]+)")
_INLINE_NUMBER = re.compile(r"(?<=\s)\(?\d{1,3}[.)][ \t]+")
_AND = re.compile(r" (?:and|&) ", re.IGNORECASE)
_COLON = re.compile(r":(?=\s)")
_ARTICLES = re.compile(r"\A(?:(?:the|an|a)(?=\s)|[" + re.escape(_OUTER) + "])++")

_OPENING = re.compile(r"[{\[]")
_WORD = re.compile(r"\d+(?:\.\d+)+|\w+|[^\w\s]")
_SILENT = frozenset(".,;:!?\"'`*_()[]{}<>…“”‘’«»¿¡-‐‑–—")


def extract(text: str, kind: Kind, choices: Sequence[str] = ()) -> str | None:
    """The canonical answer in `text`, or None where there is none. Pure and total: no text makes it raise.

    number  the first number after "the answer is", "answer:", "####" or in \\boxed{} (after its last "=", if any);
            otherwise the last one in the text that is no list numbering. Plain decimal, no trailing zeros.
    choice  a letter from A on, given as such, or as the text of exactly one of `choices`.
    list    items in order, case-folded: "a, b, c". Lead-ins, bullets and numbering are dropped.
    set     a list, sorted and without duplicates.
    json    the first balanced object or array, with sorted keys; None where a key comes twice, or for NaN.
    math    the last \\boxed{}, else the formula after "the answer is", else the last formula or number; see `canonical`.
    code    the last fenced Python that defines something, else the last fenced block, else the text where it is Python.
    text    what follows a line-initial "Answer:", else the whole text: NFKC, case-folded, without outer punctuation and articles.

    >>> extract("So 250 + 18 = 268.", "number"), extract("Sorted: ant, Bee and cow", "list")
    ('268', 'ant, bee, cow')
    >>> extract("I am not sure.", "number") is None
    True
    """
    text = text[-LOOK:] if kind in ("number", "choice", "math", "code") else text[:LOOK]
    text = text.encode("utf-8", "replace").decode("utf-8")
    match kind:
        case "number":
            return number(text.translate(DASHES))
        case "choice":
            return _choice(text, choices)
        case "list":
            return ", ".join(_items(text)) or None
        case "set":
            return ", ".join(sorted(set(_items(text)))) or None
        case "json":
            return _json(text)
        case "math":
            return formula(text)
        case "code":
            return program(text)
        case "text":
            return _phrase(conclusion(text)) or None


def agree(a: str | None, b: str | None) -> bool:
    """Whether two canonical answers are the same. None agrees with nothing, not even with None."""
    return a is not None and a == b


def codes(answers: Sequence[str | None], kind: Kind, verdicts: Sequence[Sequence[Verdict]] = ()) -> list[int]:
    """One integer per answer to the same question, equal for equal answers, counted in order; -1 where there is none.

    Canonical texts are compared, formulas also by `compare`: each is the first one before it that it is equal to.
    Programs are equal if they pass the same tests, where `verdicts` says for each answer what came of its tests.

    >>> codes(["4", None, "5", "4", None], "number"), codes([r"\\frac{1}{2}", "2", "0.5"], "math")
    ([0, -1, 1, 0, -1], [0, 1, 0])
    """
    if verdicts:
        answers = [answer and _behaviour(answer, row) for answer, row in zip(answers, verdicts, strict=True)]
    firsts: list[str] = []
    known: dict[str | None, int] = {None: -1}
    for answer in answers:
        if answer is None or answer in known:
            continue
        same = (i for i, first in enumerate(firsts) if kind == "math" and compare(first, answer).equal)
        known[answer] = next(same, len(firsts))
        if known[answer] == len(firsts):
            firsts.append(answer)
    return [known[answer] for answer in answers]


def _behaviour(answer: str, verdicts: Sequence[Verdict]) -> str:
    known = verdicts and "refused" not in verdicts
    return "".join("+" if verdict == "passed" else "-" for verdict in verdicts) if known else answer


def infer_kind(answer: str, choices: Sequence[str] = ()) -> Kind:
    """The kind of a labelled question whose file does not say it.

    >>> infer_kind("1,250"), infer_kind('{"a": 1}'), infer_kind("Paris|paris, France"), infer_kind("B", ["x", "y"])
    ('number', 'json', 'text', 'choice')
    >>> infer_kind(r"\\frac{1}{2}"), infer_kind("3/4")
    ('math', 'text')
    """
    if choices:
        return "choice"
    plain = answer.strip()
    if plain[:1] in ("{", "[") and _balanced(plain, 0) == len(plain) and _json(plain) is not None:
        return "json"
    if _PLAIN_NUMBER.fullmatch(plain.translate(DASHES)):
        return "number"
    return "math" if _LATEX.search(plain) else "text"


def conclusion(text: str) -> str:
    """What follows the last line that begins with "Answer:" (the steps before it are no answer), else the whole text.

    >>> conclusion("Thursday + 1 = Friday\\nAnswer: Friday"), conclusion("Friday")
    ('Friday', 'Friday')
    """
    ends = [match.end() for match in _CONCLUSION.finditer(text)]
    return text[ends[-1] :].strip() or text if ends else text


def words(text: str) -> list[str]:
    """The words of `text` for comparing phrases: case, accents, hyphens and punctuation make no difference."""
    plain = unicodedata.normalize("NFKD", _fold(text))
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", "".join(c for c in plain if not unicodedata.combining(c)))
    return [word for word in _WORD.findall(plain) if word not in _SILENT]


def holds(text: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether the words of `phrase` stand in `text` one after the other."""
    marked = f" {' '.join(text)} "
    return bool(phrase) and f" {' '.join(phrase)} " in marked


def _fold(text: str) -> str:
    # Case-folding can undo the normal form, hence twice.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text[:PHRASE]).casefold())


def _phrase(text: str) -> str:
    plain = " ".join(_fold(text).split()).rstrip(_OUTER)
    return _ARTICLES.sub("", _TEXT_MARKER.sub("", plain)) or plain.strip(_OUTER)


# --- choices


def _choice(text: str, choices: Sequence[str]) -> str | None:
    letters = string.ascii_uppercase[: len(choices)] if choices else "ABCDEFGHIJ"
    part = after(_LETTER_MARKER, text)
    for place in (boxed(text), part):
        if place is not None and (letter := _letter(_LONE_LETTER.match(place), letters)):
            return letter
    # "Answer: A dog" is the article as often as the letter: the text of a choice has the first word.
    if part is not None:
        first = _letter(_FIRST_LETTER.match(part), letters)
        found = _by_text(part, choices) if first in (None, "A", "I") else None
        if found or first:
            return found or first
    lines = [line for line in text.splitlines() if line.strip()]
    alone = [letter for line in lines if len(line) < 20 and (letter := _letter(_LONE_LETTER.fullmatch(line), letters))]
    return (
        _letter(_LONE_LETTER.match(text), letters)
        or _only(_letters(_NAMED_LETTER.findall(text), letters))
        or (alone[-1] if alone else None)
        or _by_text(text, choices)
        or _only(_letters(_BRACKETED_LETTER.findall(text), letters))
    )


def _letter(match: re.Match[str] | None, letters: str) -> str | None:
    return match[1].upper() if match and match[1].upper() in letters else None


def _letters(found: Iterable[str], letters: str) -> set[str]:
    return {letter for letter in found if letter in letters}


def _only(found: set[str]) -> str | None:
    return next(iter(found)) if len(found) == 1 else None


def _by_text(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one choice whose text stands in `text`; a choice inside a longer one that matches is dropped."""
    said = words(text[-PHRASE:])
    phrases = [words(choice) for choice in choices]
    same = {i for i, phrase in enumerate(phrases) if phrase and phrase == said}
    found = same or {i for i, phrase in enumerate(phrases) if holds(said, phrase)}
    found = {i for i in found if not any(phrases[i] != phrases[j] and holds(phrases[j], phrases[i]) for j in found)}
    return string.ascii_uppercase[found.pop()] if len(found) == 1 else None


# --- lists


def _items(text: str) -> list[str]:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    text = "\n".join(line for line in lines if not line.startswith("```")).strip()
    text = _past(text, _LIST_MARKER)
    bulleted = _bulleted(text)
    if bulleted:
        return _cleaned(bulleted)
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    part = next((part for part in parts if _SEPARATOR.search(part)), parts[0] if parts else "")
    # Lines broken after a comma are one line; what follows the line with the items is talk.
    lines = re.sub(r"([,;])\n", r"\1 ", part).split("\n")
    line = next((line for line in lines if _SAME_LINE.search(line)), part)
    line = _past(line, _COLON)
    if re.match(r"\(?1[.)]\s", line):
        line = _INLINE_NUMBER.sub("\n", line)
    items = _SEPARATOR.split(line)
    if len(items) > 1:
        # In "a, b and c" only the last comma is an "and"; "salt and pepper, oil" has two items.
        items[-1:] = _AND.split(items[-1])
    else:
        items = _AND.split(line)
        items = items if len(items) > 1 else line.split()
    return _cleaned(items)


def _past(text: str, marker: re.Pattern[str]) -> str:
    """`text` behind its last `marker`, unless the items stand before it and only talk follows."""
    rest = after(marker, text)
    if not rest:
        return text
    before = text[: len(text) - len(rest)]
    return rest if _SEPARATOR.search(rest) or not _SAME_LINE.search(before) else text


def _bulleted(text: str) -> list[str]:
    """The items of the last run of at least two bulleted or numbered lines."""
    runs: list[list[str]] = [[]]
    for line in text.split("\n"):
        bullet = _BULLET.match(line)
        if bullet:
            runs[-1].append(line[bullet.end() :])
        elif line.strip() and runs[-1]:
            runs.append([])
    return next((run for run in reversed(runs) if len(run) > 1), [])


def _cleaned(items: Sequence[str]) -> list[str]:
    plain = [" ".join(_fold(item).split()) for item in items]
    plain = [item[bullet.end() :] if (bullet := _BULLET.match(item)) else item for item in plain]
    plain = [re.sub(r"\A(?:and|&) (?=\S)", "", item).strip(_OUTER) for item in plain]
    # Folding can bring a comma out of a lookalike; the canonical form has it between items only.
    return [" ".join(item.replace(",", " ").split()) for item in plain if item.strip(_OUTER)]


# --- JSON


class _Refused(ValueError):
    """Well-formed JSON that has no canonical form."""


def _json(text: str) -> str | None:
    start = 0
    while opening := _OPENING.search(text, start):
        end = _balanced(text, opening.start())
        if end is None:
            return None  # cut off, or too deep: a part inside it would be another answer
        try:
            value = json.loads(
                text[opening.start() : end],
                object_pairs_hook=_object,
                parse_float=_float,
                parse_constant=_refuse,
            )
            canonical = json.dumps(_stripped(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            canonical.encode()
        except (_Refused, UnicodeEncodeError):
            return None
        except ValueError:  # brackets of prose, "[see below]": go on behind them
            start = end
        else:
            return canonical
    return None


def _balanced(text: str, start: int) -> int | None:
    """The end of the bracket that opens at `start`; None where it never closes or is nested deeper than DEPTH."""
    open_brackets, quoted, skip = "", False, False
    for place in range(start, len(text)):
        char = text[place]
        if skip:
            skip = False
        elif quoted:
            skip, quoted = char == "\\", char != '"'
        elif char == '"':
            quoted = True
        elif char in "{[":
            open_brackets += char
            if len(open_brackets) > DEPTH:
                return None
        elif char in "}]":
            open_brackets = open_brackets[:-1]
            if not open_brackets:
                return place + 1
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = {key.strip(): value for key, value in pairs}
    if len(row) < len(pairs):
        raise _Refused("a key comes twice")
    return row


def _float(number: str) -> float | int:
    value = float(number)
    if value in (float("inf"), float("-inf")):
        raise _Refused("a number without limit")
    return int(value) if value.is_integer() else value


def _refuse(constant: str) -> None:
    raise _Refused(constant)


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if isinstance(value, dict):
        return {key: _stripped(item) for key, item in value.items()}
    return value
