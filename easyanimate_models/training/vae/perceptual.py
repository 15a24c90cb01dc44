"""The perceptual distance of two clips (LPIPS): the package `lpips`, with VGG-16 from a file on this machine."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ...files.checkpoint import CheckpointError, read_checkpoint
from ...files.packages import require_package

VGG_FILE = "vgg16-397923af.pth from torchvision"
FEATURES = "features."


class PerceptualLoss(nn.Module):
    """The mean LPIPS distance of clips `[B, 3, T, H, W]` in [-1, 1], frame by frame."""

    def __init__(self, backbone: Path):
        super().__init__()
        self.lpips = require_package("lpips").LPIPS(net="vgg", pnet_rand=True, verbose=False)
        _load_vgg(self.lpips.net, backbone)
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.lpips(*(clips.transpose(1, 2).flatten(0, 1) for clips in (a, b))).mean()


@torch.no_grad()
def _load_vgg(network: nn.Module, file: Path) -> None:
    """Load the weights of a VGG-16 file, which numbers its layers as lpips does."""
    if not file.is_file():
        raise ValueError(
            f"The perceptual loss needs VGG-16, but {file} does not exist; set `backbone` in [vae] to the path of "
            f"{VGG_FILE}, or set `perceptual` to 0."
        )
    tensors = read_checkpoint(file, "vae").tensors
    for name, parameter in network.named_parameters():
        tensor = tensors.get(FEATURES + name.split(".", 1)[1])
        if tensor is None or tensor.shape != parameter.shape:
            raise CheckpointError(f"{file.name} is not VGG-16 (first mismatch: {name}); choose {VGG_FILE}.")
        parameter.copy_(tensor)
