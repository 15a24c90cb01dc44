"""The objective of the built-in tiny VAE: stills first, then clips, cut near their subject (paper section 3.2)."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...vae.slice_vae import SliceVAE
from ..learner import Metrics, Objective
from ..vae.reconstruct import reconstruct, scale_equivariance

DrawClips = Callable[[int, int, random.Random], tuple[Tensor, Tensor]]  # (batch, frames, rng) -> clips, paths
DrawCrops = Callable[["VAEStage", random.Random], Tensor]


@dataclass(frozen=True)
class VAEStage:
    """From step `from_step` on, a batch is `batch` clips of `frames`, cut to `crop` pixels near the subject."""

    from_step: int
    batch: int
    frames: int
    crop: int


def vae_objective(
    vae: SliceVAE,
    draw_crops: DrawCrops,
    stages: tuple[VAEStage, ...],
    kl_weight: float,
    seed: int,
    equivariance: float = 0.0,
) -> Objective:
    """Reconstruct clips or crops of them; the network is convolutional, so a crop near the subject teaches most.

    `equivariance` is the weight of `scale_equivariance`.
    """

    def objective(step: int) -> tuple[Tensor, Metrics]:
        stage = stage_at(step, stages)
        rng = random.Random(seed * 1_000_003 + step)
        x = draw_crops(stage, rng)
        result = reconstruct(vae, x, kl_weight)
        metrics: Metrics = {"psnr": result.psnr, "kl": result.kl}
        if not equivariance:
            return result.loss, metrics
        shrunk = scale_equivariance(vae, x, result.latents)
        return result.loss + equivariance * shrunk, metrics | {"equivariance": shrunk.detach()}

    return objective


def crops_of(draw_clips: DrawClips) -> DrawCrops:
    """Windows of clips, near their subjects."""

    def draw(stage: VAEStage, rng: random.Random) -> Tensor:
        x, paths = draw_clips(stage.batch, stage.frames, rng)
        return crop_near(x, paths, stage.crop, rng)

    return draw


def stage_at(step: int, stages: tuple[VAEStage, ...]) -> VAEStage:
    """The last stage that has begun."""
    return max((s for s in stages if s.from_step <= step), key=lambda s: s.from_step)


def crop_near(x: Tensor, paths: Tensor, size: int, rng: random.Random) -> Tensor:
    """A `size` x `size` window of each clip, near the subject at some moment, at a multiple of 8 pixels."""
    if size >= x.shape[-1]:
        return x
    windows = []
    for clip, path in zip(x, paths, strict=True):
        cx, cy, _ = path[rng.randrange(len(path))].tolist()
        left, top = (_snap(c + rng.uniform(-12, 12) - size / 2, x.shape[-1] - size) for c in (cx, cy))
        windows.append(clip[:, :, top : top + size, left : left + size])
    return torch.stack(windows)


def _snap(position: float, most: int) -> int:
    return min(max(round(position / 8) * 8, 0), most)
