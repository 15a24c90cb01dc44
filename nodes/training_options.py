"""Inputs of the training nodes that few change: files and validation on the way, and how samples are made."""

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..easyanimate_models.files import model_files
from ..easyanimate_models.host import require_choice

NO_LORA = "none"


@dataclass(frozen=True)
class TrainingOptions:
    """The values of these inputs; what a saved workflow lacks is as it was before there was an input for it."""

    save_every: int = 0
    validation: float = 0.0
    validation_every: int = 50
    start_from: str = NO_LORA


def read_options(inputs: dict[str, list[Any] | None]) -> TrainingOptions:
    """The inputs as ComfyUI hands them to nodes that take lists; of each of these there is one."""
    return TrainingOptions(**{name: values[0] for name, values in inputs.items() if values is not None})


def option_inputs(file: str) -> list:
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
    ]


def start_input() -> io.Combo.Input:
    """The LoRA that another one starts from."""
    return io.Combo.Input(
        "start_from",
        options=_loras(),
        optional=True,
        tooltip="A LoRA in models/loras to train further; its rank then counts. none = a new one.",
    )


def start_file(name: str) -> str:
    """The path of the LoRA to start from, "" for none. Raises `ValueError` for one that isn't there."""
    if require_choice("LoRA in models/loras", name, _loras()) == NO_LORA:
        return ""
    return str(model_files.lora_path(name))


def _loras() -> list[str]:
    return [NO_LORA, model_files.BUILT_IN_LORA, *model_files.host_files("loras")]
