"""The one door for extensions: named entry points, and the options their factories take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge

from composer.errors import ConfigError, suggest

Group = Literal["stages", "engines", "routers", "policies", "rules", "aggregators", "gates"]

_OURS = "composition-of-experts"
_ONE = {
    "stages": "stage",
    "engines": "engine",
    "routers": "router",
    "policies": "policy",
    "rules": "rule",
    "aggregators": "aggregator",
    "gates": "gate",
}


def load(group: Group, name: str, where: str | None = None) -> Any:
    """What the entry point `name` of the group `coe.<group>` stands for; imports its one module only.

    Our own names come first and cannot be taken over. Raises ConfigError at `where` for a name nobody offers, that two
    packages offer differently, or whose module does not import.
    """
    found = {point.value: point for point in _ours(group) if point.name == name}
    if not found:  # only now look at every installed package: that takes time
        found = {point.value: point for point in entry_points(group=f"coe.{group}", name=name)}
    if not found:
        raise ConfigError(f"no {_ONE[group]} is called {name!r}", where=where, remedy=suggest(name, names(group)))
    if len(found) > 1:
        offers = " and ".join(sorted(f"{point.value} ({_package(point)})" for point in found.values()))
        raise ConfigError(
            f"the {_ONE[group]} {name!r} is offered twice: {offers}",
            where=where,
            remedy="uninstall one of the packages",
        )
    [point] = found.values()
    try:
        return point.load()
    except (ImportError, AttributeError) as why:
        raise ConfigError(
            f"the {_ONE[group]} {name!r} ({point.value}) does not load: {why}",
            where=where,
            remedy=f"install what {_package(point)} needs for it, an extra perhaps",
        ) from why


def names(group: Group) -> list[str]:
    """All names of a group, sorted."""
    return sorted({point.name for point in (*_ours(group), *entry_points(group=f"coe.{group}"))})


def homes(group: Group) -> list[str]:
    """The modules that a group's entry points name, sorted."""
    return sorted({point.module for point in (*_ours(group), *entry_points(group=f"coe.{group}"))})


def check_options(
    factory: Callable[..., Any], options: Mapping[str, Any], where: Callable[[str], str]
) -> dict[str, Any]:
    """`options` as keyword arguments of `factory`, by its own type hints (lists may become tuples, nothing else is
    converted). A function's options are its keyword-only arguments, a class's all those of its constructor.

    Raises ConfigError for an option that is unknown, missing or of the wrong type, at `where(option)`.
    """
    parameters = _parameters(factory)
    source = factory.__init__ if inspect.isclass(factory) else factory
    hints = get_type_hints(source, include_extras=True)
    if _surely_right(parameters, hints, options):
        return dict(options)
    from pydantic import Field, create_model  # noqa: PLC0415 only where the answer is not plain

    from composer.checks import Row, check  # noqa: PLC0415

    fields: dict[str, Any] = {
        f"option_{i}": (  # the option's name is an alias: pydantic reserves some names, `schema` for one
            hints.get(parameter.name, Any),
            Field(alias=parameter.name)
            if parameter.default is parameter.empty
            else Field(parameter.default, alias=parameter.name),
        )
        for i, parameter in enumerate(parameters)
    }
    row = check(create_model("Options", __base__=Row, **fields), options, where)
    return {
        parameter.name: getattr(row, f"option_{i}")
        for i, parameter in enumerate(parameters)
        if parameter.name in options
    }


def _surely_right(
    parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any], options: Mapping[str, Any]
) -> bool:
    """Whether all options are known, all needed ones there, and each plainly of its type."""
    known = {parameter.name: parameter for parameter in parameters}
    needed = {name for name, parameter in known.items() if parameter.default is parameter.empty}
    return needed <= options.keys() <= known.keys() and all(
        name in hints and _is_plainly(value, hints[name]) for name, value in options.items()
    )


def _is_plainly(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint`, within its bounds; False where it takes more to tell."""
    if get_origin(hint) is Annotated:
        inner, *bounds = get_args(hint)
        return _is_plainly(value, inner) and all(isinstance(bound, Ge) and value >= bound.ge for bound in bounds)
    if get_origin(hint) is Literal:
        return any(type(value) is type(one) and value == one for one in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return any(_is_plainly(value, one) for one in get_args(hint))
    if hint == dict[str, Any]:
        return type(value) is dict
    return hint in (str, int, bool, NoneType) and type(value) is hint


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    parameter = inspect.Parameter
    kinds = [parameter.KEYWORD_ONLY, *([parameter.POSITIONAL_OR_KEYWORD] if inspect.isclass(factory) else [])]
    return [found for found in inspect.signature(factory).parameters.values() if found.kind in kinds]


def _ours(group: Group) -> Iterable[EntryPoint]:
    try:
        return distribution(_OURS).entry_points.select(group=f"coe.{group}")
    except PackageNotFoundError:  # run from a folder that was never installed
        return ()


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "the package"
