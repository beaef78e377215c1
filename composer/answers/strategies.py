"""Drafts of experts that write programs or call a tool: which program is to be run, what is told of its value, and what the
answer is read out of. Nothing is asked and nothing is run here.

`code` is PAL (Gao et al. 2023) and `tool` is ToRA's reasoning with calls (Gou et al. 2024), two of the strategies that PRISM
chooses among (METHODS G.1). There a model writes a function `solution`; here a program whose last expression is the answer.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field, replace

from composer.answers.program import script, syntax_error, tree
from composer.answers.sandbox import LONGEST, Outcome
from composer.settings.strategy import CALL_BEGINS, CALL_ENDS, CODE, Strategy, StrategySpec
from composer.types import Draft, Failure, Kind, Message, Prompt
from composer.untrusted import harmless

CALLS = 3
"""How often an expert may call the tool."""

BROKEN = "what runs programs failed"
_LONGEST_CALL = 500
_FENCED = re.compile(
    r"^[ \t]{0,3}(`{3,})[ \t]*[\w+#.-]{0,20}[ \t]*\n(.*?)(?:^[ \t]{0,3}\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_ANNOTATED = re.compile(r"\s*=[^=]*\Z")

_TOLD, _FAILED = "The value of {program} is {gave}", "{program} could not be run: {why}"
_GO_ON, _ENOUGH = "Go on.", "No more calls are left. Write the last line, which begins with `Answer:`."


@dataclass(frozen=True, slots=True)
class Call:
    """A program that was run: what it `gave` ("": nothing that can be an answer), and `why` it did not."""

    program: str
    gave: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Worked:
    """What became of a draft of an arm with a strategy: the programs that were run, the text that the answer is read out of
    (`said`, "": there is none), and `why` there is none."""

    use: Strategy
    calls: tuple[Call, ...] = ()
    said: str = ""
    why: str = ""


def gave(outcome: Outcome, kind: Kind) -> tuple[str, str]:
    """What a program gives as an answer of this kind, and why it gives none: the value of its last expression, else what it
    printed. A program that failed gives nothing, whatever it had printed before.

    >>> gave(Outcome("a, b", "", data='["a", "b"]'), "list"), gave(Outcome(None, "42\\n"), "number")
    (('a, b', ''), ('42', ''))
    >>> gave(Outcome("1, 2", "", data="[1, 2]"), "number")
    ('', 'it gives several values, and one number was asked for')
    """
    if outcome.why:
        return "", outcome.why
    if len(outcome.value or "") >= LONGEST:
        return "", f"what it gives is longer than {LONGEST} characters"
    value = None if outcome.data is None else json.loads(outcome.data)
    if kind == "number" and isinstance(value, list | dict):
        return "", "it gives several values, and one number was asked for"
    text = outcome.value
    if kind == "json" and isinstance(value, list | dict):
        text = outcome.data
    elif isinstance(value, dict):
        return "", f"it gives a mapping, which is no answer of the kind {kind}"
    text = (outcome.printed if text is None else text).strip()
    return (text, "") if text else ("", "it gives no value and prints nothing")


def shown(outcome: Outcome) -> tuple[str, str]:
    """What an expert is told that its call gives, and why it gives nothing: here any value is one.

    >>> shown(Outcome(None, "", data="true")), shown(Outcome(None, "", "ZeroDivisionError: division by zero"))
    (('true', ''), ('', 'ZeroDivisionError: division by zero'))
    """
    if outcome.why:
        return "", outcome.why
    text = (outcome.value or outcome.printed or (outcome.data or "")).strip()
    return (text[:LONGEST], "") if text not in ("", "null") else ("", "it gives no value and prints nothing")


def completed(program: str) -> str:
    """The program with what its last statement names as the last expression, where it ends with a value for a name or with a
    function of no arguments that nobody has called: small models often stop there.

    >>> completed("x = 47 + 38"), completed("print(3)")
    ('x = 47 + 38\\nx', 'print(3)')
    """
    if syntax_error(program) is not None:
        return program
    body = tree(program).body
    last = body[-1] if body else None
    if isinstance(last, ast.Assign) and len(last.targets) == 1 and isinstance(last.targets[0], ast.Name):
        return f"{program}\n{last.targets[0].id}"
    if isinstance(last, ast.FunctionDef) and not (last.args.args or last.args.posonlyargs or last.args.kwonlyargs):
        return f"{program}\n{last.name}()"
    return program


def first_call(text: str, *, whole: bool) -> tuple[str, int] | None:
    """The first call in a text, between <call> and </call> or a fenced block, and where it ends in the text; None where there is none.
    One that nothing closes counts in a text that is `whole` (the expert was stopped there).

    >>> first_call("So <call>12 * 7</call> is", whole=True), first_call("So <call>12 * 7", whole=False)
    (('12 * 7', 22), None)
    >>> first_call("<call>2+3=5", whole=True)
    ('2+3', 11)
    """
    inline, fenced = _inline(text, whole), _FENCED.search(text)
    if fenced is None or (inline is not None and inline[0] < fenced.start()):
        if inline is None:
            return None
        start, end = inline
        program = text[start + len(CALL_BEGINS) : end].removesuffix(CALL_ENDS).strip()
        if syntax_error(program) is not None:  # 2+3=5, as GSM8K's solutions have it
            program = _ANNOTATED.sub("", program)
        return program, end
    closed = fenced[0].rstrip().endswith(fenced[1])
    return (fenced[2].strip("\n"), fenced.end()) if closed or whole else None


def _inline(text: str, whole: bool) -> tuple[int, int] | None:
    """Where the first call between <call> and </call> begins and ends, on one line and not too long. No pattern: of a text full of
    beginnings a search would take minutes."""
    start = text.find(CALL_BEGINS)
    while start >= 0:
        last = min(len(text), start + _LONGEST_CALL)
        line = text.find("\n", start, last)
        close = text.find(CALL_ENDS, start + len(CALL_BEGINS), last if line < 0 else line)
        if close >= 0:
            return start, close + len(CALL_ENDS)
        if whole and line < 0 and last == len(text):
            return start, last
        start = text.find(CALL_BEGINS, start + 1)
    return None


@dataclass(slots=True)
class Attempt:
    """A draft of an arm with the strategy `spec` for a question of this kind, on its way to an answer. `program` is what is to
    be run next (None: nothing), `asks` whether the expert is to go on, `earlier` are its drafts before the last."""

    spec: StrategySpec
    kind: Kind
    draft: Draft
    program: str | None = None
    asks: bool = False
    why: str = ""
    calls: list[Call] = field(default_factory=list)
    earlier: list[Draft] = field(default_factory=list)
    _turns: list[Message] = field(default_factory=list)
    _kept: str = ""

    def __post_init__(self) -> None:
        self.heard(self.draft)

    def heard(self, draft: Draft) -> None:
        """The expert wrote this."""
        if draft is not self.draft:
            self.earlier.append(self.draft)
            self.draft = draft
        self.asks, self.program = False, None
        if draft.error is not None or draft.stop == "cancelled":
            self.why = "there is no draft"
        elif self.spec.use == CODE:
            self._read_program()
        else:
            self._read_call()

    def _read_program(self) -> None:
        if not self.draft.ok:
            self.why = "the draft was cut off"
        elif (found := script(self.draft.text)) is None:
            self.why = "there is no program in the draft"
        elif (wrong := syntax_error(found)) is not None:
            self.why = f"it is no Python: {wrong}"
        else:
            self.program = completed(found)

    def _read_call(self) -> None:
        call = first_call(self.draft.text, whole=self.draft.ok)
        if call is None:
            self.why = "" if self.draft.ok else "the draft was cut off"
        elif len(self.calls) == CALLS:
            self.why = f"it calls more than {CALLS} times"
        else:
            self.program, end = call
            self._kept = self.draft.text[:end]

    def ran(self, outcome: Outcome) -> None:
        """What came of the program."""
        assert self.program is not None
        program, self.program = self.program, None
        if outcome.broken:  # whether the draft is right nobody knows: it counts as one that failed
            self.why = f"{BROKEN}: {outcome.why}"
            self.calls.append(Call(program, why=self.why))
            self.draft = replace(self.draft, stop="error", error=Failure("sandbox", self.why))
            return
        if self.spec.use == CODE:
            value, self.why = gave(outcome, self.kind)
            self.calls.append(Call(program, value, self.why))
            return
        value, why = shown(outcome)
        self.calls.append(Call(program, value, why))
        quoted = f"`{harmless(program)[:LONGEST]}`"
        told = (
            _TOLD.format(program=quoted, gave=harmless(value))
            if value
            else _FAILED.format(program=quoted, why=harmless(why))
        )
        kept = self._kept if self._kept.rstrip().endswith((CALL_ENDS, "```")) else self._closed()
        rest = _GO_ON if len(self.calls) < CALLS else _ENOUGH
        self._turns += [Message("assistant", kept), Message("user", f"{told}\n{rest}")]
        self.asks = True

    def _closed(self) -> str:
        """What is kept of the text, with the end of its call that the expert was stopped before."""
        inline = self._kept.rfind(CALL_BEGINS) > self._kept.rfind("```")
        return self._kept + (CALL_ENDS if inline else "\n```")

    def give_up(self, why: str) -> None:
        """The expert cannot be asked again."""
        self.asks, self.why = False, why

    def prompt(self, first: Prompt) -> Prompt:
        """What it is asked next, after what it was asked `first`."""
        if isinstance(first, str):
            return first + "".join(f"{turn.content}\n" for turn in self._turns)
        return (*first, *self._turns)

    @property
    def worked(self) -> Worked:
        """What became of it. A draft whose program failed, or that ends with a call nobody answers, says nothing."""
        if self.spec.use == CODE:
            said = self.calls[-1].gave if self.calls else ""
        else:
            said = "" if self.why else self.draft.text
        return Worked(self.spec.use, tuple(self.calls), said, self.why)
