"""Reads a formula out of a draft and writes it in one form: most equal formulas get equal texts, `equal` compares the rest."""

from __future__ import annotations

import re

from composer.answers.number import DASHES, MARKER, after, boxed, first_number, last_number, whole_number

LONGEST = 1_000
"""Characters of a formula that are kept."""

_SYMBOLS = str.maketrans(
    {
        "×": r"\times ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∈": r"\in ",
        "√": r"\sqrt ",
        "°": r"^\circ ",
        "²": "^2",
        "³": "^3",
        "½": r"\frac{1}{2}",
        "\u00a0": " ",
        "\u202f": " ",
    }
)
_UNIT_LETTERS = "mgslLNVWh"  # no x, y, n and other names of unknowns
# What changes the look of a formula and not its value, in this order; spaces go last.
_STEPS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\\$|\$|\{,\}|\\!", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:left|right)(?![A-Za-z])\s{0,3}\.?|\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|~|\\(?:display|text)style(?![A-Za-z])", " "),
        (r"\s*,?\s*\\(?:text|mbox|textrm|mathrm)\s*\{\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s", ","),
        # "5 \text{ cm}^2": words behind a value are its unit; i, e and d would not be
        (r"(?<=[\d}).%])\s{0,3}\\(?:text|textrm|mbox)\s{0,3}\{[^{}]*\}\s{0,3}(?:\^\s?\{?\d\}?)?[\s.]{0,3}\Z", ""),
        (r"(?<=[\d}).%])\s{0,3}\\mathrm\s{0,3}\{\s{0,3}[^{}\s][^{}]+\}\s{0,3}(?:\^\s?\{?\d\}?)?[\s.]{0,3}\Z", ""),
        (
            r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname|fbox|boxed)\s{0,3}\{([^{}]*)\}",
            r"\1",
        ),
        (r"\s{0,3}\^\s{0,3}(?:\\circ(?![A-Za-z])|\{\s{0,3}\\circ\s{0,3}\})[\s.]{0,3}\Z|\\degree(?![A-Za-z])", ""),
        (r"\\(le|ge|ne)q(?![A-Za-z])", r"\\\1 "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\times(?![A-Za-z])|\*(?!\*)(?<!\*\*)", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\\%", "%"),
        (r"(?<![A-Za-z\\])(sqrt|pi|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1 "),
        (r"\\frac\s{0,3}(\w)\s{0,3}(\w)", r"\\frac{\1}{\2}"),
        (r"\\frac\s{0,3}(\w)\s{0,3}\{", r"\\frac{\1}{"),
        (r"\\frac\s{0,3}(\{[^{}]*\})\s{0,3}(\w)", r"\\frac\1{\2}"),
        (r"\\sqrt\s{0,3}(\w)", r"\\sqrt{\1}"),
        (r"\\sqrt\s{0,3}\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"(?<![\w.)}])-?\\frac\s{0,3}\{-([\w.]+)\}", r"-\\frac{\1}"),
        (r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", r"\1~"),
        (r"\s+", ""),
        (r"~", " "),
        (r"([\^_])\{(\w)\}", r"\1\2"),
    ]
]
_OUTER = " \t\r\n,;:?*`\"'"
_END = _OUTER + "."  # not in front: ".5"
_UNITS = re.compile(
    rf"([-+]?[$€£]?[\d.,]+%?)\s{{1,3}}(?!(?:and|or|pi|sqrt|sin|cos|tan|log|ln|mod)\b)"
    rf"(?:[A-Za-z]{{2,20}}|[{_UNIT_LETTERS}]\b)(?:[ /][A-Za-z]{{1,20}}){{0,4}}(?:\^\{{?\d\}}?)?"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z'-]*(?: [A-Za-z'-]+){0,5}")
_NAMES = re.compile(r"\b(?:sqrt|pi|sin|cos|tan|log|ln|inf)\b")
_CHAIN = re.compile(r"(?<![<>!])=")
_UNKNOWN = re.compile(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\w|_\{\w+\})?(?:\([a-z]\))?")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
_DIGIT = re.compile(r"\d")
_INTEGERS = re.compile(r"(-?)(\d+)/(\d+)")

_DELIMITED = re.compile(
    r"\$\$(?P<a>[^$]{1,1000})\$\$|\$(?! )(?P<b>[^$\n]{1,1000})(?<! )\$(?!\d)"
    r"|\\\((?P<c>[^\n]{1,1000}?)\\\)|\\\[(?P<d>(?:[^\\]|\\(?!\])){1,1000})\\\]"
)
_JOINT = re.compile(r"\s{0,3}(?:,|and|or|,\s{0,3}and|,\s{0,3}or)\s{0,3}")
_SENTENCE_END = re.compile(r"[.!?](?:\s|\Z)|\n|,\s(?=[a-z]{3})|\s(?=(?:because|since|which|where|when|as|so)\s)")
_FRACTION = re.compile(r"(?<![\w./])-?\d{1,9}/\d{1,9}(?![\w/]|\.\d)")
# No letters stand next to a word: "it is 5" is none, "2x + 3" and "x = 5 or x = 6" are. Possessive: nothing is retried.
_BARE = re.compile(
    r"(?:\\[A-Za-z]++|\\.|(?:sqrt|pi|sin|cos|tan|log|ln|and|or)(?![A-Za-z])"
    r"|[A-Za-z]{1,2}(?![A-Za-z])(?!\s+(?!and\b|or\b)[\w\\])|[\d\s\-+*/^_=<>(){}\[\].,:|!'%°$√π∞≤≥≠·×÷²³½∪∩])++"
)
_SIGN = re.compile(r"[\d\\^_=+*/<>]|\A\s*[A-Za-z]\s*\Z")


