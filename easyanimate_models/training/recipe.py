"""A recipe: one TOML file that says what is trained, from what, on what, and how."""

import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from .extras import needed
from .lora import LoraSettings
from .lora_run import DataSettings
from .plan import Plan

KINDS = ("lora", "motion_module", "transformer")
SECTIONS = {"models": None, "data": DataSettings, "lora": LoraSettings, "plan": Plan}


class RecipeError(ValueError):
    """A recipe that can't be followed; the message says where and why."""


@dataclass(frozen=True)
class Models:
    """Where training starts; paths as the loaders take them, or "built-in"."""

    transformer: str
    vae: str
    text_encoder: str
    motion_module: str = ""


@dataclass(frozen=True)
class Recipe:
    """What `run` follows. `folder` is that of the run, `clips` that of the data set."""

    kind: str
    folder: Path
    clips: Path
    models: Models
    data: DataSettings
    plan: Plan
    lora: LoraSettings | None
    checkpointing: bool


def read_recipe(file: str | Path) -> Recipe:
    """The recipe in a TOML file; paths in it start from its folder. Raises `RecipeError`."""
    file = Path(file)
    tomllib = needed("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file} can't be read as a recipe: {error}.") from error
    kind = told.get("kind")
    if kind not in KINDS:
        raise RecipeError(f"{file}: kind is {kind!r}; it must be one of {', '.join(KINDS)}.")
    known = {"kind", "folder", "clips", "checkpointing", *SECTIONS}
    if strange := sorted(told.keys() - known):
        raise RecipeError(f"{file}: there is nothing called {strange[0]} in a recipe; known are {_listed(known)}.")
    if "folder" not in told or "clips" not in told:
        raise RecipeError(f"{file}: folder (of the run) and clips (of the data set) must be named at the top.")
    if kind == "lora" and "lora" not in told:
        raise RecipeError(f"{file}: a LoRA needs a section [lora] with rank and alpha.")
    return Recipe(
        kind,
        _below(file, told["folder"]),
        _below(file, told["clips"]),
        _section(file, "models", Models, told),
        _section(file, "data", DataSettings, told),
        _section(file, "plan", Plan, told),
        _section(file, "lora", LoraSettings, told) if kind == "lora" else None,
        bool(told.get("checkpointing", True)),
    )


def _section(file: Path, name: str, kind: type, told: dict):
    """The settings of a section as a `kind`; all that it must have, nothing that it does not know."""
    given = told.get(name, {})
    known = {field.name: field for field in fields(kind)}
    if strange := sorted(given.keys() - known.keys()):
        raise RecipeError(f"{file}: [{name}] knows no {strange[0]}; known are {_listed(known)}.")
    missing = [n for n, field in known.items() if field.default is MISSING and n not in given]
    if missing:
        raise RecipeError(f"{file}: [{name}] lacks {', '.join(missing)}.")
    try:
        return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in given.items()})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{file}: [{name}] {error}") from error


def _below(file: Path, path: str) -> Path:
    return (file.parent / path).resolve()


def _listed(names) -> str:
    return ", ".join(sorted(names))
