"""Writes what was learnt into a registry file, and leaves everything else in it as its author wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from composer.config import load_settings, packaged_registry
from composer.errors import InputError
from composer.jsonl import write_atomic

_LIST = re.compile(r"(?m)^\w[^\n]*:[ ]*(?:#[^\n]*)?\n( *)- ")  # a list right below a key at the margin
_PLAIN = re.compile(r"[A-Za-z][\w./+-]*( [\w./+-]+)*", re.ASCII)
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_STEPS = ("decide", "generate", "verify", "aggregate")
_REPLACED = ("policy", "select", "k", "doubt")  # options of `decide` that say who is asked


def with_plan(text: str, options: dict[str, Any], by: str) -> str:
    """The registry file `text` whose pipeline asks by these options of `decide` and combines with `by`; comments stay.

    >>> print(with_plan("models: {}  # none yet\\n", {"k": 2}, "majority"), end="")
    models: {}  # none yet
    pipeline:
    - use: decide
      options: {router: auto, k: 2}
    - use: generate
    - use: verify
    - use: aggregate
      options: {by: majority}
    """
    yaml = YAML(typ="rt")
    yaml.width = 10_000  # long lines stay as they are
    yaml.preserve_quotes = True
    found = _LIST.search(text)
    offset = len(found[1]) if found else 0
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    data = yaml.load(text)
    steps = data.setdefault("pipeline", [{"use": name} for name in _STEPS])
    for step in steps:
        if step["use"] == "decide":
            _put(yaml, step, {"router": "auto", **options}, _REPLACED)
        if step["use"] == "aggregate":
            _put(yaml, step, {"by": by}, ())
    out = StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _put(yaml: YAML, step: Any, options: dict[str, Any], replaced: tuple[str, ...]) -> None:
    own = step.setdefault("options", yaml.map())
    if not own:
        own.fa.set_flow_style()
    for name in replaced:
        own.pop(name, None)
    for name, value in options.items():
        own[name] = value


def is_packaged(path: Path) -> bool:
    """Whether this is the registry that comes with the package, which is nobody's to change."""
    return path.resolve() == packaged_registry().resolve()


def with_rows(text: str, group: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The registry file `text` with these rows at the end of `models:` or `experts:`; every other byte stays.

    >>> print(with_rows("experts:\\n  a: {model: m}\\n\\n# the end\\n", "experts", {"b": {"model": "m"}}), end="")
    experts:
      a: {model: m}
      b:
        model: m
    <BLANKLINE>
    # the end
    """
    lines = text.splitlines(keepends=True)
    head = next((i for i, line in enumerate(lines) if re.match(rf"{group}:\s*(#.*)?$", line)), None)
    if head is None:
        raise InputError(
            f"`{group}:` does not begin a list of lines",
            remedy=f"write `{group}:` on a line of its own, and each row below it",
        )
    end = head + 1
    for i, line in enumerate(lines[head + 1 :], head + 1):
        if line.strip() and not line.startswith((" ", "#")):
            break
        if line.startswith(" ") and line.strip():
            end = i + 1
    first = next((line for line in lines[head + 1 : end] if not line.lstrip().startswith("#") and line.strip()), "  ")
    margin = first[: len(first) - len(first.lstrip())]
    if lines[end - 1][-1:] != "\n":
        lines[end - 1] += "\n"
    return "".join(
        [*lines[:end], *(line for name, row in rows.items() for line in _block(name, row, margin)), *lines[end:]]
    )


def _block(name: str, row: Mapping[str, Any], margin: str) -> Iterator[str]:
    yield f"{margin}{name}:\n"
    for key, value in row.items():
        if isinstance(value, Mapping) and key == "adapter" and "path" in value:
            yield from _block(key, value, f"{margin}  ")
        else:
            yield f"{margin}  {key}: {_flow(value)}\n"


def _flow(value: Any) -> str:
    """A value on one line; texts are quoted unless they are plain words."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


def write_registry(path: Path, text: str) -> None:
    """Make `text` the registry file at `path`, if it is a registry that loads.

    Raises InputError for the packaged registry, which is nobody's to change, and ConfigError where the file would not load.
    """
    if is_packaged(path):
        raise InputError(
            "the packaged registry is not changed",
            where=str(path),
            remedy="copy it to ./experts.yaml, and run the command again there",
        )
    draft = path.with_name(f".{path.name}.plan.yaml")
    try:
        draft.write_text(text, encoding="utf-8")
        load_settings(draft)
    finally:
        draft.unlink(missing_ok=True)
    with write_atomic(path) as file:
        file.write(text)


def write_plan(path: Path, options: dict[str, Any], by: str) -> None:
    """Write the plan into the registry file at `path`. Raises as `write_registry`."""
    write_registry(path, with_plan(path.read_text(encoding="utf-8"), options, by))
