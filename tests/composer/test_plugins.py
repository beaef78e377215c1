"""Extensions come through real entry points of installed packages; their options are checked by their own signatures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from composer.errors import ConfigError
from composer.plugins import check_options, load, names

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with one module and its entry points where Python finds them, as pip would."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def add(package: str, entries: str, source: str = "") -> None:
        module = package.replace("-", "_")
        modules.append(module)
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(entries, encoding="utf-8")

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def test_a_plugin_of_another_package_is_loaded_by_name(install: Install) -> None:
    install("coe-test-plugin", "[coe.routers]\ncoin = coe_test_plugin:toss\n", "def toss():\n    return 'heads'\n")

    assert load("routers", "coin")() == "heads"
    assert "coin" in names("routers")


def test_only_the_module_of_the_named_plugin_is_imported(install: Install) -> None:
    install("coe-test-plugin", "[coe.routers]\ncoin = coe_test_plugin:toss\n", "def toss(): ...\n")
    install("coe-test-other", "[coe.routers]\ndie = coe_test_other:roll\n", "raise RuntimeError('imported')\n")

    load("routers", "coin")

    assert "coe_test_other" not in sys.modules


def test_an_unknown_name_gets_the_known_ones_and_a_guess(install: Install) -> None:
    install("coe-test-plugin", "[coe.stages]\nponder = coe_test_plugin:ponder\n", "def ponder(): ...\n")

    with pytest.raises(ConfigError) as caught:
        load("stages", "pondr", "experts.yaml:7 (pipeline[0].use)")

    assert caught.value.what == "no stage is called 'pondr'"
    assert caught.value.where == "experts.yaml:7 (pipeline[0].use)"
    assert str(caught.value.remedy).startswith("did you mean `ponder`? known: ")


def test_two_packages_that_offer_one_name_are_refused(install: Install) -> None:
    for package in ("coe-test-one", "coe-test-two"):
        install(package, f"[coe.policies]\nbold = {package.replace('-', '_')}:bold\n", "def bold(): ...\n")

    with pytest.raises(ConfigError, match="offered twice") as caught:
        load("policies", "bold")

    assert "coe-test-one" in caught.value.what and "coe-test-two" in caught.value.what


def test_our_own_names_cannot_be_taken_over(install: Install) -> None:
    install(
        "composition-of-experts", "[coe.stages]\nponder = composition_of_experts:mine\n", "def mine(): return 'ours'\n"
    )
    install("coe-test-plugin", "[coe.stages]\nponder = coe_test_plugin:theirs\n", "def theirs(): return 'theirs'\n")

    assert load("stages", "ponder")() == "ours"


@pytest.mark.parametrize(
    ("source", "told"),
    [("import no_such_library\n", "no_such_library"), ("", "has no attribute 'start'")],
    ids=["missing library", "missing name"],
)
def test_a_plugin_that_does_not_import_names_its_package(install: Install, source: str, told: str) -> None:
    install("coe-test-plugin", "[coe.engines]\nwarp = coe_test_plugin:start\n", source)

    with pytest.raises(ConfigError, match="does not load") as caught:
        load("engines", "warp", "experts.yaml:3 (models.small.engine)")

    assert told in caught.value.what
    assert "coe-test-plugin" in str(caught.value.remedy)
    assert caught.value.where == "experts.yaml:3 (models.small.engine)"


# Options --------------------------------------------------------------------------------------------------------------


def stage(
    kit: object,
    *,
    by: Literal["best", "majority"] = "best",
    k: Annotated[int, Field(ge=1)] = 1,
    stop: tuple[str, ...] = (),
    schema: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """A factory as stages have them; an option may even be called as pydantic calls its own."""
    return {"by": by, "k": k, "stop": stop, "schema": schema, "strict": strict}


def needy(*, path: str) -> str:
    """A factory with an option that must be given."""
    return path


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A factory as routers have them."""

    k: int = 30
    floor: float = 0.2


def where(option: str) -> str:
    """As a registry file answers it."""
    return f"experts.yaml:9 (pipeline[0].options.{option})"


def test_options_become_keyword_arguments_of_the_factory() -> None:
    options = check_options(stage, {"by": "majority", "k": 3, "stop": ["a", "b"], "schema": "{}"}, where)

    assert options == {"by": "majority", "k": 3, "stop": ("a", "b"), "schema": "{}"}
    assert stage(None, **options)["strict"] is False


def test_what_is_left_out_is_left_to_the_factory() -> None:
    assert check_options(stage, {}, where) == {}


def test_a_class_takes_its_constructors_arguments() -> None:
    assert Neighbours(**check_options(Neighbours, {"k": 5, "floor": 0}, where)) == Neighbours(5, 0.0)


@pytest.mark.parametrize(
    ("factory", "options", "option", "what", "remedy"),
    [
        (stage, {"bye": "best"}, "bye", "unknown key `bye`", "did you mean `by`? known: by, k, schema, stop, strict"),
        (stage, {"kit": 1}, "kit", "unknown key `kit`", "known: by, k, schema, stop, strict"),
        (stage, {"by": "mojority"}, "by", "'best' or 'majority'", "did you mean `majority`?"),
        (stage, {"k": "3"}, "k", "found '3', expected a whole number", "remove the quotes"),
        (stage, {"k": 0}, "k", "greater than or equal to 1", "write a number greater than or equal to 1"),
        (stage, {"stop": "a"}, "stop", "found 'a', expected a list", "write a list"),
        (stage, {"stop": ["a", 1]}, "stop[1]", "found 1, expected text", "quote"),
        (stage, {"strict": "no"}, "strict", "`no` is text in YAML 1.2", "write false"),
        (needy, {}, "path", "`path` is missing", "add `path:`"),
        (Neighbours, {"floor": "low"}, "floor", "found 'low', expected a number", "write a number"),
        (Neighbours, {"kk": 1}, "kk", "unknown key `kk`", "did you mean `k`? known: floor, k"),
    ],
)
def test_a_wrong_option_is_told_where_and_what_is_right(
    factory: Callable[..., Any], options: dict[str, Any], option: str, what: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(factory, options, where)

    assert caught.value.where == where(option)
    assert what in caught.value.what
    assert remedy in str(caught.value.remedy)
