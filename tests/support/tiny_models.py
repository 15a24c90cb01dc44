"""A tiny model of each kind of release, with text that fits it."""

from functools import partial

from torch import Tensor

from .mmdit import TWO_TEXTS, tiny_mmdit
from .pack import part
from .tiny_networks import random, tiny_hunyuan_dit, tiny_transformer

SECOND = part("easyanimate_models.text_encoders.prompt").SECOND
TINY_MODELS = {
    "V3": tiny_transformer,
    "V4": tiny_hunyuan_dit,
    "V5": partial(tiny_mmdit, **TWO_TEXTS),
    "V5.1": tiny_mmdit,
}


def text_for(model, seed: int = 1) -> list:
    """Conditioning for a tiny model, random."""
    config, options = model.model.diffusion_model.config, {}
    if getattr(config, "caption_channels_2", None) is not None:
        options[SECOND] = random(1, 7, config.caption_channels_2, seed=seed + 10)
    return [[random(1, 5, config.caption_channels, seed=seed), options]]


def noise_for(model, frames: int, side: int = 4, batch: int = 1) -> Tensor:
    """Noise in the shape of a tiny model's latents, square."""
    return random(batch, model.model.latent_format.latent_channels, frames, side, side)
