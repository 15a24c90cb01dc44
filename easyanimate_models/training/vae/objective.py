"""What a VAE is taught by: clips must come back as they were, to the pixel, to the eye and to the critics.

The weights of the losses are the original's by default; they count as in its sums over pixels (paper section 3.2).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...vae.video_vae import SPACE_RATIO, VideoVAE
from ..loop import Figures
from .critics import adaptive_weight, told_apart
from .reconstruct import encode_moments, plainly, psnr

ARCHITECTURES = ("", "image", "window", "slice")  # "" is the one that training starts from
LEARNING = ("all", "decoder")


@dataclass(frozen=True)
class VAESettings:
    """What of a VAE learns, and how much each loss counts; critics are listened to from a step on.

    `backbone` is the file of VGG-16 that the perceptual loss sees with. `stills` is the share of batches that show
    single frames of clips; of each, a square of `crop` pixels is shown, or all of it. `channels` are for a VAE that
    starts from nothing.
    """

    architecture: str = ""
    learns: str = "all"
    l1: float = 1.0
    l2: float = 0.0
    perceptual: float = 1.0
    backbone: str = ""
    kl: float = 1e-6
    adversary: float = 0.5
    adversary_from: int = 50_001
    critic_width: int = 64
    stills: float = 0.0
    crop: int = 0
    channels: tuple[int, int, int, int] = (128, 256, 512, 512)
    norm_groups: int = 32

    def __post_init__(self):
        for name, known in (("architecture", ARCHITECTURES), ("learns", LEARNING)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}.")
        if self.crop % SPACE_RATIO:
            raise ValueError(f"crop is {self.crop}; it must be a multiple of {SPACE_RATIO}, or 0 for all of a clip.")
        if not self.l1 + self.l2 > 0:
            raise ValueError("l1 and l2 are both 0; a VAE needs one of them to learn the pixels by.")


@dataclass(frozen=True)
class Teachers:
    """Those beside the pixels who judge: an eye (`perceptual`) and critics, where there are any."""

    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    critics: Any = None  # a module by its name


class VAEObjective:
    """The loss of a batch of `clips`; what was made of them is kept until the critics have learnt from it."""

    def __init__(
        self,
        vae: VideoVAE,
        clips: Callable[[int], Tensor],
        settings: VAESettings,
        teachers: Teachers = Teachers(),  # noqa: B008  (frozen)
        accumulate: int = 1,
        recomputing: bool = False,
    ):
        self.vae, self.clips, self.settings, self.teachers = vae, clips, settings, teachers
        self.accumulate = accumulate
        self.slice = partial(checkpoint, use_reentrant=False) if recomputing else plainly
        self.shown: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: int) -> tuple[Tensor, Figures]:
        told, x = self.settings, self.clips(batch)
        mean, logvar = self._encoded(x)
        y = self._decoded(mean + torch.randn_like(mean) * (0.5 * logvar).exp())
        x = x[:, :, : y.shape[2]]  # all of it, but for frames beyond V2's windows
        error = (y - x).square().mean()
        loss = told.l1 * (y - x).abs().mean() + told.l2 * error
        figures = {"psnr": psnr(error), "latents": mean.detach().std()}
        if self.teachers.perceptual is not None:
            distance = self.teachers.perceptual(y, x)
            loss, figures["lpips"] = loss + told.perceptual * distance, distance.detach()
        if told.learns == "all":
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / x.numel()
            loss, figures["kl"] = loss + told.kl * kl, kl.detach()
        if self._has_begun(batch):
            doubts = self._doubts(loss, y)
            loss, figures["doubt"] = loss + told.adversary * doubts, doubts.detach()
            self.shown[batch] = x, y.detach()
        return loss, figures

    def criticise(self, batch: int) -> tuple[Tensor, Figures]:
        """What the critics learn from a batch, right after the VAE did; nothing before their time."""
        critics = self.teachers.critics
        if not self._has_begun(batch):
            nothing: Any = sum(p.sum() for p in critics.parameters())
            return nothing * 0, {}
        real, made = self.shown.pop(batch)
        losses = {name: told_apart(critic, real, made) for name, critic in critics.items()}
        loss: Any = sum(losses.values())
        return loss, {name: each.detach() for name, each in losses.items()}

    def _has_begun(self, batch: int) -> bool:
        return self.teachers.critics is not None and batch // self.accumulate >= self.settings.adversary_from

    def _doubts(self, rest: Tensor, y: Tensor) -> Tensor:
        """The critics' verdicts on `y`, each as loud as the rest of the loss."""
        total: Any = 0
        last = self.vae.decoder.conv_out.weight
        with _fixed(self.teachers.critics):
            for critic in self.teachers.critics.values():
                doubt = -critic(y).mean()
                total = total + adaptive_weight(rest, doubt, last) * doubt
        return total

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance; of a decoder that learns alone, they are given."""
        with torch.set_grad_enabled(self.settings.learns == "all"):
            return encode_moments(self.vae, x, self.slice)

    def _decoded(self, z: Tensor) -> Tensor:
        cuts = self.vae.plan.decode(z.shape[2])
        seen = [(z[:, :, s.before : s.after], s.start - s.before, s.stop - s.start) for s in cuts]
        return torch.cat([self.slice(self.vae.decode_slice, *what) for what in seen], dim=2)


@contextmanager
def _fixed(module: nn.Module) -> Iterator[None]:
    """Meanwhile, what goes through `module` teaches it nothing."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
