"""Teach the denoiser: the image transformer first, then the motion modules and all of it on clips (paper 3.1, 4)."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...dit.motion_dit import MotionDiT

TIMESTEPS = 1000
BETAS = (1e-4, 2e-2)


@dataclass(frozen=True)
class Batch:
    """Clean latents `[B, C, F, H, W]`, the text with its mask, and for an inpainting model what is given of them.

    `clip_embeds` `[B, 768]` and `clip_mask` `[B, 8]` are how CLIP sees a start that is given, for a model that takes
    it; masked, there is no image. It is a process's share of a whole batch `of` so many clips, from the one numbered
    `first` on.
    """

    latents: Tensor
    context: Tensor
    mask: Tensor
    given: Tensor | None = None
    first: int = 0
    of: int | None = None
    clip_embeds: Tensor | None = None
    clip_mask: Tensor | None = None


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


PLAIN_NOISE = NoiseWeights(1.0, 1.0, power=0.0)  # as the original: every step counts alike


@dataclass(frozen=True)
class Method:
    """How a denoiser is taught: which noise counts how much, and whether blocks are computed twice to save memory."""

    noise: NoiseWeights = PLAIN_NOISE
    checkpointing: bool = True


METHOD = Method()


def alphas_cumprod() -> Tensor:
    """The release's schedule: betas linear in the step."""
    return torch.cumprod(1 - torch.linspace(*BETAS, TIMESTEPS, dtype=torch.float64), dim=0).float()


def _in_float32(attention, q: Tensor, k: Tensor, v: Tensor, *args, mask: Tensor | None = None, **kwargs) -> Tensor:
    """On a CPU, bfloat16 makes linear layers much faster, but the gradient of attention several times slower."""
    with torch.autocast("cpu", enabled=False):
        mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        return attention(q.float(), k.float(), v.float(), *args, mask=mask, **kwargs)


FULL_PRECISION_ATTENTION = {"optimized_attention_override": _in_float32}


def noise_objective(dit: Any, batches: Batches, weights: NoiseWeights, seed: int, checkpointing: bool = False):
    """The noise in noised latents, squared error, weighted by the signal-to-noise ratio.

    With `checkpointing`, what is inside of a block is computed once more for its gradient instead of being kept.
    """
    kept = alphas_cumprod()
    patches = {"patches_replace": {"dit": {("double_block", i): _recomputed for i in range(dit.config.depth)}}}

    def objective(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        batch = batches(step, random.Random(seed * 1_000_003 + step))
        count = len(batch.latents)
        t = weights.draw(batch.of or count)[batch.first : batch.first + count].to(batch.latents.device)
        noise = _noise(batch, seed * 1_000_003 + step)
        signal = kept.to(t.device)[t]
        share = signal.view(-1, 1, 1, 1, 1)
        x = share.sqrt() * batch.latents + (1 - share).sqrt() * noise
        x = x if batch.given is None else torch.cat([x, batch.given], dim=1)
        options = (FULL_PRECISION_ATTENTION if x.device.type == "cpu" else {}) | (patches if checkpointing else {})
        told = {"attention_mask": batch.mask, "clip_embeds": batch.clip_embeds, "clip_mask": batch.clip_mask}
        eps = dit(x, t, context=batch.context, **told, transformer_options=options)
        error = (eps.float() - noise).square().mean((1, 2, 3, 4))
        figures = {"eps": error.detach().mean(), "eps_strong": error.detach()[signal < 0.2].mean()}
        return (weights.weigh(signal) * error).mean(), figures

    return objective


def _recomputed(args: dict, extra: dict) -> dict:
    """A block under torch's gradient checkpointing, where the host's patches take hold."""
    return checkpoint(extra["original_block"], args, use_reentrant=False)


def _noise(batch: Batch, seed: int) -> Tensor:
    """Noise for each clip from its place in the whole batch alone, whichever process has it."""
    clips = []
    for place, clip in enumerate(batch.latents, batch.first):
        chance = torch.Generator(clip.device).manual_seed(seed * 4096 + place)
        clips.append(torch.randn(clip.shape, generator=chance, device=clip.device, dtype=clip.dtype))
    return torch.stack(clips)


def initialise_dit(dit: MotionDiT) -> None:
    """What starts at zero in training: the output, cross-attention, motion modules and long skips."""
    width = dit.config.width
    blocks: list[Any] = list(dit.transformer_blocks)
    for table in [dit.scale_shift_table, *(block.scale_shift_table for block in blocks)]:
        nn.init.normal_(table, std=width**-0.5)
    nn.init.normal_(dit.adaln_single.linear.weight, std=0.02)
    _silence(dit.proj_out, *(block.attn2.to_out[0] for block in blocks))
    initialise_motion(dit)


def initialise_motion(dit: MotionDiT) -> None:
    """What is added to an image transformer starts at zero: motion modules and long skips."""
    motion: list[Any] = [block.attn_temporal for block in dit.transformer_blocks if block.attn_temporal is not None]
    _silence(*(module.temporal_transformer.proj_out for module in motion), *dit.long_connect_fc)


def _silence(*layers: Any) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def grow_motion(image: MotionDiT, video: MotionDiT) -> None:
    """Give `video` the weights of the image transformer; its motion modules keep theirs, silent at first."""
    missing, unexpected = video.load_state_dict(image.state_dict(), strict=False)
    strangers = [key for key in missing if ".attn_temporal." not in key] + list(unexpected)
    if strangers:
        raise ValueError(f"The image transformer does not fit the video transformer, first at {strangers[0]}.")
