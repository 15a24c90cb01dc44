"""A recipe: one TOML file that says what is trained, from what, on what, and how."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..files.messages import shorten
from ..files.toml_settings import RecipeError, read_section, read_toml, read_value, resolve_path
from .clips.settings import DataSettings
from .denoiser.lora import LoraSettings
from .denoiser.objective import PLAIN_NOISE, NoiseWeights
from .samples import SampleSettings
from .training_plan import Plan
from .vae.objective import VAESettings

KINDS = ("lora", "motion_module", "image_transformer", "transformer", "vae")
SECTIONS = ("models", "data", "lora", "noise", "plan", "samples", "vae")
NEEDED_MODELS = ("transformer", "vae", "text_encoder")  # by all that is not a VAE


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
    told = read_toml(file, {"kind", "folder", "clips", "checkpointing", "fresh", *SECTIONS})
    kind = told.get("kind")
    if kind not in KINDS:
        raise RecipeError(f"{file}: kind is {shorten(kind)}; it must be one of {', '.join(KINDS)}.")
    if "folder" not in told or "clips" not in told:
        raise RecipeError(f"{file}: folder (of the run) and clips (of the data set) must be named at the top.")
    if kind == "lora" and "lora" not in told:
        raise RecipeError(f"{file}: a LoRA needs a section [lora] with rank and alpha.")
    if kind == "vae" and "samples" in told:
        raise RecipeError(f"{file}: a VAE makes no videos of its own; take [samples] out.")
    if kind == "vae" and (idle := {"windows", "lengths"} & told.get("data", {}).keys()):
        raise RecipeError(f"{file}: a VAE sees clips from anywhere; take {', '.join(sorted(idle))} out of [data].")
    models = read_section(file, "models", Models, told)
    data = read_section(file, "data", DataSettings, told)
    if lacking := [name for name in NEEDED_MODELS if kind != "vae" and not getattr(models, name)]:
        raise RecipeError(f"{file}: [models] lacks {', '.join(lacking)}.")
    return Recipe(
        kind,
        resolve_path(file, told["folder"]),
        resolve_path(file, told["clips"]),
        models,
        replace(data, frames=1) if kind == "image_transformer" else data,
        read_section(file, "plan", Plan, told),
        read_section(file, "lora", LoraSettings, told) if kind == "lora" else None,
        read_value(file, told, "checkpointing", bool, True),
        read_section(file, "noise", NoiseWeights, told) if "noise" in told else PLAIN_NOISE,
        read_section(file, "vae", VAESettings, told),
        read_value(file, told, "fresh", bool, False),
        read_section(file, "samples", SampleSettings, told),
    )
