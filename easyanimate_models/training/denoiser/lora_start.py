"""Where a LoRA starts that is trained further: in a LoRA file, under any of the namings that can be loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor, nn

from ...files.checkpoint import CheckpointError
from ...lora import lora_patches
from .lora import DENOISER


@dataclass(frozen=True)
class LoraStart:
    """The matrices of a LoRA, (up, down) by the names of their layers, which all have one rank and alpha."""

    file: Path
    rank: int
    alpha: float
    layers: dict[str, tuple[Tensor, Tensor]]

    @torch.no_grad()
    def copy_to(self, adapters: nn.ModuleDict) -> None:
        """Set adapters, by the names of their layers; others stay at nothing. Raises `CheckpointError` if some lack."""
        left = sorted(self.layers.keys() - adapters.keys())
        if left:
            raise CheckpointError(
                f"{self.file.name} changes {len(left)} layers that are not trained here (such as "
                f"{left[0].replace('/', '.')}); train all that it changes, such as motion modules, or choose another "
                "LoRA."
            )
        for name, (up, down) in self.layers.items():
            adapter: Any = adapters[name]
            adapter.up.copy_(up)
            adapter.down.copy_(down)


def read_lora_start(file: Path, model, clip=None) -> LoraStart:
    """The LoRA in a file, for MODEL, and for CLIP where it is trained too.

    Raises `CheckpointError` when it is not one that training can go on from.
    """
    layers, kinds = {}, set()
    for patches in lora_patches(file, model, clip, complete=True):
        for key, patch in patches.items():
            if not _is_plain(key, patch):
                raise CheckpointError(
                    f"{file.name} has other parts than plain LoRA ({key}), and training can't go on from these; choose "
                    "a plain LoRA, or start from nothing."
                )
            up, down, alpha = patch.weights[:3]
            layers[key.removeprefix(DENOISER).removesuffix(".weight").replace(".", "/")] = up, down
            kinds.add((len(down), float(len(down) if alpha is None else alpha)))
    if len(kinds) > 1:
        pairs = ", ".join(f"{rank} and {alpha:g}" for rank, alpha in sorted(kinds))
        raise CheckpointError(
            f"{file.name} has layers of different rank and alpha ({pairs}), and training goes on with one of each; "
            "choose another LoRA, or start from nothing."
        )
    ((rank, alpha),) = kinds
    return LoraStart(file, rank, alpha, layers)


def _is_plain(key, patch) -> bool:
    """Whether a patch of the host is up and down alone, of a whole weight."""
    if not isinstance(key, str) or not isinstance(patch, LoRAAdapter):
        return False
    return patch.weights[1].ndim == 2 and all(extra is None for extra in patch.weights[3:])
