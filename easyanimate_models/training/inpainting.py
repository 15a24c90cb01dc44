"""Teach the inpainting (InP) variant: frames or regions of a clip are given, the rest is made (V3's image to video)."""

import copy
import math
import random

import torch
from torch import Tensor, nn

from ..dit.motion_dit import MotionDiT
from ..model_detection import RELEASED_SCALING
from ..vae.slice_vae import SliceVAE
from ..vae.slicing import FRAMES_PER_SLICE, plan_encode
from .shapes import SIZE
from .vae import Clips, VAEStage, crop_near, encode_moments, psnr, stage_at

KL_WEIGHT = 1e-3
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


def masked(pixels: Tensor, made: Tensor) -> Tensor:
    """Clips `[B, 3, T, H, W]` in black where something is to be made (`made` `[B, T, H, W]` is 1)."""
    return torch.where(made[:, None] > 0.5, -1.0, pixels)


def given_slices(batch: int, clips: Clips, crop: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """What an InP model is told, in single slices `[B, 3, 8, crop, crop]`, and the weight of each pixel.

    One frame of eight, or all but a box, is left of each clip; every fourth slice is a mask. What is given and what
    is black count alike, however small their share.
    """
    pixels, paths = clips(batch, FRAMES_PER_SLICE, rng)
    one = [all_but(FRAMES_PER_SLICE, i) for i in (0, -1)]
    made = torch.stack([one[rng.randrange(2)] if rng.random() < 2 / 3 else box(len(p), p, rng) for p in paths])
    window = crop_near(torch.cat([pixels, made[:, None]], dim=1), paths, crop, rng)
    pixels, made = window[:, :3], window[:, 3]
    kept = 1 - made
    weight = sum(part / part.mean((1, 2, 3), keepdim=True).clamp_min(0.05) for part in (kept, made)) / 2
    slices = masked(pixels, made)
    slices[::4] = made[::4, None]
    return slices, weight[:, None]


def given_vae_objective(vae: SliceVAE, clips: Clips, stages: tuple[VAEStage, ...], seed: int):
    """Teach a trained VAE to show what is given, in four slices for each clip; the latents of whole clips stay."""
    taught = copy.deepcopy(vae).requires_grad_(False)

    def show(pixels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, float]:
        """Loss, latents as the transformer takes them, PSNR."""
        mean, logvar = encode_moments(vae, pixels)
        y = vae.decode(mean + torch.randn_like(mean) * (0.5 * logvar).exp())
        mse = (weight * (y - pixels).square()).mean()
        z, spread = mean * RELEASED_SCALING, logvar + 2 * math.log(RELEASED_SCALING)
        kl = 0.5 * (z.square() + spread.exp() - 1 - spread).mean()
        return (weight * (y - pixels).abs()).mean() + mse + KL_WEIGHT * kl, z, float(psnr(mse))

    def objective(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(seed * 1_000_003 + step)
        stage = stage_at(step, stages)
        x, paths = clips(stage.batch, stage.frames, rng)
        x = crop_near(x, paths, stage.crop, rng).contiguous(memory_format=torch.channels_last_3d)
        slices, weight = given_slices(4 * stage.batch, clips, stage.crop, rng)
        with torch.no_grad():
            before = encode_moments(taught, x)[0] * RELEASED_SCALING
        as_ever, z, clip_psnr = show(x, torch.ones(()))
        given, _, given_psnr = show(slices.contiguous(memory_format=torch.channels_last_3d), weight)
        drift = (z - before).square().mean()
        return as_ever + given + drift, {"clips": clip_psnr, "given": given_psnr, "drift": float(drift.detach())}

    return objective


@torch.no_grad()
def encode_given(vae: SliceVAE, pixels: Tensor, made: Tensor) -> Tensor:
    """What an InP model is told of clips `[B, 3, T, H, W]`: latents of the mask and of the clip where it is given.

    `made` `[B, T, H, W]` is 1 where the model must make something; there the clip is -1 (black).
    """
    mask = made[:, None].expand_as(pixels)
    return torch.cat([encode_repeats(vae, mask), encode_repeats(vae, masked(pixels, made))], dim=1)


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
