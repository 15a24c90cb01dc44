"""The objective of a VAE: reconstruct clips by pixels, by a perceptual distance, and against critics.

The weights of the losses are the original's by default; they count as in its sums over pixels (paper section 3.2).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...files.messages import shorten
from ...vae.video_vae import SPACE_RATIO, VideoVAE
from ..devices import noise_like
from ..learner import Metrics
from .critics import adaptive_weight, hinge_loss
from .reconstruct import call, decode_latents, encode_moments, psnr, recompute, scale_equivariance

ARCHITECTURES = ("", "image", "window", "slice", "pair", "causal_attention", "causal")  # V1 to V5.1; "" is the start's
LEARNING = ("all", "decoder")


@dataclass(frozen=True)
class VAESettings:
    """What of a VAE learns, and the weights of the losses; the adversarial one counts from step `adversary_from` on.

    `backbone` is the file of the VGG-16 of the perceptual loss. `stills` is the share of batches of single frames;
    of each clip a square of `crop` pixels is shown, or all of it. `channels` and `norm_groups` are for a VAE that is
    trained from scratch. `equivariance` is the weight of `scale_equivariance`, which changes latents.
    """

    architecture: str = ""
    learns: str = "all"
    l1: float = 1.0
    l2: float = 0.0
    perceptual: float = 1.0
    backbone: str = ""
    kl: float = 1e-6
    equivariance: float = 0.0
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
                raise ValueError(f"{name} is {shorten(getattr(self, name))}; it must be one of {', '.join(known)}.")
        if self.crop % SPACE_RATIO:
            raise ValueError(f"crop is {self.crop}; it must be a multiple of {SPACE_RATIO}, or 0 for whole frames.")
        if not self.l1 + self.l2 > 0:
            raise ValueError("l1 and l2 are both 0; set at least one of them above 0.")


@dataclass(frozen=True)
class LossNetworks:
    """The networks that judge what a VAE decodes, where there are any: the perceptual loss, and critics by name."""

    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
    critics: Any = None  # nn.ModuleDict


class VAEObjective:
    """The loss of a VAE on a batch of `clips` `[B, 3, T, H, W]`.

    Real and decoded clips of a batch are kept in `pairs` until the critics have taken their step on them.
    """

    def __init__(
        self,
        vae: VideoVAE,
        clips: Callable[[int], Tensor],
        settings: VAESettings,
        networks: LossNetworks = LossNetworks(),  # noqa: B008  (frozen)
        accumulate: int = 1,
        checkpointing: bool = False,
    ):
        self.vae, self.clips, self.settings, self.networks = vae, clips, settings, networks
        self.accumulate = accumulate
        self.each = recompute if checkpointing else call
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: int) -> tuple[Tensor, Metrics]:
        settings, x = self.settings, self.clips(batch)
        mean, logvar = self._encoded(x)
        y = decode_latents(self.vae, mean + noise_like(mean) * (0.5 * logvar).exp(), self.each)
        x = x[:, :, : y.shape[2]]  # all of it, but for frames beyond V2's windows
        mse = (y - x).square().mean()
        loss = settings.l1 * (y - x).abs().mean() + settings.l2 * mse
        metrics = {"psnr": psnr(mse), "latents": mean.detach().std()}
        if self.networks.perceptual is not None:
            distance = self.networks.perceptual(y, x)
            loss, metrics["lpips"] = loss + settings.perceptual * distance, distance.detach()
        if settings.learns == "all":
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / x.numel()
            loss, metrics["kl"] = loss + settings.kl * kl, kl.detach()
        if settings.equivariance:
            shrunk = scale_equivariance(self.vae, x, mean, self.each)
            loss, metrics["equivariance"] = loss + settings.equivariance * shrunk, shrunk.detach()
        if self._is_adversarial(batch):
            adversarial = self._adversarial_loss(loss, y)
            loss, metrics["adversarial"] = loss + settings.adversary * adversarial, adversarial.detach()
            self.pairs[batch] = x, y.detach()
        return loss, metrics

    def critic_objective(self, batch: int) -> tuple[Tensor, Metrics]:
        """The loss of the critics on a batch, right after the VAE's; zero before `adversary_from`."""
        critics = self.networks.critics
        if not self._is_adversarial(batch):
            total: Any = sum(p.sum() for p in critics.parameters())
            return total * 0, {}
        real, decoded = self.pairs.pop(batch)
        losses = {name: hinge_loss(critic, real, decoded) for name, critic in critics.items()}
        loss: Any = sum(losses.values())
        return loss, {name: each.detach() for name, each in losses.items()}

    def _is_adversarial(self, batch: int) -> bool:
        return self.networks.critics is not None and batch // self.accumulate >= self.settings.adversary_from

    def _adversarial_loss(self, loss: Tensor, y: Tensor) -> Tensor:
        """The critics' verdicts on `y`, each weighted to count as much as the rest of the `loss`."""
        total: Any = 0
        last_layer = self.vae.decoder.conv_out.weight
        with _frozen(self.networks.critics):
            for critic in self.networks.critics.values():
                verdict = -critic(y).mean()
                total = total + adaptive_weight(loss, verdict, last_layer) * verdict
        return total

    def _encoded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, without gradients where only the decoder learns."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.learns == "all"):
            return encode_moments(self.vae, x, self.each)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Within this context the parameters of `module` get no gradients."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
