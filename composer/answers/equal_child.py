"""Decides whether two formulas are equal, as a process of its own: `equal.py` starts it, asks it, and kills it.

Run as a script, and it imports nothing of `composer`. One JSON line comes in, `{"a": …, "b": …}`, one goes out,
`{"equal": …, "why": …}`; the first line out says that it is ready. It ends when its stdin does, so with its parent.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import signal
import sys
from typing import Any

import sympy
import sympy.physics.units  # names its units by text: done before reading text is switched off
from math_verify import LatexExtractionConfig, parse, verify
from sympy.parsing import sympy_parser

_FORMULAS_ONLY = [LatexExtractionConfig(boxed_match_priority=0)]  # the other extractor reads text as Python
_NUMERAL = re.compile(r"(Integer|Float) \(\s*'?([0-9.eE+-]+)'?\s*\)\s*")
_RELATIVE = 1e-5


def main(memory: int, seconds: float) -> None:
    """Answer until stdin ends. A comparison may use `seconds` of CPU, the process `memory` bytes of address space."""
    logging.disable()  # the library warns that it has no time-out of its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    sympy_parser.eval_expr = _numeral
    for limit, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    _tell({})
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # ends us where nobody is left to kill us
        task = json.loads(line)
        _tell(compared(task["a"], task["b"]))


def _tell(reply: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def compared(a: str, b: str) -> dict[str, Any]:
    """Whether either formula is equal to the other: the library asks for a right one, we do not know which it is."""
    left, right = (
        parse(f"${text}$", _FORMULAS_ONLY, fallback_mode="no_fallback", parsing_timeout=0) for text in (a, b)
    )
    if not left or not right:
        return {"equal": False, "why": f"not read as a formula: {(b if left else a)[:80]}"}
    same = verify(left, right, timeout_seconds=0) or verify(right, left, timeout_seconds=0)
    return {"equal": same and ("%" in a + b or _near(left[0], right[0])), "why": ""}


def _near(a: Any, b: Any) -> bool:
    """The library rounds to six places after the point, which makes all tiny values equal."""
    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr) and a.is_number and b.is_number):
        return True
    x, y = complex(a.evalf()), complex(b.evalf())
    return abs(x - y) <= _RELATIVE * max(abs(x), abs(y))


def _numeral(code: str, *_: Any) -> Any:
    """In place of sympy's `eval`: the numerals of a formula, and no other text, become values."""
    match = _NUMERAL.fullmatch(code)
    if match is None:
        raise ValueError("text is not evaluated")
    return (sympy.Integer if match[1] == "Integer" else sympy.Float)(match[2])


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
