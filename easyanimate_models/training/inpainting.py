"""Teach the inpainting (InP) variant: frames or regions of a clip are given, the rest is made (V3's image to video)."""

import random

import torch
from torch import Tensor, nn

from ..dit.motion_dit import MotionDiT
from ..vae.slice_vae import SliceVAE
from ..vae.slicing import plan_encode
from .shapes import SIZE

NEW_INPUTS = 0.5  # deviation of their first weights: the tiny VAE shows a single given frame faintly
FRAMES_GIVEN: tuple[tuple[int, ...], ...] = ((), (0,), (-1,), (0, -1))  # none, start, end, both


def all_but(frames: int, *kept: int) -> Tensor:
    """What is to be made of a clip whose frames `kept` are given, `[T, H, W]`, 1 or 0."""
    made = torch.ones(frames, SIZE, SIZE)
    made[list(kept)] = 0
    return made


def box(frames: int, path: Tensor, rng: random.Random) -> Tensor:
    """A box is to be made in every frame: two times in three around all of `path` `[T, 3]`, else anywhere."""
    if rng.random() < 2 / 3:
        centre, radius = path[:, :2], path[:, 2:]
        low = (centre - radius).amin(0) - rng.uniform(1, 10)
        high = (centre + radius).amax(0) + rng.uniform(1, 10)
    else:
        side = torch.tensor([rng.uniform(20, 48), rng.uniform(20, 48)])
        low = torch.tensor([rng.random(), rng.random()]) * (SIZE - side)
        high = low + side
    (left, top), (right, bottom) = low.round().int().clamp(min=0).tolist(), high.round().int().tolist()
    made = torch.zeros(frames, SIZE, SIZE)
    made[:, top:bottom, left:right] = 1
    return made


@torch.no_grad()
def encode_given(vae: SliceVAE, pixels: Tensor, made: Tensor) -> Tensor:
    """What an InP model is told of clips `[B, 3, T, H, W]`: latents of the mask and of the clip where it is given.

    `made` `[B, T, H, W]` is 1 where the model must make something; there the clip is -1 (black).
    """
    made = made[:, None].expand_as(pixels)
    masked = torch.where(made > 0.5, -1.0, pixels)
    return torch.cat([encode_repeats(vae, made), encode_repeats(vae, masked)], dim=1)


@torch.no_grad()
def encode_repeats(vae: SliceVAE, x: Tensor) -> Tensor:
    """The posterior mean of clips that hardly change: equal slices, and equal clips, are encoded once."""
    parts: list[Tensor] = []
    before = None
    for s in plan_encode(x.shape[2]):
        pixels = x[:, :, s.start : s.stop]
        if before is None or not torch.equal(pixels, before):
            one = pixels[:1] if torch.equal(pixels, pixels[:1].expand_as(pixels)) else pixels
            parts.append(vae.moments(one)[0].expand(len(x), -1, -1, -1, -1))
        else:
            parts.append(parts[-1])
        before = pixels
    return torch.cat(parts, dim=2)


def grow_inputs(plain: MotionDiT, inpainting: MotionDiT) -> None:
    """Give `inpainting` the weights of a text-to-video transformer.

    The new inputs begin loud: from zero they were still hardly used after 1,500 steps.
    """
    weights = plain.state_dict()
    patches = weights["pos_embed.proj.weight"]
    grown = torch.randn_like(inpainting.pos_embed.proj.weight) * NEW_INPUTS
    grown[:, : patches.shape[1]] = patches
    inpainting.load_state_dict(weights | {"pos_embed.proj.weight": nn.Parameter(grown)})
