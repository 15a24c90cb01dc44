"""A TOML file whose sections are dataclasses; what is wrong with one is said in a sentence."""

import sys
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from .messages import LARGEST, briefly
from .packages import needed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
CALLED = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}


class RecipeError(ValueError):
    """A recipe that can't be followed; the message says where and why."""


def read_toml(file: Path, top: set[str]) -> dict:
    """What the file says, nothing but what is known at its top."""
    tomllib = needed("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{file} can't be read as a recipe: {error}.") from error
    if strange := sorted(told.keys() - top):
        raise RecipeError(f"{file}: there is nothing called {strange[0]} in a recipe; known are {listed(top)}.")
    return told


def section(file: Path, name: str, kind: type[Settings], told: dict) -> Settings:
    """The settings of a section as a `kind`; all that it must have, nothing that it does not know."""
    given = told.get(name, {})
    if not isinstance(given, dict):
        raise RecipeError(f"{file}: {name} is {briefly(given)}; it must be a section, [{name}].")
    known = {field.name: field for field in fields(kind)}
    if strange := sorted(given.keys() - known.keys()):
        raise RecipeError(f"{file}: [{name}] knows no {strange[0]}; known are {listed(known)}.")
    missing = [n for n, field in known.items() if field.default is MISSING and n not in given]
    if missing:
        raise RecipeError(f"{file}: [{name}] lacks {', '.join(missing)}.")
    values, hints = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}, get_type_hints(kind)
    if wrong := [n for n, value in values.items() if not _is(value, hints[n])]:
        raise RecipeError(
            f"{file}: [{name}] {wrong[0]} is {briefly(given[wrong[0]])}; it must be {_called(hints[wrong[0]])}."
        )
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{file}: [{name}] {error}") from error


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a field has."""
    if isinstance(hint, UnionType):
        return any(_is(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if hint in (int, float):
        return (
            not isinstance(value, bool)
            and isinstance(value, int if hint is int else int | float)
            and abs(value) < LARGEST
        )
    return isinstance(value, hint)


def _called(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(_called(one) for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))}: " + ", ".join(map(_called, get_args(hint)))
    return CALLED.get(hint, "something else")


def top(file: Path, told: dict, name: str, kind: type, default):
    """What stands at the top of a recipe under a name, of a kind."""
    value = told.get(name, default)
    if not _is(value, kind):
        raise RecipeError(f"{file}: {name} is {briefly(value)}; it must be {_called(kind)}.")
    return value


def below(file: Path, path: Any) -> Path:
    """A path in a recipe, which starts from its folder."""
    try:
        return (file.parent / path).resolve()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise RecipeError(f"{file}: {briefly(path)} is no path; give that of a folder.") from error


def listed(names) -> str:
    """Names in a sentence."""
    return ", ".join(sorted(names))
