"""Checks plain data against a pydantic row, and says in our words what was found where, what was expected, what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from composer.errors import ConfigError, child, suggest

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "nothing",
}
_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "true": "true"}
_BOOLEANS |= {"no": "false", "off": "false", "n": "false", "false": "false"}


class Row(BaseModel):
    """The form of outside data: an unknown key is an error, and nothing is converted (`"8"` is no number)."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, arbitrary_types_allowed=True
    )


R = TypeVar("R", bound=Row)


def check(row: type[R], data: Mapping[str, Any], where: Callable[[str], str]) -> R:
    """`data` as a `row`. Raises ConfigError on the first fault, naming the places of the others; `where` turns a path
    such as `models.smollm2.context` into what the error calls its place."""
    try:
        return row.model_validate_json(json.dumps(data))  # as JSON, so that a list may fill a tuple
    except ValidationError as why:
        faults: dict[str, list[ErrorDetails]] = {}
        # unknown keys first: a misspelt key is why another one is missing
        for fault in sorted(why.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden"):
            faults.setdefault(_path(data, fault), []).append(fault)
        (path, first), *others = faults.items()
        what, remedy = _explain(row, path, first)
        also = "".join(f"\n  also wrong: {where(other)}" for other, _ in others)
        raise ConfigError(what + also, where=where(path), remedy=remedy) from why


def _path(data: Any, fault: ErrorDetails) -> str:
    """The part of pydantic's place that is in the data (it adds the branches of a union), and a missing key."""
    path = ""
    for part in fault["loc"]:
        inside = part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int)
        if inside:
            path, data = child(path, part), data[part]
        elif fault["type"] == "missing":
            return child(path, part)
    return path


def _explain(row: type[Row], path: str, faults: list[ErrorDetails]) -> tuple[str, str]:
    """(what, remedy) of the faults at one path."""
    fault = faults[0]
    kind, found = fault["type"], fault["input"]
    name = str(fault["loc"][-1]) if fault["loc"] else path
    field, known, example = _field(row, fault["loc"])
    meant = f" ({field.description})" if field and field.description else ""
    if kind == "extra_forbidden":
        return f"unknown key `{name}`", suggest(name, known)
    if kind == "missing":
        return f"`{name}` is missing{meant}", f"add it, {example}" if example else f"add `{name}:`"
    if kind == "bool_type" and isinstance(found, str) and found.lower() in _BOOLEANS:
        return f"`{found}` is text in YAML 1.2, expected true or false", f"write {_BOOLEANS[found.lower()]}, unquoted"
    expected = " or ".join(dict.fromkeys(_expected(one) for one in faults))
    what = f"found {_found(found)}, expected {expected}{meant}"
    if kind == "literal_error" and isinstance(found, str):
        return what, suggest(found, fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    if kind == "string_type" and isinstance(found, bool | int | float):
        return what, f"{example or 'numbers, true and false are no text'}; quote what is meant as text"
    if kind in ("int_type", "float_type") and isinstance(found, str) and found.replace(".", "", 1).isdecimal():
        return what, f"remove the quotes: {found}"
    return what, example or f"write {expected}"


def _expected(fault: ErrorDetails) -> str:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "too_short":
        return f"{context['min_length']} or more of them"
    if kind == "too_long":
        return f"at most {context['max_length']} of them"
    if kind == "string_pattern_mismatch":
        return "another form"
    told = fault["msg"].removeprefix("Input should be ")
    if told.startswith(("greater", "less")):
        return f"a number {told}"
    return _EXPECTED.get(kind, told[0].lower() + told[1:])


def _found(value: Any) -> str:
    """A value in words; long and structured ones are not repeated.

    >>> _found(True), _found({"a": 1}), _found("many")
    ('true', 'a mapping', "'many'")
    """
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str) else _yaml(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _yaml(value: Any) -> str:
    """A value in one line of YAML.

    >>> _yaml({"in": 0.5, "stop": ["a", "\\n"], "on": True})
    '{in: 0.5, stop: [a, "\\\\n"], on: true}'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _field(row: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[FieldInfo | None, list[str], str]:
    """The field that `loc` leads to (None: an unknown key), the keys its row knows, and an example of it."""
    here: type[BaseModel] | None = row
    field: FieldInfo | None = None
    known: list[str] = []
    shown = ""
    parts = iter(loc)
    for part in parts:
        if here is None:
            break
        fields = {info.alias or name: info for name, info in here.model_fields.items()}
        field, known = fields.get(str(part)), list(fields)
        if field is None:
            break
        example = (field.examples or [None])[0]
        shown = f"{part}: {_yaml(example)}"
        if get_origin(field.annotation) in (dict, list):
            place = next(parts, None)  # a name or an index in the container
            if isinstance(place, str) and isinstance(example, dict):
                example = next(iter(example.values()), None)
                shown = f"{place}: {_yaml(example)}"
            elif isinstance(place, int) and isinstance(example, list):
                example = next(iter(example), None)
                shown = f"- {_yaml(example)}"
        shown = "" if example is None else f"for example `{shown}`"
        here = _inner(field.annotation)
    return field, known, shown


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The row inside an annotation such as `dict[str, Row]` or `Row | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((row for part in get_args(annotation) if (row := _inner(part))), None)
