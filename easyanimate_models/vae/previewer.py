"""Previews of latents that hold colour in no linear way: a small network in place of the host's one matrix."""

import torch
from torch import Tensor, nn

FILE = "preview/model.safetensors"  # in the folder of the built-in model
WIDTHS = (96, 48)


class Previewer(nn.Module):
    """From the first two latent frames, `[B, C, F, h, w]`, the colours below the first one, `[B, 3, 1, h, w]`."""

    def __init__(self, channels: int):
        super().__init__()
        first, second = WIDTHS
        self.layers = nn.Sequential(
            nn.Conv2d(2 * channels, first, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(first, second, 1),
            nn.GELU(),
            nn.Conv2d(second, 3, 1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(first_two(latents))[:, :, None]


def first_two(latents: Tensor) -> Tensor:
    """The first two latent frames as channels; of an image, its only one twice."""
    return torch.cat([latents[:, :, 0], latents[:, :, min(1, latents.shape[2] - 1)]], dim=1)


def built_previewer(weights: dict[str, Tensor]) -> Previewer:
    """The previewer of these weights."""
    previewer = Previewer(weights["layers.0.weight"].shape[1] // 2)
    previewer.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return previewer.requires_grad_(False).eval()
