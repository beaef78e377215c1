"""Reads a Python program out of a draft. Nothing here runs it."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from typing import Literal

Verdict = Literal["passed", "failed", "timed out", "refused"]
"""What came of one test; `refused`: it was not run, so nobody knows."""

_FENCE = re.compile(r"^([ \t]{0,12})(`{3,}|~{3,})[ \t]*([\w+#.-]{0,20})[^\n`]*$", re.MULTILINE)
_PYTHON = frozenset({"python", "python3", "py", "py3"})
_DEFINES = re.compile(r"^[ \t]*(?:async[ \t]+def|def|class)[ \t]", re.MULTILINE)


def program(text: str) -> str | None:
    r"""The program of a draft, without the fence around it: the last fenced block, else the text where it is Python.

    Blocks said to be Python go before others, and blocks that define something before examples of how it is called.

    >>> program("Here:\n```python\ndef f(): return 1\n```\nCalled like this:\n```python\nf()\n```")
    'def f(): return 1'
    >>> program("x = 1"), program("I am not sure"), program("sorry")
    ('x = 1', None, None)
    """
    blocks = _blocks(text)
    python = [code for language, code in blocks if language in _PYTHON] or [code for _, code in blocks]
    defining = [code for code in python if _DEFINES.search(code)]
    if chosen := (defining or python)[-1:]:
        return chosen[0]
    code = _clean(text)
    return code if code and _is_python(code) else None


def script(text: str) -> str | None:
    r"""What of a draft is to be run: its Python blocks one after the other, else the text, where that is Python; a mere
    expression is, too.

    >>> script("47 + 38"), script("`sorted(['b', 'a'])`"), script("The sum is 85.")
    ('47 + 38', "sorted(['b', 'a'])", None)
    >>> script("```python\ndef f(a): return a\n```\nCalled:\n```python\nf(3)\n```")
    'def f(a): return a\nf(3)'
    """
    blocks = _blocks(text)
    python = [code for language, code in blocks if language in _PYTHON]
    if python or blocks:
        return "\n".join(python) or blocks[0][1]
    code = _clean(text).strip().strip("`").strip()
    return code if code and syntax_error(code) is None else None


def syntax_error(text: str) -> str | None:
    """Why a text is not Python; None where it is."""
    try:
        tree(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as why:
        line = f" on line {why.lineno}" if isinstance(why, SyntaxError) else ""
        return f"{why.msg if isinstance(why, SyntaxError) else why}{line}"
    return None


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block that holds something; one that was cut off ends with the text."""
    found: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[2].startswith(opened[2]) and not fence[3]:
            found.append((opened[3].lower(), _clean(text[opened.end() : fence.start()])))
            opened = None
        elif fence[3]:  # the end before was forgotten
            opened = fence
    if opened is not None:
        found.append((opened[3].lower(), _clean(text[opened.end() :])))
    return [(language, code) for language, code in found if code]


def _clean(code: str) -> str:
    lines = [line.rstrip() for line in code.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    return textwrap.dedent("\n".join(lines)).strip("\n")


def _is_python(text: str) -> bool:
    """Whether the text is a program and not a word, a number or a sentence that happens to be an expression."""
    if syntax_error(text) is not None:
        return False
    return any(not isinstance(line, ast.Expr) or isinstance(line.value, ast.Call) for line in tree(text).body)


def tree(text: str) -> ast.Module:
    """The program as Python parses it, without a word about what it warns of. Raises what `syntax_error` tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escape sequences
        return ast.parse(text)
