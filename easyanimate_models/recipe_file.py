"""A TOML file whose sections are dataclasses; what is wrong with one is said in a sentence."""

import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .extras import needed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")


class RecipeError(ValueError):
    """A recipe that can't be followed; the message says where and why."""


def read_toml(file: Path, top: set[str]) -> dict:
    """What the file says, nothing but what is known at its top."""
    tomllib = needed("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file} can't be read as a recipe: {error}.") from error
    if strange := sorted(told.keys() - top):
        raise RecipeError(f"{file}: there is nothing called {strange[0]} in a recipe; known are {listed(top)}.")
    return told


def section(file: Path, name: str, kind: type[Settings], told: dict) -> Settings:
    """The settings of a section as a `kind`; all that it must have, nothing that it does not know."""
    given = told.get(name, {})
    known = {field.name: field for field in fields(kind)}
    if strange := sorted(given.keys() - known.keys()):
        raise RecipeError(f"{file}: [{name}] knows no {strange[0]}; known are {listed(known)}.")
    missing = [n for n, field in known.items() if field.default is MISSING and n not in given]
    if missing:
        raise RecipeError(f"{file}: [{name}] lacks {', '.join(missing)}.")
    try:
        return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{file}: [{name}] {error}") from error


def below(file: Path, path: str) -> Path:
    """A path in a recipe, which starts from its folder."""
    return (file.parent / path).resolve()


def listed(names) -> str:
    """Names in a sentence."""
    return ", ".join(sorted(names))
