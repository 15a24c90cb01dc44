"""The objective of the denoiser: the squared error of the noise predicted in noised latents (paper 3.1, 4)."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..learner import Metrics, Objective


@dataclass(frozen=True)
class Batch:
    """Clean latents `[B, C, F, H, W]`, text embeddings `[B, L, D]` with their mask `[B, L]`, and for an inpainting
    model `given`, the latents of the mask and the masked video `[B, 2*C, F, H, W]`.

    `clip_embeds` `[B, 768]` and `clip_mask` `[B, 8]` are a given start frame as CLIP sees it, for a model that takes
    it; a mask of 0 means no image. These are a process's items of the global batch, from the one numbered `first` on;
    `global_batch` is its size, where it is larger.
    """

    latents: Tensor
    context: Tensor
    mask: Tensor
    given: Tensor | None = None
    first: int = 0
    global_batch: int | None = None
    clip_embeds: Tensor | None = None
    clip_mask: Tensor | None = None

    def conditioning(self) -> dict[str, Tensor | None]:
        """Keyword arguments of the network."""
        return {
            "context": self.context,
            "attention_mask": self.mask,
            "clip_embeds": self.clip_embeds,
            "clip_mask": self.clip_mask,
        }


DrawBatch = Callable[[int, random.Random], Batch]  # (step, rng)


@dataclass(frozen=True)
class NoiseWeights:
    """Weight of the squared noise error: (1/snr)^power between these bounds, as strong noise decides the layout.

    `decisive` is the range of timesteps that four of five draws come from, where a wrong prompt costs most.
    """

    least: float
    most: float
    power: float = 1.0
    decisive: tuple[int, int] | None = None

    def draw(self, batch: int, timesteps: int) -> Tensor:
        """Random timesteps below `timesteps`, `[batch]`."""
        uniform = torch.randperm(timesteps)[:batch] if batch <= timesteps else torch.randint(timesteps, (batch,))
        if self.decisive is None:
            return uniform
        return torch.where(torch.rand(batch) < 0.2, uniform, torch.randint(*self.decisive, (batch,)))

    def weigh(self, signal: Tensor) -> Tensor:
        """The weight of each clip `[B]`, from its share of signal power `[B]`."""
        return ((1 - signal) / signal).pow(self.power).clamp(self.least, self.most)


UNIFORM = NoiseWeights(1.0, 1.0, power=0.0)  # as the original: all timesteps count alike


@dataclass(frozen=True)
class ObjectiveSettings:
    """How much each noise level counts, and whether blocks are recomputed in the backward pass to save memory."""

    noise: NoiseWeights = UNIFORM
    checkpointing: bool = True


DEFAULT_OBJECTIVE = ObjectiveSettings()


def _attention_in_float32(attention, q: Tensor, k: Tensor, v: Tensor, *args, mask: Tensor | None = None, **kwargs):
    """On a CPU, bfloat16 makes linear layers much faster, but the gradient of attention several times slower."""
    with torch.autocast("cpu", enabled=False):
        mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        return attention(q.float(), k.float(), v.float(), *args, mask=mask, **kwargs)


CPU_OPTIONS = {"optimized_attention_override": _attention_in_float32}


def noise_objective(
    network: Any, draw_batch: DrawBatch, alphas_cumprod: Tensor, settings: ObjectiveSettings, seed: int
) -> Objective:
    """The weighted squared error of the noise that `network` predicts in the batches drawn.

    `alphas_cumprod` `[timesteps]` is the noise schedule: the share of signal power at each timestep.
    """
    options = checkpointed_blocks(network.config.depth) if settings.checkpointing else {}

    def objective(step: int) -> tuple[Tensor, Metrics]:
        batch = draw_batch(step, random.Random(seed * 1_000_003 + step))
        device, count = batch.latents.device, len(batch.latents)
        timesteps = settings.noise.draw(batch.global_batch or count, len(alphas_cumprod))
        t = timesteps[batch.first : batch.first + count].to(device)
        noise = _noise(batch, seed * 1_000_003 + step)
        signal = alphas_cumprod.to(device)[t]
        alpha = signal.view(-1, 1, 1, 1, 1)
        x = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
        x = x if batch.given is None else torch.cat([x, batch.given], dim=1)
        transformer_options = options | CPU_OPTIONS if device.type == "cpu" else options
        predicted = network(x, t, **batch.conditioning(), transformer_options=transformer_options)
        error = (predicted.float() - noise).square().mean((1, 2, 3, 4))
        metrics = {"eps": error.detach().mean(), "eps_strong": error.detach()[signal < 0.2].mean()}
        return (settings.noise.weigh(signal) * error).mean(), metrics

    return objective


def checkpointed_blocks(depth: int) -> dict:
    """Transformer options under which blocks are recomputed in the backward pass, instead of keeping what they need."""
    return {"patches_replace": {"dit": {("double_block", i): _checkpointed_block for i in range(depth)}}}


def _checkpointed_block(args: dict, extra: dict) -> dict:
    """A block under torch's gradient checkpointing, as a patch of the host."""
    return checkpoint(extra["original_block"], args, use_reentrant=False)


def _noise(batch: Batch, seed: int) -> Tensor:
    """Noise for each clip from its index in the global batch alone, whichever process has it."""
    noise = []
    for index, clip in enumerate(batch.latents, batch.first):
        generator = torch.Generator(clip.device).manual_seed(seed * 4096 + index)
        noise.append(torch.randn(clip.shape, generator=generator, device=clip.device, dtype=clip.dtype))
    return torch.stack(noise)


def scaled(draw_batch: DrawBatch, model) -> DrawBatch:
    """Batches of latents as the VAE gives them, at the scale of the MODEL."""

    def draw(step: int, rng: random.Random) -> Batch:
        batch = draw_batch(step, rng)
        given = None if batch.given is None else model.model.process_latent_in(batch.given)
        return replace(batch, latents=model.model.process_latent_in(batch.latents), given=given)

    return draw


def on_device(draw_batch: DrawBatch, device: torch.device) -> DrawBatch:
    """The same batches, moved to a device."""

    def draw(step: int, rng: random.Random) -> Batch:
        batch = draw_batch(step, rng)
        moved: dict[str, Any] = {name: t.to(device) for name, t in vars(batch).items() if isinstance(t, Tensor)}
        return replace(batch, **moved)

    return draw
