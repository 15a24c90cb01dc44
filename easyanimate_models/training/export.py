"""Trained networks on disk: safetensors files, and component folders as the releases have them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files.atomic import make_folder, write_safetensors, write_text

WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Exporter:
    """Saves what a run trains: at `path` at its end, beside it as `path_step00100` before.

    `path` is a file or a component folder, which `write` writes after so many steps out of what `tensors` gives; every
    process has to call it. `when_stopped` says whether a run that is stopped leaves a file too.
    """

    path: Path
    tensors: Callable[[], dict[str, Tensor]]
    write: Callable[[Path, dict[str, Tensor], int], Any]
    when_stopped: bool = True

    def save(self, steps: int, is_main: bool) -> Path:
        """Save the result, over that of an earlier run unless it is the same; only the main process writes."""
        tensors = self.tensors()
        if is_main and not holds(self.path, tensors):
            self.write(self.path, tensors, steps)
        return self.path

    def save_step(self, steps: int, is_main: bool) -> Path:
        """Save what has been learnt so far, under a name that no other file has."""
        tensors = self.tensors()
        for number in count(1):
            ending = f"_step{steps:05d}" + (f"_{number}" if number > 1 else "")
            path = self.path.with_name(f"{self.path.stem}{ending}{self.path.suffix}")
            if not path.exists():
                if is_main:
                    self.write(path, tensors, steps)
                return path
            if holds(path, tensors):  # saved before, by the run that this one resumes
                return path
        raise AssertionError


def holds(path: Path, tensors: dict[str, Tensor]) -> bool:
    """Whether a file, or the weights of a component folder, are these tensors."""
    try:
        with safe_open(path / WEIGHTS if path.is_dir() else path, "pt") as file:
            return set(file.keys()) == set(tensors) and all(
                torch.equal(file.get_tensor(name), tensor.cpu()) for name, tensor in tensors.items()
            )
    except (OSError, SafetensorError):
        return False


def write_component(folder: Path, config: dict, weights: dict[str, Tensor], name: str = WEIGHTS) -> Path:
    """A component folder, config.json beside the weights; the file of the weights."""
    make_folder(folder)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    write_safetensors(folder / name, weights, {"format": "pt"})
    return folder / name
