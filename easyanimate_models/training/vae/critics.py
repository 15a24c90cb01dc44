"""Discriminators (critics) of a VAE: they tell decoded frames and clips from real ones, patch by patch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...vae.onednn_conv import onednn_conv3d

HALVINGS = 3
NORM_GROUPS = 8
MAX_WEIGHT = 1e4


class PatchCritic(nn.Module):
    """How real each patch looks, above 0 for real: of frames (`dims` 2) or of clips with their motion (3).

    A patch discriminator as in pix2pix, but with group norms, so that the verdict on a clip depends on no other clip.
    """

    def __init__(self, dims: int, width: int = 64):
        super().__init__()
        if width % NORM_GROUPS:
            raise ValueError(f"critic_width is {width}; it must be a multiple of {NORM_GROUPS}.")
        self.dims = dims
        convolution: type[nn.Module] = nn.Conv2d if dims == 2 else onednn_conv3d(nn.Conv3d)
        kernel, padding = ((4, 4), 1) if dims == 2 else ((3, 4, 4), 1)

        def conv(a: int, b: int, stride: int) -> nn.Module:
            return convolution(a, b, kernel, stride, padding)

        layers = [conv(3, width, 2), nn.LeakyReLU(0.2)]
        widths = [width * min(2**i, 8) for i in range(HALVINGS + 1)]
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False), 1):
            layers += [conv(a, b, 2 if i < HALVINGS else 1), nn.GroupNorm(NORM_GROUPS, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, conv(widths[-1], 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """The verdicts on clips `[B, 3, T, H, W]` in [-1, 1]."""
        return self.layers(clips.transpose(1, 2).flatten(0, 1) if self.dims == 2 else clips)


def make_critics(width: int) -> nn.ModuleDict:
    """One critic of frames, one of motion."""
    return nn.ModuleDict({"frames": PatchCritic(2, width), "motion": PatchCritic(3, width)})


def hinge_loss(critic: nn.Module, real: Tensor, decoded: Tensor) -> Tensor:
    """The loss of a critic: real clips should score above 1, decoded ones below -1."""
    return (F.relu(1 - critic(real)).mean() + F.relu(1 + critic(decoded)).mean()) / 2


def adaptive_weight(loss: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """The weight at which the gradient of `adversarial` at `last_layer` is as long as that of the other `loss`.

    As in VQGAN.
    """
    length, adversarial_length = (_gradient(each, last_layer).norm() for each in (loss, adversarial))
    return (length / (adversarial_length + 1 / MAX_WEIGHT)).clamp(max=MAX_WEIGHT).detach()


def _gradient(loss: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a loss at a weight, the mean of all processes."""
    gradient = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(gradient)
        gradient /= torch.distributed.get_world_size()
    return gradient
