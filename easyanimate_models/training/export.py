"""Trained networks on disk: safetensors files, and component folders as the releases have them."""

import json
from pathlib import Path

from torch import Tensor

from ..files.atomic import make_folder, write_safetensors, write_text

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_component(folder: Path, config: dict, weights: dict[str, Tensor], name: str = WEIGHTS) -> Path:
    """A component folder, config.json beside the weights; the file of the weights."""
    make_folder(folder)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_safetensors(folder / name, weights, {"format": "pt"})
    return folder / name
