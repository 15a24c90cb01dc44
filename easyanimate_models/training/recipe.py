"""A recipe: one TOML file that says what is trained, from what, on what, and how."""

from dataclasses import dataclass, replace
from pathlib import Path

from ..files.messages import shorten
from ..files.toml_settings import RecipeError, read_section, read_toml, read_value, resolve_path
from ..sd import WEIGHT_DTYPES
from .clips.holding_out import ValidationSettings
from .clips.settings import DataSettings
from .denoiser.diffusion import UNIFORM, NoiseWeights
from .denoiser.lora import LoraSettings
from .samples import SampleSettings
from .training_plan import TrainingPlan
from .vae.objective import VAESettings

KINDS = ("lora", "motion_module", "image_transformer", "transformer", "vae")
SECTIONS = ("models", "data", "lora", "noise", "plan", "samples", "validation", "vae")
REQUIRED_MODELS = ("transformer", "vae", "text_encoder")  # unless a VAE is trained


@dataclass(frozen=True)
class Models:
    """Where training starts: paths as the loaders take them, or "built-in".

    `weight_dtype` is the precision of a transformer that stays frozen under a LoRA, such as fp8 to save memory.
    """

    transformer: str = ""
    vae: str = ""
    text_encoder: str = ""
    motion_module: str = ""
    image_encoder: str = ""
    weight_dtype: str = "default"

    def __post_init__(self):
        if self.weight_dtype not in WEIGHT_DTYPES:
            known = ", ".join(WEIGHT_DTYPES)
            raise ValueError(f"weight_dtype is {shorten(self.weight_dtype)}; it must be one of {known}.")


@dataclass(frozen=True)
class Recipe:
    """A training run; `folder` is that of the run, `clips` that of the data set.

    A `fresh` transformer has the architecture of the one named in `models`, but is trained from scratch.
    """

    kind: str
    folder: Path
    clips: Path
    models: Models
    data: DataSettings
    plan: TrainingPlan
    lora: LoraSettings | None
    checkpointing: bool
    noise: NoiseWeights = UNIFORM
    vae: VAESettings = VAESettings()
    fresh: bool = False
    samples: SampleSettings = SampleSettings()
    validation: ValidationSettings = ValidationSettings()
    blocks_to_swap: int = 0


def read_recipe(file: str | Path) -> Recipe:
    """The recipe in a TOML file; paths in it are relative to its folder. Raises `RecipeError`."""
    file = Path(file)
    values = read_toml(file, {"kind", "folder", "clips", "checkpointing", "blocks_to_swap", "fresh", *SECTIONS})
    _check(file, values)
    kind = values["kind"]
    models = read_section(file, "models", Models, values)
    data = read_section(file, "data", DataSettings, values)
    if missing := [name for name in REQUIRED_MODELS if kind != "vae" and not getattr(models, name)]:
        raise RecipeError(f"{file}: [models] is missing {', '.join(missing)}.")
    if kind != "lora" and models.weight_dtype != "default":
        raise RecipeError(f"{file}: weight_dtype is for LoRAs, as weights that learn are float32; remove it.")
    samples = read_section(file, "samples", SampleSettings, values)
    if samples.image:
        samples = replace(samples, image=str(resolve_path(file, samples.image)))
    return Recipe(
        kind,
        resolve_path(file, values["folder"]),
        resolve_path(file, values["clips"]),
        models,
        replace(data, frames=1) if kind == "image_transformer" else data,
        read_section(file, "plan", TrainingPlan, values),
        read_section(file, "lora", LoraSettings, values) if kind == "lora" else None,
        read_value(file, values, "checkpointing", bool, True),
        read_section(file, "noise", NoiseWeights, values) if "noise" in values else UNIFORM,
        read_section(file, "vae", VAESettings, values),
        read_value(file, values, "fresh", bool, False),
        samples,
        read_section(file, "validation", ValidationSettings, values),
        read_value(file, values, "blocks_to_swap", int, 0),
    )


def _check(file: Path, values: dict) -> None:
    """Raise `RecipeError` when something is missing, or is there that this kind of training has no use for."""
    kind = values.get("kind")
    if kind not in KINDS:
        raise RecipeError(f"{file}: kind is {shorten(kind)}; it must be one of {', '.join(KINDS)}.")
    if "folder" not in values or "clips" not in values:
        raise RecipeError(f"{file}: set folder (the run) and clips (the dataset) at the top.")
    if kind == "lora" and "lora" not in values:
        raise RecipeError(f"{file}: a LoRA needs a section [lora] with rank and alpha.")
    if values.get("blocks_to_swap"):
        if kind != "lora":
            raise RecipeError(f"{file}: blocks_to_swap is for LoRAs, whose base is frozen; remove it.")
        if values.get("checkpointing") is False:
            raise RecipeError(f"{file}: blocks_to_swap needs checkpointing; remove one of the two.")
    if kind == "vae" and "samples" in values:
        raise RecipeError(f"{file}: a VAE can't generate videos; remove [samples].")
    given = values.get("data", {}).keys() if kind == "vae" else set()
    if unused := {"windows", "lengths"} & given:
        raise RecipeError(
            f"{file}: a VAE is trained on any part of a clip; remove {', '.join(sorted(unused))} from [data]."
        )
    if unused := {"trigger_word", "caption_shuffles", "keep_tags"} & given:
        raise RecipeError(f"{file}: a VAE reads no captions; remove {', '.join(sorted(unused))} from [data].")
