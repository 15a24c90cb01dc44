"""Inputs of the training nodes that follow a run: files and validation on the way, samples; and where it starts."""

import re
from dataclasses import dataclass
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..easyanimate_models.files import model_files
from ..easyanimate_models.host import require_choice

NO_LORA = "none"
BETWEEN_PROMPTS = re.compile(r"\n\s*\n")


@dataclass(frozen=True)
class MonitoringOptions:
    """The values of these inputs; what a saved workflow lacks is as it was before there was an input for it."""

    save_every: int = 0
    validation: float = 0.0
    validation_every: int = 50
    sample_steps: int = 25
    sample_cfg: float = 7.0
    sample_sampler: str = "euler"
    sample_width: int = 0
    sample_height: int = 0
    sample_frames: int = 0
    sample_image: Any = None
    start_from: str = NO_LORA

    @classmethod
    def of(cls, *inputs: Any) -> "MonitoringOptions":
        """From the inputs of a node in this order, which are lists of one value, or None."""
        return cls(*(None if values is None else values[0] for values in inputs))

    def of_samples(self) -> dict[str, Any]:
        """For `SampleSettings`."""
        names = ("steps", "cfg", "sampler", "width", "height", "frames")
        return {name: getattr(self, f"sample_{name}") for name in names}

    def start_image(self):
        """The image that samples start from, `[1, H, W, 3]`, if any."""
        return None if self.sample_image is None else self.sample_image[:1]

    def start_file(self) -> str:
        """The path of the LoRA to start from, "" for none. Raises `ValueError` for one that isn't there."""
        if require_choice("LoRA in models/loras", self.start_from, _loras()) == NO_LORA:
            return ""
        return str(model_files.lora_path(self.start_from))


def prompts_in(texts: list[str]) -> tuple[str, ...]:
    """Prompts are separate texts, or have an empty line between them."""
    return tuple(prompt for text in texts for prompt in BETWEEN_PROMPTS.split(text))


def monitoring_inputs(file: str) -> list:
    """The inputs of a node that makes such a `file`."""
    return [
        io.Int.Input(
            "save_every",
            default=0,
            min=0,
            max=1_000_000,
            optional=True,
            tooltip=f"Saves a {file} every so many steps too, as NAME_step00100. 0 = only at the end, or when stopped.",
        ),
        io.Float.Input(
            "validation",
            default=0.0,
            min=0.0,
            max=0.9,
            step=0.01,
            optional=True,
            tooltip="Share of the clips that are not learnt from, to measure the loss on them. 0 = none.",
        ),
        io.Int.Input(
            "validation_every",
            default=50,
            min=1,
            max=1_000_000,
            optional=True,
            tooltip="Measures that loss every so many steps.",
        ),
        *_sample_inputs(),
    ]


def _sample_inputs() -> list:
    size = "{} of the sample videos; 0 = as the clips."
    return [
        io.Int.Input(
            "sample_steps",
            default=25,
            min=1,
            max=1000,
            optional=True,
            tooltip="Sampling steps of the sample videos.",
        ),
        io.Float.Input(
            "sample_cfg",
            default=7.0,
            min=0.0,
            max=100.0,
            step=0.1,
            optional=True,
            tooltip="How closely the sample videos follow the prompt: 7 for V1 to V4, 6 for V5 and V5.1, 2.5 for the "
            "tiny model.",
        ),
        io.Combo.Input(
            "sample_sampler",
            options=comfy.samplers.KSampler.SAMPLERS,
            default="euler",
            optional=True,
            tooltip="Sampler of the sample videos; the releases use euler.",
        ),
        *(
            io.Int.Input(name, default=0, min=0, max=4096, step=step, optional=True, tooltip=size.format(what))
            for name, step, what in (
                ("sample_width", 16, "Width"),
                ("sample_height", 16, "Height"),
                ("sample_frames", 1, "Number of frames"),
            )
        ),
        io.Image.Input(
            "sample_image",
            optional=True,
            tooltip="An image that the sample videos start from, for InP transformers; V5.1's Control and Camera "
            "transformers take it as the reference.",
        ),
    ]


def start_input() -> io.Combo.Input:
    """The LoRA that another one starts from."""
    return io.Combo.Input(
        "start_from",
        options=_loras(),
        optional=True,
        tooltip="A LoRA in models/loras to train further; its rank then counts. none = a new one.",
    )


def _loras() -> list[str]:
    return [NO_LORA, model_files.BUILT_IN_LORA, *model_files.host_files("loras")]
