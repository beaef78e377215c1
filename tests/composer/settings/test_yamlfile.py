"""YAML 1.2 as settings need it: plain data with lines, and a clear no to everything else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.errors import ConfigError
from composer.settings.yamlfile import parse


def told(text: str) -> ConfigError:
    """The error that `text` gets."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert caught.value.where and caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-7", -7),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1.10", 1.1),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("12:30:45", "12:30:45"),
        ("2001-12-14", "2001-12-14"),
        ("<<", "<<"),
        ("=", "="),
        ("'12'", "12"),
        ('"true"', "true"),
        ("0" * 64, "0" * 64),
        ("7" * 5000, "7" * 5000),
    ],
)
def test_scalars_follow_the_core_rules_of_yaml_1_2(scalar: str, value: Any) -> None:
    found = parse(f"a: {scalar}", "f.yaml").data["a"]

    assert (found, type(found)) == (value, type(value))


def test_lines_are_those_of_names_and_items() -> None:
    document = parse("a:\n  - {b: 1,\n     c: 2}\n  -\n    d\n'e f': |\n  text\n", "f.yaml")

    assert document.data == {"a": [{"b": 1, "c": 2}, "d"], "e f": "text\n"}
    assert document.lines == {"": 1, "a": 1, "a[0]": 2, "a[0].b": 2, "a[0].c": 3, "a[1]": 5, "e f": 6}


def test_a_place_that_is_not_there_has_the_line_of_the_nearest_above() -> None:
    document = parse("\na:\n  - {b: 1}\n", "f.yaml")

    assert document.where("a[0].c.d[3]") == "f.yaml:3 (a[0].c.d[3])"
    assert document.where("z") == "f.yaml:1 (z)"


def test_a_name_that_stands_twice_is_refused_with_both_lines() -> None:
    error = told("a:\n  b: 1\n  c: 2\n  'b': 3\n")

    assert error.where == "f.yaml:4 (a.b)"
    assert "on line 2 and on line 4" in error.what


@pytest.mark.parametrize("name", ["1.10", "12", "0x1f", "true", "null", "~"])
def test_a_name_that_is_no_text_has_to_be_quoted(name: str) -> None:
    error = told(f"a: 1\n{name}: 2\n")

    assert error.where == "f.yaml:2"
    assert error.remedy == f'quote it: "{name}"'
    assert parse(f'"{name}": 2', "f.yaml").data == {name: 2}


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        ("a: &x 1\nb: *x", "anchors are not used here: `&x`", "quote"),
        ("a: *x", "aliases are not used here: `*x`", "quote"),
        ("models: !!python/object:os.system x", "tags are not used here", "remove"),
        ("models: !secret x", "tags are not used here: `!secret`", "remove"),
        ("models: ! x", "tags are not used here", "remove"),
        ("%YAML 1.1\n---\na: 1", "another YAML than 1.2", "remove the `%YAML` line"),
        ("a: 1\n---\nb: 2", "second document", "---"),
        ("? [a]\n: b", "a name cannot be a list", "name: value"),
        ('"a\\nb": 1', "control character", "remove"),
        ('a: "\\ud800"', "lone surrogate", "remove"),
        ('a: "\\UFFFFFFFF"', "is not YAML", "remove"),
        ("a: b\x00c", "is not YAML", "remove"),
        ("a:\n\t- b", "is not YAML", "indent with spaces"),
        ("a: [1", "is not YAML", "brackets"),
        ("a: b: c", "is not YAML", "quotes"),
        ("", "is empty", "models:"),
        ("# nothing but a comment", "is empty", "models:"),
        ("---\n...\n", "is empty", "models:"),
        ("- a\n- b", "is no mapping", "key: value"),
        ("experts", "is no mapping", "key: value"),
        ("a: " + "[" * 200, "nested more than 32 deep", "flatten"),
        ("a: " + "{b: " * 50 + "}" * 50, "nested more than 32 deep", "flatten"),
    ],
)
def test_yaml_that_a_registry_has_no_need_of_is_refused(text: str, what: str, remedy: str) -> None:
    error = told(text)

    assert str(error.where).startswith("f.yaml:")
    assert what in error.what
    assert remedy in str(error.remedy)


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
    )

    error = told(bomb)

    assert error.where == "f.yaml:1 (a)"


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab1:-,[]{}&*!|>'\"%@#?.~ \n\t\\<ux\u0000\u0085\ufeff"), max_size=60))
def test_any_text_is_a_document_or_a_config_error(text: str) -> None:
    try:
        document = parse(text, "f.yaml")
    except ConfigError as error:
        assert error.where and error.remedy
    else:
        assert set(document.data) <= set(document.lines)
