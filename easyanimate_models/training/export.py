"""Trained networks on disk: safetensors files, and component folders as the releases have them."""

import errno
import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..files.atomic import in_full, write_text

WEIGHTS = "diffusion_pytorch_model.safetensors"
NO_SPACE = f"os error {errno.ENOSPC}"  # in what safetensors raises, which is no OSError


def write_safetensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file; all of it is written, or nothing. Raises `OSError` with advice when the disk is full."""
    with in_full(file) as partial:
        try:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial, metadata)
        except SafetensorError as error:
            if NO_SPACE not in str(error):
                raise
            raise OSError(errno.ENOSPC, str(error)) from error


def write_component(folder: Path, config: dict, weights: dict[str, Tensor], name: str = WEIGHTS) -> Path:
    """A component folder, config.json beside the weights; the file of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_safetensors(folder / name, weights, {"format": "pt"})
    return folder / name
