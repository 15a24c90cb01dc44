"""Teach the denoiser: the image transformer first, then the motion modules and all of it on clips (paper 3.1, 4)."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..dit.motion_dit import MotionDiT

TIMESTEPS = 1000
BETAS = (1e-4, 2e-2)


@dataclass(frozen=True)
class Batch:
    """Clean latents `[B, C, F, H, W]`, the text with its mask, and for an inpainting model what is given of them."""

    latents: Tensor
    context: Tensor
    mask: Tensor
    given: Tensor | None = None


Batches = Callable[[int, random.Random], Batch]  # (step, chance)


@dataclass(frozen=True)
class NoiseWeights:
    """Weight of the squared noise error, (1/snr)^power between these bounds: layout is decided where noise is strong.

    `decisive` is the range of steps that four of five draws come from, where a wrong prompt costs most.
    """

    least: float
    most: float
    power: float = 1.0
    decisive: tuple[int, int] | None = None

    def draw(self, batch: int) -> Tensor:
        """Steps of a batch, `[B]`."""
        anywhere = torch.randperm(TIMESTEPS)[:batch] if batch <= TIMESTEPS else torch.randint(TIMESTEPS, (batch,))
        if self.decisive is None:
            return anywhere
        return torch.where(torch.rand(batch) < 0.2, anywhere, torch.randint(*self.decisive, (batch,)))

    def weigh(self, kept: Tensor) -> Tensor:
        """The weight of each clip, from its share of signal power, `[B]`."""
        return ((1 - kept) / kept).pow(self.power).clamp(self.least, self.most)


def alphas_cumprod() -> Tensor:
    """The release's schedule: betas linear in the step."""
    return torch.cumprod(1 - torch.linspace(*BETAS, TIMESTEPS, dtype=torch.float64), dim=0).float()


def _in_float32(attention, q: Tensor, k: Tensor, v: Tensor, *args, mask: Tensor | None = None, **kwargs) -> Tensor:
    """On a CPU, bfloat16 makes linear layers much faster, but the gradient of attention several times slower."""
    with torch.autocast("cpu", enabled=False):
        mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        return attention(q.float(), k.float(), v.float(), *args, mask=mask, **kwargs)


FULL_PRECISION_ATTENTION = {"optimized_attention_override": _in_float32}


def noise_objective(dit: MotionDiT, batches: Batches, weights: NoiseWeights, seed: int):
    """The noise in noised latents, squared error, weighted by the signal-to-noise ratio."""
    kept = alphas_cumprod()

    def objective(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batches(step, random.Random(seed * 1_000_003 + step))
        t = weights.draw(len(batch.latents))
        noise = torch.randn_like(batch.latents)
        signal = kept[t].view(-1, 1, 1, 1, 1)
        x = signal.sqrt() * batch.latents + (1 - signal).sqrt() * noise
        x = x if batch.given is None else torch.cat([x, batch.given], dim=1)
        text = {"context": batch.context, "attention_mask": batch.mask}
        with torch.autocast("cpu", torch.bfloat16):
            eps = dit(x, t, **text, transformer_options=FULL_PRECISION_ATTENTION)
        error = (eps.float() - noise).square().mean((1, 2, 3, 4))
        strong = kept[t] < 0.2
        figures = {"eps": float(error.detach().mean())}
        if strong.any():
            figures["eps_strong"] = float(error.detach()[strong].mean())
        return (weights.weigh(kept[t]) * error).mean(), figures

    return objective


def initialise_dit(dit: MotionDiT) -> None:
    """What starts at zero in training: the output, cross-attention, motion modules and long skips."""
    width = dit.config.width
    for table in [dit.scale_shift_table, *(block.scale_shift_table for block in dit.transformer_blocks)]:
        nn.init.normal_(table, std=width**-0.5)
    nn.init.normal_(dit.adaln_single.linear.weight, std=0.02)
    silent = [dit.proj_out, *dit.long_connect_fc]
    for block in dit.transformer_blocks:
        silent.append(block.attn2.to_out[0])
        if block.attn_temporal is not None:
            silent.append(block.attn_temporal.temporal_transformer.proj_out)
    for layer in silent:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def grow_motion(image: MotionDiT, video: MotionDiT) -> None:
    """Give `video` the weights of the image transformer; its motion modules keep theirs, silent at first."""
    missing, unexpected = video.load_state_dict(image.state_dict(), strict=False)
    strangers = [key for key in missing if ".attn_temporal." not in key] + list(unexpected)
    if strangers:
        raise ValueError(f"The image transformer does not fit the video transformer, first at {strangers[0]}.")