def formula(text: str) -> str | None:
    r"""The concluded formula of a draft in canonical form.

    That is the last \boxed{}, else what follows "the answer is", "answer:" or "####", else the whole text where it is
    nothing but a formula or one word, else its last formula between dollars or \( \), or a number on a later line.

    >>> formula(r"Hence $x = \dfrac12$."), formula(r"so \boxed{\frac{1}{2} \text{ cm}}"), formula("I am not sure.")
    ('\\frac{1}{2}', '\\frac{1}{2}', None)
    """
    text = text.translate(DASHES)
    if (inside := boxed(text)) and (found := canonical(inside)):
        return found
    if (tail := after(MARKER, text)) and (found := _concluded(tail)):
        return found
    plain = text.strip()
    if _bare(plain) or re.fullmatch(r"[A-Za-z]+[.!]?", plain):
        return canonical(plain)
    formulas = list(_DELIMITED.finditer(text))
    if formulas and not re.search(r"\n[^\n]*\d", text[formulas[-1].end() :]):
        return canonical(_inside(formulas[-1]))
    return _last(text) or (canonical(_inside(formulas[-1])) if formulas else None)


def labelled(gold: str) -> str | None:
    """A label in canonical form: as `formula` reads it where it is a worked solution, else as it stands."""
    if boxed(gold) is not None or "####" in gold:
        return formula(gold)
    whole = _DELIMITED.fullmatch(gold.strip())
    return canonical(_inside(whole) if whole else gold)


def canonical(text: str) -> str | None:
    r"""One form for formulas that look different and are the same; None where nothing is left.

    A plain number is written as `number` writes it, words are case-folded, units are dropped, "x = 5" is 5.

    >>> canonical(r"\left( \dfrac{1}{2} , 3 \right)"), canonical(r"1{,}000\text{ km}"), canonical(r"x = -\frac{3}4")
    ('(\\frac{1}{2},3)', '1000', '-\\frac{3}{4}')
    """
    plain = text[:LONGEST].translate(DASHES).translate(_SYMBOLS).strip(_OUTER).rstrip(_END)
    if unit := _UNITS.fullmatch(plain):
        plain = unit[1]
    if number := whole_number(plain):
        return number
    if (words := _unwrapped(plain)) and _WORDS.fullmatch(words) and len(words) > 2 and not _NAMES.search(words):
        return words.casefold()
    for pattern, replacement in _STEPS:
        plain = pattern.sub(replacement, plain)
    plain = _value(plain.strip(_OUTER).rstrip(_END))
    if integers := _INTEGERS.fullmatch(plain):
        plain = f"{integers[1]}\\frac{{{integers[2]}}}{{{integers[3]}}}"
    return whole_number(plain) or plain or None


def is_word(text: str) -> bool:
    """Whether a canonical answer is words and no formula, so that only the same words are equal to it."""
    return len(text) > 2 and _WORDS.fullmatch(text) is not None


def _unwrapped(text: str) -> str:
    match = re.fullmatch(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}]*)\}", text)
    return (match[1] if match else text).strip(_OUTER).rstrip(_END)


def _value(text: str) -> str:
    """The last part of a chain "a = b = c", and what an unknown or a sum is said to be; equations stay."""
    if "," in text or "<" in text or ">" in text:
        return text
    text = text.removeprefix(r"\approx").lstrip()
    parts = _CHAIN.split(text)
    if len(parts) > 2:
        return parts[-1]
    if (
        len(parts) == 2
        and (not _LETTER.search(parts[0]) or _UNKNOWN.fullmatch(parts[0]))
        and not _LETTER.search(parts[1])
    ):
        return parts[1]
    return text


def _concluded(tail: str) -> str | None:
    """The formula that a conclusion begins with or holds; else its number, else its words."""
    line = tail.split("\n", 1)[0]
    first = _DELIMITED.match(tail) or _DELIMITED.search(line)
    if first:
        parts = [_inside(first)]
        while (joint := _JOINT.match(tail, first.end())) and (following := _DELIMITED.match(tail, joint.end())):
            parts.append(_inside(following))
            first = following
        return canonical(",".join(parts))
    end = _SENTENCE_END.search(tail)
    phrase = (tail[: end.start()] if end else tail).strip(_OUTER).rstrip(_END)
    if _bare(phrase) or _UNITS.fullmatch(phrase):
        return canonical(phrase)
    if number := _first(line):
        return number
    return canonical(phrase) if _WORDS.fullmatch(phrase) else None


def _first(line: str) -> str | None:
    part = line[line.rfind("=") + 1 :]
    fraction = _FRACTION.search(part)
    return canonical(fraction[0]) if fraction and not _DIGIT.search(part[: fraction.start()]) else first_number(line)


def _last(text: str) -> str | None:
    fractions = list(_FRACTION.finditer(text))
    if fractions and not _DIGIT.search(text, fractions[-1].end()):
        return canonical(fractions[-1][0])
    return last_number(text)


def _bare(text: str) -> bool:
    return 0 < len(text) <= LONGEST and bool(_BARE.fullmatch(text)) and bool(_SIGN.search(text))


def _inside(match: re.Match[str]) -> str:
    return next(part for part in match.groups() if part is not None)
