"""The JSON schema that editors get."""

from __future__ import annotations

import json
from typing import Any

from composer.config import load_settings, packaged_registry, schema


def fits(value: Any, rule: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether `value` has the form of `rule`: the part of JSON schema that ours uses, bounds and patterns left out."""
    if "$ref" in rule:
        return fits(value, root["definitions"][rule["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in rule:
        return any(fits(value, one, root) for one in rule["anyOf"])
    if "enum" in rule:
        return value in rule["enum"]
    if rule.get("type") == "object":
        known, more = rule.get("properties", {}), rule.get("additionalProperties", True)
        return (
            isinstance(value, dict)
            and set(rule.get("required", ())) <= set(value)
            and all(
                fits(inner, known[key], root)
                if key in known
                else more is True or (isinstance(more, dict) and fits(inner, more, root))
                for key, inner in value.items()
            )
        )
    if rule.get("type") == "array":
        return isinstance(value, list) and all(fits(item, rule["items"], root) for item in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    types = {"string": isinstance(value, str), "boolean": isinstance(value, bool), "null": value is None}
    return {**types, "number": number, "integer": whole}.get(rule.get("type", ""), "type" not in rule)


def test_the_packaged_registry_fits_the_schema_and_bad_ones_do_not() -> None:
    data = load_settings(packaged_registry()).document.data
    rule = schema()

    assert fits(data, rule, rule)
    assert not fits(data | {"modles": {}}, rule, rule)
    assert not fits(data | {"experts": {"a": {"modle": "smollm2"}}}, rule, rule)
    assert not fits(data | {"experts": {"a": {"model": "smollm2", "answers": "numbr"}}}, rule, rule)


def test_the_schema_describes_every_field_and_is_plain_json() -> None:
    rule = json.loads(json.dumps(schema()))

    rows = [rule, *rule["definitions"].values()]
    bare = [
        f"{row['title']}.{key}" for row in rows for key, field in row["properties"].items() if not field["description"]
    ]
    assert rule["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "$defs" not in json.dumps(rule)
    assert bare == []


def test_the_packaged_registry_points_editors_to_the_schema() -> None:
    first = packaged_registry().read_text(encoding="utf-8").partition("\n")[0]

    assert first == "# yaml-language-server: $schema=experts.schema.json"
