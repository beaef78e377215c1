"""Reads numbers and conclusions out of prose: what several kinds of answers share."""

from __future__ import annotations

import re
from decimal import Decimal

DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"))

# The gaps are bounded, so that every pattern here stays linear in the length of the text.
MARKER = re.compile(r"\banswer\b[^.\n=:]{0,40}?(?:\bis\b|[:=])|####", re.IGNORECASE)
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{|\\.|[{}]", re.DOTALL)
_NUMBER = re.compile(
    r"(?P<sign>(?:(?<![\w).])-|(?<=[=:][ ])-[ ]|(?<=\bis[ ])-[ ])?)(?:[$€£¥][ ]?(?P<late>-?))?"
    r"(?<!\w)(?<!\w\.)"
    r"(?P<body>(?:\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,2}(?!\w))?|\.\d+)"
)
_NUMBERING = re.compile(r"^[ \t]{0,20}(\d{1,2})[.)][ \t]+\S", re.MULTILINE)


def number(text: str) -> str | None:
    """The concluded number of a draft, else its last one that is no list numbering; dashes are plain already."""
    for part in (boxed(text), after(MARKER, text)):
        line = part.split("\n", 1)[0] if part else ""
        if result := first_number(line):
            return result
    return last_number(text)


def first_number(line: str) -> str | None:
    """The first number behind the last "=" of a line, else its first one."""
    result = _NUMBER.search(line, line.rfind("=") + 1) or _NUMBER.search(line)
    return _decimal(result) if result else None


def last_number(text: str) -> str | None:
    """The last number of a text, numbers that count its lines left out."""
    lines = list(_NUMBERING.finditer(text))
    counted = [int(line[1]) for line in lines] == list(range(1, len(lines) + 1))  # "85. That is ..." is no numbering
    numbering = {line.start(1) for line in lines} if counted else set()
    numbers = list(_NUMBER.finditer(text))
    answers = [match for match in numbers if match.start("body") not in numbering] or numbers
    return _decimal(answers[-1]) if answers else None


def whole_number(text: str) -> str | None:
    """A text that is nothing but a number, in its canonical form.

    >>> whole_number("$1,200.50"), whole_number("-.5"), whole_number("2x")
    ('1200.5', '-0.5', None)
    """
    match = _NUMBER.fullmatch(text)
    return _decimal(match) if match else None


def after(marker: re.Pattern[str], text: str) -> str | None:
    """What follows the last `marker`, without the spaces and stars before it; None where there is no marker."""
    ends = [match.end() for match in marker.finditer(text)]
    return text[ends[-1] :].lstrip(" \t\r\n*_:") if ends else None


def boxed(text: str) -> str | None:
    r"""What the last \boxed{} holds, braces inside it included; where none is closed, what follows the last opening.

    >>> boxed(r"\boxed{1} or \boxed{\frac{1}{2}}"), boxed(r"\boxed{7")
    ('\\frac{1}{2}', '7')
    """
    found, started = -1, -1
    inside = None
    boxes: list[int] = []  # where each open brace's box begins; -1: it is no box
    for match in _BRACES.finditer(text):
        token = match[0]
        if token[0] == "\\":
            if token[-1] == "{" and len(token) > 2:
                boxes.append(match.end())
                started = match.end()
        elif token == "{":
            boxes.append(-1)
        elif boxes and (start := boxes.pop()) > found:
            found, inside = start, text[start : match.start()]
    return inside if inside is not None or started < 0 else text[started:]


def _decimal(match: re.Match[str]) -> str:
    body = re.sub(r"[,\u00a0\u202f]", "", match["body"])
    plain = format(Decimal(body), "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    negative = (match["sign"] or match["late"]) and plain != "0"
    return f"-{plain}" if negative else plain
