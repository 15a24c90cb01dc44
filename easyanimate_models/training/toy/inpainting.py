"""Teach the inpainting (InP) variant: frames or regions of a clip are given, the rest is made (V3's image to video)."""

import copy
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...dit.motion_dit import MotionDiT
from ...model_detection import RELEASED_SCALING
from ...vae.slice_vae import SliceVAE
from ...vae.slicing import FRAMES_PER_SLICE, LATENTS_PER_SLICE, plan_encode
from ..vae.reconstruct import Clips, VAEStage, crop_near, encode_moments, reconstruct, stage_at
from .shapes import SIZE

KL_WEIGHT = 1e-3
NEW_INPUTS = 0.5  # deviation of their first weights: from zero they were still hardly used after 1,500 steps
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


@dataclass(frozen=True)
class Told:
    """What an InP model is told, in single slices `[B, 3, 8, h, w]`, and the weight of each pixel `[B, 1, 8, h, w]`.

    `still` are slices of one given frame all the way, for the first `len(still)` of them.
    """

    slices: Tensor
    weight: Tensor
    still: Tensor


def given_slices(batch: int, clips: Clips, crop: int, rng: random.Random) -> Told:
    """Half of the slices are one frame alone in black, then come a hole in each, then masks.

    What is given and what is black count alike, however small their share.
    """
    pixels, paths = clips(batch, FRAMES_PER_SLICE, rng)
    alone, holes = batch // 2, batch * 3 // 4
    kept = [rng.choice((0, -1)) for _ in range(batch)]
    made = [
        all_but(FRAMES_PER_SLICE, kept[i]) if i < alone or rng.random() < 0.5 else box(FRAMES_PER_SLICE, paths[i], rng)
        for i in range(batch)
    ]
    made[alone:holes] = [box(FRAMES_PER_SLICE, path, rng) for path in paths[alone:holes]]
    window = crop_near(torch.cat([pixels, torch.stack(made)[:, None]], dim=1), paths, crop, rng)
    pixels, mask = window[:, :3], window[:, 3]
    shares = [part / part.mean((1, 2, 3), keepdim=True).clamp_min(0.05) for part in (1 - mask, mask)]
    weight = (shares[0] + shares[1]) / 2
    slices = masked(pixels, mask)
    slices[holes:] = mask[holes:, None]
    still = torch.stack([pixels[i, :, kept[i]] for i in range(alone)])[:, :, None].expand_as(pixels[:alone])
    return Told(slices, weight[:, None], still)


class Recall(nn.Sequential):
    """From the latents of one frame alone in black to those of that frame standing still, `[B, C, 2, h, w]` each.

    The InP transformer has to do as much: what can't be read from the latents, it can't keep.
    """

    def __init__(self, channels: int, width: int = 64):
        both = LATENTS_PER_SLICE * channels
        layers = nn.Conv2d(both, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()
        super().__init__(nn.Flatten(1, 2), *layers, nn.Conv2d(width, both, 3, padding=1))
        self.unflatten = (channels, LATENTS_PER_SLICE)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).unflatten(1, self.unflatten)


def given_vae_objective(vae: SliceVAE, recall: Recall, clips: Clips, stages: tuple[VAEStage, ...], seed: int):
    """Teach a trained VAE to tell what is given, in four slices for each clip; the latents of whole clips stay."""
    taught = copy.deepcopy(vae).requires_grad_(False)

    def before(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return encode_moments(taught, pixels)[0] * RELEASED_SCALING

    def objective(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(seed * 1_000_003 + step)
        stage = stage_at(step, stages)
        x, paths = clips(stage.batch, stage.frames, rng)
        x = crop_near(x, paths, stage.crop, rng)
        told = given_slices(4 * stage.batch, clips, stage.crop, rng)
        whole = reconstruct(vae, x, KL_WEIGHT, RELEASED_SCALING)
        given = reconstruct(vae, told.slices, KL_WEIGHT, RELEASED_SCALING, told.weight)
        drift = (whole.latents - before(x)).square().mean()
        lost = (recall(given.latents[: len(told.still)]) - before(told.still)).square().mean()
        figures = {
            "clips": whole.psnr,
            "given": given.psnr,
            "drift": float(drift.detach()),
            "lost": float(lost.detach()),
        }
        return whole.loss + given.loss + drift + lost, figures

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
    """Give `inpainting` the weights of a text-to-video transformer; the new inputs begin loud."""
    weights = plain.state_dict()
    patches = weights["pos_embed.proj.weight"]
    grown = torch.randn_like(inpainting.pos_embed.proj.weight) * NEW_INPUTS
    grown[:, : patches.shape[1]] = patches
    inpainting.load_state_dict(weights | {"pos_embed.proj.weight": nn.Parameter(grown)})
