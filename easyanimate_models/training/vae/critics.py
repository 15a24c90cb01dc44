"""Those who tell decoded frames and clips from real ones, patch by patch, so that a VAE learns to be sharp."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALVINGS = 3
NORM_GROUPS = 8
MOST = 1e4


class PatchCritic(nn.Module):
    """How real each patch looks, above 0 for real: of frames (`dims` 2) or of clips with their motion (3).

    As pix2pix judges patches, but with group norms, so that the verdict on a clip is its own.
    """

    def __init__(self, dims: int, width: int = 64):
        super().__init__()
        if width % NORM_GROUPS:
            raise ValueError(f"critic_width is {width}; it must be a multiple of {NORM_GROUPS}.")
        self.dims = dims
        kind: type[nn.Module] = nn.Conv2d if dims == 2 else nn.Conv3d
        seen, padding = ((4, 4), 1) if dims == 2 else ((3, 4, 4), 1)

        def conv(a: int, b: int, stride: int) -> nn.Module:
            return kind(a, b, seen, stride, padding)

        layers = [conv(3, width, 2), nn.LeakyReLU(0.2)]
        widths = [width * min(2**i, 8) for i in range(HALVINGS + 1)]
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False), 1):
            layers += [conv(a, b, 2 if i < HALVINGS else 1), nn.GroupNorm(NORM_GROUPS, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, conv(widths[-1], 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """The verdicts on clips `[B, 3, T, H, W]` in [-1, 1]."""
        return self.layers(clips.transpose(1, 2).flatten(0, 1) if self.dims == 2 else clips)


def critics(width: int) -> nn.ModuleDict:
    """One for frames, one for motion."""
    return nn.ModuleDict({"frames": PatchCritic(2, width), "motion": PatchCritic(3, width)})


def told_apart(critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """What a critic is taught by: the hinge loss of its verdicts."""
    return (F.relu(1 - critic(real)).mean() + F.relu(1 + critic(made)).mean()) / 2


def adaptive_weight(rest: Tensor, doubt: Tensor, last: Tensor) -> Tensor:
    """How much `doubt` (a critic's) must count to pull the `last` weights as hard as the `rest` of the loss does."""
    pulls = [_mean_of_processes(torch.autograd.grad(loss, last, retain_graph=True)[0]) for loss in (rest, doubt)]
    return (pulls[0].norm() / (pulls[1].norm() + 1 / MOST)).clamp(max=MOST).detach()


def _mean_of_processes(gradient: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(gradient)
        gradient /= torch.distributed.get_world_size()
    return gradient
