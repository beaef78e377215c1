"""Reads a YAML 1.2 file as plain data that remembers its lines, and refuses what a settings file has no need of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from composer.document import Document
from composer.errors import ConfigError, child

MAX_DEPTH = 32
MAX_NUMBER = 40  # characters; a longer run of digits (a hash, say) is text
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def parse(text: str, name: str) -> Document:
    """`text` as a document. Raises ConfigError for anything but one mapping of text keys, without anchors, aliases or
    tags, and for a key that stands twice."""
    tree = _Tree(name)
    yaml = YAML(typ="safe", pure=True)
    try:
        data = tree.document(yaml.parse(text))
    except MarkedYAMLError as why:
        mark = why.problem_mark or why.context_mark
        told = ", ".join(part for part in (why.context, why.problem) if part)
        tab = "\\t" in told
        remedy = "indent with spaces" if tab else "check indentation, quotes and brackets here and on the line above"
        raise tree.error(f"is not YAML: {told}", mark.line + 1 if mark else 1, remedy) from why
    except (YAMLError, ValueError, OverflowError) as why:  # what ruamel raises for odd characters and escapes
        place = getattr(why, "position", 0)
        told = str(why).partition("\n")[0]
        raise tree.error(f"is not YAML: {told}", text.count("\n", 0, place) + 1, "remove the character") from why
    if data is None:
        raise tree.error("is empty", 1, "write `models:` and `experts:`, or start from a copy of the packaged registry")
    if not isinstance(data, dict):
        raise tree.error("is no mapping: expected `models:` and `experts:` at the top", 1, "write `key: value` lines")
    return Document(name, data, tree.lines)


class _Tree:
    """Builds plain data from parser events: what is refused is refused before anything is built of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[str, int] = {"": 1}

    def error(self, what: str, line: int, remedy: str, path: str = "") -> ConfigError:
        return ConfigError(what, where=f"{self.name}:{line}" + (f" ({path})" if path else ""), remedy=remedy)

    def document(self, events: Iterator[Event]) -> Any:
        """The only document among `events`; None if there is none."""
        data: Any = None
        seen = False
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, DocumentStartEvent):
                if seen:
                    raise self.error("holds a second document", line, "remove the `---` line, or split the file")
                if event.version not in (None, (1, 2)):
                    raise self.error("asks for another YAML than 1.2", line, "remove the `%YAML` line")
                seen = True
            elif isinstance(event, NodeEvent):
                data = self.node(event, events, "", 1)
        return data

    def node(self, event: Any, events: Iterator[Event], path: str, depth: int) -> Any:
        """The value that starts with `event`; takes its other events from `events`."""
        line = event.start_mark.line + 1
        self.refuse(event, line, path)
        if depth > MAX_DEPTH:
            raise self.error(f"is nested more than {MAX_DEPTH} deep", line, "flatten it", path)
        if isinstance(event, MappingStartEvent):
            return self.mapping(events, path, depth)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            for item in events:
                if isinstance(item, SequenceEndEvent):
                    break
                place = child(path, len(items))
                self.lines[place] = item.start_mark.line + 1
                items.append(self.node(item, events, place, depth + 1))
            return items
        return self.scalar(event, line, path)

    def mapping(self, events: Iterator[Event], path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            line = event.start_mark.line + 1
            self.refuse(event, line, path)
            if not isinstance(event, ScalarEvent):
                raise self.error("a name cannot be a list or a mapping", line, "write `name: value`", path)
            key = self.scalar(event, line, path)
            if not isinstance(key, str):
                raise self.error(
                    f"the name `{event.value}` is {_kind(key)}, expected text", line, f'quote it: "{event.value}"', path
                )
            if not key.isprintable():
                raise self.error(f"the name {key!r} holds a control character", line, "remove it", path)
            place = child(path, key)
            if key in found:
                raise self.error(
                    f"`{key}` stands twice: on line {self.lines[place]} and on line {line}",
                    line,
                    "rename or remove one of them",
                    place,
                )
            self.lines[place] = line
            found[key] = self.node(next(events), events, place, depth + 1)
        return found

    def refuse(self, event: Any, line: int, path: str) -> None:
        """Anchors, aliases and tags: a file that repeats itself without them stays small when it is read."""
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if isinstance(event, AliasEvent):
            what, remedy = f"aliases are not used here: `*{anchor:.60}`", "write the value out; quote it if it is text"
        elif anchor is not None:
            what, remedy = f"anchors are not used here: `&{anchor:.60}`", "remove it; quote the value if it is text"
        elif tag is not None:
            what, remedy = f"tags are not used here: `{tag:.60}`", "remove it; quote the value if it is text"
        else:
            return
        raise self.error(what, line, remedy, path)

    def scalar(self, event: ScalarEvent, line: int, path: str) -> str | int | float | bool | None:
        """A plain scalar by YAML 1.2's core rules (`no` and `12:30` are text); anything quoted is text."""
        text: str = event.value
        try:
            text.encode()
        except UnicodeEncodeError as why:
            raise self.error("holds half of a character (a lone surrogate)", line, "remove the escape", path) from why
        if event.style not in (None, "") or not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if len(text) <= MAX_NUMBER and _INT.fullmatch(text):
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if len(text) <= MAX_NUMBER and _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text


def _kind(value: Any) -> str:
    """What a YAML value is, in words.

    >>> _kind(True), _kind(1.1), _kind(None)
    ('a boolean', 'a number', 'empty')
    """
    if value is None:
        return "empty"
    return "a boolean" if isinstance(value, bool) else "a number"
