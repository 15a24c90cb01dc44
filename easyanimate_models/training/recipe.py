"""A recipe: one TOML file that says what is trained, from what, on what, and how."""

import sys
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

from .dit import PLAIN_NOISE, NoiseWeights
from .extras import needed
from .lora import LoraSettings
from .lora_run import DataSettings
from .plan import Plan
from .samples import SampleSettings
from .vae_objective import VAESettings

KINDS = ("lora", "motion_module", "image_transformer", "transformer", "vae")
SECTIONS = ("models", "data", "lora", "noise", "plan", "samples", "vae")
NEEDED_MODELS = ("transformer", "vae", "text_encoder")  # by all that is not a VAE


class RecipeError(ValueError):
    """A recipe that can't be followed; the message says where and why."""


@dataclass(frozen=True)
class Models:
    """Where training starts; paths as the loaders take them, or "built-in"."""

    transformer: str = ""
    vae: str = ""
    text_encoder: str = ""
    motion_module: str = ""
    image_encoder: str = ""


@dataclass(frozen=True)
class Recipe:
    """What `run` follows. `folder` is that of the run, `clips` that of the data set.

    A `fresh` transformer has the architecture of the one named in `models` and knows nothing yet.
    """

    kind: str
    folder: Path
    clips: Path
    models: Models
    data: DataSettings
    plan: Plan
    lora: LoraSettings | None
    checkpointing: bool
    noise: NoiseWeights = PLAIN_NOISE
    vae: VAESettings = VAESettings()
    fresh: bool = False
    samples: SampleSettings = SampleSettings()


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
    known = {"kind", "folder", "clips", "checkpointing", "fresh", *SECTIONS}
    if strange := sorted(told.keys() - known):
        raise RecipeError(f"{file}: there is nothing called {strange[0]} in a recipe; known are {_listed(known)}.")
    if "folder" not in told or "clips" not in told:
        raise RecipeError(f"{file}: folder (of the run) and clips (of the data set) must be named at the top.")
    if kind == "lora" and "lora" not in told:
        raise RecipeError(f"{file}: a LoRA needs a section [lora] with rank and alpha.")
    if kind == "vae" and "samples" in told:
        raise RecipeError(f"{file}: a VAE makes no videos of its own; take [samples] out.")
    if kind == "vae" and (idle := {"windows", "lengths"} & told.get("data", {}).keys()):
        raise RecipeError(f"{file}: a VAE sees clips from anywhere; take {', '.join(sorted(idle))} out of [data].")
    models = _section(file, "models", Models, told)
    data = _section(file, "data", DataSettings, told)
    if lacking := [name for name in NEEDED_MODELS if kind != "vae" and not getattr(models, name)]:
        raise RecipeError(f"{file}: [models] lacks {', '.join(lacking)}.")
    return Recipe(
        kind,
        _below(file, told["folder"]),
        _below(file, told["clips"]),
        models,
        replace(data, frames=1) if kind == "image_transformer" else data,
        _section(file, "plan", Plan, told),
        _section(file, "lora", LoraSettings, told) if kind == "lora" else None,
        bool(told.get("checkpointing", True)),
        _section(file, "noise", NoiseWeights, told) if "noise" in told else PLAIN_NOISE,
        _section(file, "vae", VAESettings, told),
        bool(told.get("fresh", False)),
        _section(file, "samples", SampleSettings, told),
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
