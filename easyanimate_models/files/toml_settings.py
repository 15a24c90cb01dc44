"""A TOML file whose sections are dataclasses; what is wrong with it is said in a sentence."""

import sys
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from .messages import MAX_NUMBER, shorten
from .packages import require_package

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
TYPE_NAMES = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}


class RecipeError(ValueError):
    """A recipe that can't be followed; the message says where and why."""


def read_toml(file: Path, known: set[str]) -> dict:
    """The table in the file, with no keys at its top but those `known`. Raises `RecipeError`."""
    table = parse_toml(file)
    if unknown := sorted(table.keys() - known):
        raise RecipeError(f"{file}: a recipe has no setting {unknown[0]}; it can have {_joined(known)}.")
    return table


def parse_toml(file: Path) -> dict:
    """The table in the file. Raises `RecipeError`."""
    tomllib = require_package("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{file} can't be read as a recipe: {error}.") from error


def read_section(file: Path, name: str, kind: type[Settings], table: dict) -> Settings:
    """A section of the table as a `kind`, with every field that it requires and no others. Raises `RecipeError`."""
    given = table.get(name, {})
    if not isinstance(given, dict):
        raise RecipeError(f"{file}: {name} is {shorten(given)}; it must be a section, [{name}].")
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(given.keys() - known.keys()):
        raise RecipeError(f"{file}: [{name}] has no setting {unknown[0]}; it can have {_joined(known)}.")
    missing = [n for n, field in known.items() if field.default is MISSING and n not in given]
    if missing:
        raise RecipeError(f"{file}: [{name}] is missing {', '.join(missing)}.")
    values, hints = {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}, get_type_hints(kind)
    if wrong := [n for n, value in values.items() if not _fits(value, hints[n])]:
        raise RecipeError(
            f"{file}: [{name}] {wrong[0]} is {shorten(given[wrong[0]])}; it must be {_type_name(hints[wrong[0]])}."
        )
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{file}: [{name}] {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of a field."""
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            return all(_fits(each, kinds[0]) for each in value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint in (int, float):
        return (
            not isinstance(value, bool)
            and isinstance(value, int if hint is int else int | float)
            and abs(value) < MAX_NUMBER
        )
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(_type_name(one) for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        return f"a list, each {_type_name(get_args(hint)[0])}"
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))}: " + ", ".join(map(_type_name, get_args(hint)))
    return TYPE_NAMES.get(hint, "something else")


def read_value(file: Path, table: dict, name: str, kind: type, default):
    """A value outside of all sections, of a kind. Raises `RecipeError`."""
    value = table.get(name, default)
    if not _fits(value, kind):
        raise RecipeError(f"{file}: {name} is {shorten(value)}; it must be {_type_name(kind)}.")
    return value


def resolve_path(file: Path, path: Any) -> Path:
    """A path in a recipe, relative to the recipe's folder. Raises `RecipeError`."""
    try:
        return (file.parent / path).resolve()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise RecipeError(f"{file}: {shorten(path)} is not a path; give the path of a folder.") from error


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
