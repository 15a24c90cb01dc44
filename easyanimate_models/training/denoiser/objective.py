"""The objective of a denoiser: the squared error of what it predicts of noised latents (paper 3.1, 4)."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...conditioning.control import CAMERA_LATENTS
from ..learner import Metrics, Objective
from .diffusion import UNIFORM, NoiseWeights, Prediction

STRONG = 0.2  # share of signal power below which noise is strong


@dataclass(frozen=True)
class Batch:
    """Clean latents `[B, C, F, H, W]`, text embeddings `[B, L, D]` with their mask `[B, L]`, those of a second text
    encoder (V4, V5), and `given`, what the network takes beside the latents, `[B, channels, F, H, W]`.

    `clip_embeds` and `clip_mask` are a given start frame as CLIP sees it (`VideoModel.start_image`), for a model that
    takes it; a mask of 0 means no image. `camera` `[B, 6, F, H, W]` are the rays of a camera's path, of which
    `scaled` makes a part of `given`. These are a process's items of the global batch, from the one numbered `first`
    on; `global_batch` is its size, where it is larger.
    """

    latents: Tensor
    context: Tensor
    mask: Tensor
    given: Tensor | None = None
    first: int = 0
    global_batch: int | None = None
    clip_embeds: Tensor | None = None
    clip_mask: Tensor | None = None
    context_2: Tensor | None = None
    mask_2: Tensor | None = None
    camera: Tensor | None = None

    def conditioning(self) -> dict[str, Tensor]:
        """Keyword arguments of the network."""
        given = {
            "context": self.context,
            "attention_mask": self.mask,
            "context_t5": self.context_2,
            "attention_mask_t5": self.mask_2,
            "clip_embeds": self.clip_embeds,
            "clip_mask": self.clip_mask,
        }
        return {name: tensor for name, tensor in given.items() if tensor is not None}


DrawBatch = Callable[[int, random.Random], Batch]  # (step, rng)


@dataclass(frozen=True)
class ObjectiveSettings:
    """How much each noise level counts, and what saves memory.

    With `checkpointing`, blocks are recomputed in the backward pass. `blocks_to_swap` of a frozen base wait in RAM.
    """

    noise: NoiseWeights = UNIFORM
    checkpointing: bool = True
    blocks_to_swap: int = 0

    def __post_init__(self):
        if self.blocks_to_swap < 0:
            raise ValueError(f"blocks_to_swap is {self.blocks_to_swap}; it must be 0 or more.")
        if self.blocks_to_swap and not self.checkpointing:
            raise ValueError("blocks_to_swap needs checkpointing; set checkpointing to true, or blocks_to_swap to 0.")


DEFAULT_OBJECTIVE = ObjectiveSettings()


def _attention_in_float32(attention, q: Tensor, k: Tensor, v: Tensor, *args, mask: Tensor | None = None, **kwargs):
    """On a CPU, bfloat16 makes linear layers much faster, but the gradient of attention several times slower."""
    with torch.autocast("cpu", enabled=False):
        mask = mask.float() if mask is not None and mask.is_floating_point() else mask
        return attention(q.float(), k.float(), v.float(), *args, mask=mask, **kwargs)


CPU_OPTIONS = {"optimized_attention_override": _attention_in_float32}


def denoising_objective(
    network: Any, draw_batch: DrawBatch, prediction: Prediction, settings: ObjectiveSettings, seed: int
) -> Objective:
    """The weighted squared error of the `prediction` of `network` in the batches drawn."""
    options = checkpointed_blocks(network.config.depth) if settings.checkpointing else {}

    def objective(step: int) -> tuple[Tensor, Metrics]:
        batch = draw_batch(step, random.Random(seed * 1_000_003 + step))
        device, count = batch.latents.device, len(batch.latents)
        levels = prediction.draw(batch.global_batch or count, settings.noise)[batch.first : batch.first + count]
        noised = prediction.noised(batch.latents, _noise(batch, seed * 1_000_003 + step), levels.to(device))
        x = noised.x if batch.given is None else torch.cat([noised.x, batch.given], dim=1)
        transformer_options = options | CPU_OPTIONS if device.type == "cpu" else options
        predicted = network(x, noised.timesteps, **batch.conditioning(), transformer_options=transformer_options)
        error = (predicted.float() - noised.target).square().mean((1, 2, 3, 4))
        strong = error.detach()[noised.signal < STRONG]
        metrics = {prediction.name: error.detach().mean(), f"{prediction.name}_strong": strong.mean()}
        return (prediction.weigh(noised.signal, settings.noise) * error).mean(), metrics

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
    """Batches of latents as the VAE gives them, at the scale of the MODEL, which is given the rest as in sampling."""
    variant, latent_format = model.model.model_config.variant, model.model.latent_format

    def draw(step: int, rng: random.Random) -> Batch:
        batch = draw_batch(step, rng)
        latents = model.model.process_latent_in(batch.latents)
        if variant is None:
            return replace(batch, latents=latents)
        conds = {"concat_latent_image": batch.given, CAMERA_LATENTS: batch.camera}
        return replace(batch, latents=latents, given=variant.concat(latents, conds, latent_format), camera=None)

    return draw


def on_device(draw_batch: DrawBatch, device: torch.device) -> DrawBatch:
    """The same batches, moved to a device."""

    def draw(step: int, rng: random.Random) -> Batch:
        batch = draw_batch(step, rng)
        moved: dict[str, Any] = {name: t.to(device) for name, t in vars(batch).items() if isinstance(t, Tensor)}
        return replace(batch, **moved)

    return draw
