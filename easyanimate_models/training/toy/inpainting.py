"""The inpainting (InP) variant: frames or regions of a clip are given, the rest is generated (V3's image to video)."""

import copy
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...dit.motion_dit import MotionDiT
from ...latent_formats import SliceLatents
from ...vae.slice_vae import SliceVAE
from ...vae.slicing import FRAMES_PER_SLICE, LATENTS_PER_SLICE, plan_encode
from ..learner import Metrics, Objective
from ..vae.reconstruct import encode_moments, reconstruct
from .objective import DrawClips, VAEStage, crop_near, stage_at
from .shapes import SIZE

KL_WEIGHT = 1e-3
SCALE = SliceLatents.scale_factor
NEW_INPUTS = 0.5  # standard deviation of their first weights: from zero they were hardly used after 1,500 steps
FRAMES_GIVEN: tuple[tuple[int, ...], ...] = ((), (0,), (-1,), (0, -1))  # none, start, end, both


def all_but(frames: int, *kept: int) -> Tensor:
    """The mask of a clip of which only the frames `kept` are given, `[T, H, W]`: 1 where it is to be generated."""
    mask = torch.ones(frames, SIZE, SIZE)
    mask[list(kept)] = 0
    return mask


def box(frames: int, path: Tensor, rng: random.Random) -> Tensor:
    """A mask with a box in every frame: two times in three around all of `path` `[T, 3]`, else anywhere."""
    if rng.random() < 2 / 3:
        centre, radius = path[:, :2], path[:, 2:]
        low = (centre - radius).amin(0) - rng.uniform(1, 10)
        high = (centre + radius).amax(0) + rng.uniform(1, 10)
    else:
        side = torch.tensor([rng.uniform(20, 48), rng.uniform(20, 48)])
        low = torch.tensor([rng.random(), rng.random()]) * (SIZE - side)
        high = low + side
    (left, top), (right, bottom) = low.round().int().clamp(min=0).tolist(), high.round().int().tolist()
    mask = torch.zeros(frames, SIZE, SIZE)
    mask[:, top:bottom, left:right] = 1
    return mask


def masked(pixels: Tensor, mask: Tensor) -> Tensor:
    """Clips `[B, 3, T, H, W]`, black where `mask` `[B, T, H, W]` is 1."""
    return torch.where(mask[:, None] > 0.5, -1.0, pixels)


@dataclass(frozen=True)
class MaskedSlices:
    """Single slices `[B, 3, 8, h, w]` as an InP model is given them, and the weight of each pixel `[B, 1, 8, h, w]`.

    The first `len(still)` of them show a single frame; `still` shows that frame all the way.
    """

    slices: Tensor
    weight: Tensor
    still: Tensor


def masked_slices(batch: int, draw_clips: DrawClips, crop: int, rng: random.Random) -> MaskedSlices:
    """Half of the slices are a single frame in black, a quarter are frames with a hole, the rest are masks themselves.

    What is given and what is black count alike, however small their share.
    """
    pixels, paths = draw_clips(batch, FRAMES_PER_SLICE, rng)
    alone, holes = batch // 2, batch * 3 // 4
    kept = [rng.choice((0, -1)) for _ in range(batch)]
    masks = [
        all_but(FRAMES_PER_SLICE, kept[i]) if i < alone or rng.random() < 0.5 else box(FRAMES_PER_SLICE, paths[i], rng)
        for i in range(batch)
    ]
    masks[alone:holes] = [box(FRAMES_PER_SLICE, path, rng) for path in paths[alone:holes]]
    window = crop_near(torch.cat([pixels, torch.stack(masks)[:, None]], dim=1), paths, crop, rng)
    pixels, mask = window[:, :3], window[:, 3]
    shares = [part / part.mean((1, 2, 3), keepdim=True).clamp_min(0.05) for part in (1 - mask, mask)]
    weight = (shares[0] + shares[1]) / 2
    slices = masked(pixels, mask)
    slices[holes:] = mask[holes:, None]
    still = torch.stack([pixels[i, :, kept[i]] for i in range(alone)])[:, :, None].expand_as(pixels[:alone])
    return MaskedSlices(slices, weight[:, None], still)


class StillFrameProbe(nn.Sequential):
    """From the latents of a single frame in black to those of that frame standing still, `[B, C, 2, h, w]` each.

    The InP transformer has to do as much: it can't keep what this can't read from the latents.
    """

    def __init__(self, channels: int, width: int = 64):
        both = LATENTS_PER_SLICE * channels
        layers = nn.Conv2d(both, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()
        super().__init__(nn.Flatten(1, 2), *layers, nn.Conv2d(width, both, 3, padding=1))
        self.unflatten = (channels, LATENTS_PER_SLICE)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z).unflatten(1, self.unflatten)


def masked_vae_objective(
    vae: SliceVAE, probe: StillFrameProbe, draw_clips: DrawClips, stages: tuple[VAEStage, ...], seed: int
) -> Objective:
    """Fine-tune a trained VAE on masked clips, four slices for each clip, and keep its latents of whole clips."""
    original = copy.deepcopy(vae).requires_grad_(False)

    def original_latents(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return encode_moments(original, pixels)[0] * SCALE

    def objective(step: int) -> tuple[Tensor, Metrics]:
        rng = random.Random(seed * 1_000_003 + step)
        stage = stage_at(step, stages)
        x, paths = draw_clips(stage.batch, stage.frames, rng)
        x = crop_near(x, paths, stage.crop, rng)
        part = masked_slices(4 * stage.batch, draw_clips, stage.crop, rng)
        whole = reconstruct(vae, x, KL_WEIGHT, SCALE)
        given = reconstruct(vae, part.slices, KL_WEIGHT, SCALE, part.weight)
        drift = (whole.latents - original_latents(x)).square().mean()
        lost = (probe(given.latents[: len(part.still)]) - original_latents(part.still)).square().mean()
        metrics = {
            "clips": whole.psnr,
            "given": given.psnr,
            "drift": float(drift.detach()),
            "lost": float(lost.detach()),
        }
        return whole.loss + given.loss + drift + lost, metrics

    return objective


@torch.no_grad()
def encode_given(vae: SliceVAE, pixels: Tensor, mask: Tensor) -> Tensor:
    """What an InP model is given of clips `[B, 3, T, H, W]`: latents of the mask and of the masked clip.

    `mask` `[B, T, H, W]` is 1 where the model must generate something; there the clip is -1 (black).
    """
    mask_pixels = mask[:, None].expand_as(pixels)
    return torch.cat([encode_repeats(vae, mask_pixels), encode_repeats(vae, masked(pixels, mask))], dim=1)


@torch.no_grad()
def encode_repeats(vae: SliceVAE, x: Tensor) -> Tensor:
    """The posterior mean of clips that hardly change: of equal slices in a row, and of equal clips, one is encoded."""
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
    """Give `inpainting` the weights of a text-to-video transformer; those of the new inputs are random and large."""
    weights = plain.state_dict()
    patches = weights["pos_embed.proj.weight"]
    grown = torch.randn_like(inpainting.pos_embed.proj.weight) * NEW_INPUTS
    grown[:, : patches.shape[1]] = patches
    inpainting.load_state_dict(weights | {"pos_embed.proj.weight": nn.Parameter(grown)})
