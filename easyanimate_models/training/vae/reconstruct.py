"""Teach a Slice VAE: stills first, then clips, cut into slices as inference cuts them (paper section 3.2)."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...vae.slice_vae import SliceVAE
from ...vae.video_vae import VideoVAE

Clips = Callable[[int, int, random.Random], tuple[Tensor, Tensor]]  # (batch, frames) -> clips, paths


@dataclass(frozen=True)
class VAEStage:
    """From which step on what is shown: `batch` clips of `frames`, cut to `crop` pixels around the subject."""

    from_step: int
    batch: int
    frames: int
    crop: int


def vae_objective(vae: SliceVAE, clips: Clips, stages: tuple[VAEStage, ...], kl_weight: float, seed: int):
    """Reconstruct whole clips or crops; the network is convolutional, so a crop near the subject teaches most."""

    def objective(step: int) -> tuple[Tensor, dict[str, float]]:
        stage = stage_at(step, stages)
        rng = random.Random(seed * 1_000_003 + step)
        x, paths = clips(stage.batch, stage.frames, rng)
        told = reconstruct(vae, crop_near(x, paths, stage.crop, rng), kl_weight)
        return told.loss, {"psnr": told.psnr, "kl": told.kl}

    return objective


@dataclass(frozen=True)
class Reconstruction:
    """What a VAE made of clips: the loss, their latents as the denoiser takes them, PSNR in dB and KL."""

    loss: Tensor
    latents: Tensor
    psnr: float
    kl: float


def reconstruct(
    vae: SliceVAE, x: Tensor, kl_weight: float, scale: float = 1.0, weight: Tensor | float = 1.0
) -> Reconstruction:
    """L1 + L2 + KL of clips `[B, 3, T, H, W]`; `weight` is that of each pixel, `scale` that of the denoiser."""
    mean, logvar = encode_moments(vae, x)
    y = vae.decode(mean + torch.randn_like(mean) * (0.5 * logvar).exp())
    mse = (weight * (y - x).square()).mean()
    z, spread = mean * scale, logvar + 2 * math.log(scale)
    kl = 0.5 * (z.square() + spread.exp() - 1 - spread).mean()
    loss = (weight * (y - x).abs()).mean() + mse + kl_weight * kl
    return Reconstruction(loss, z, float(psnr(mse)), float(kl.detach()))


def stage_at(step: int, stages: tuple[VAEStage, ...]) -> VAEStage:
    """The last stage that has begun."""
    return max((s for s in stages if s.from_step <= step), key=lambda s: s.from_step)


def plainly(function: Callable, *arguments):
    """A slice as it is, where `encode_moments` may recompute it for its gradient instead."""
    return function(*arguments)


def encode_moments(vae: VideoVAE, x: Tensor, each: Callable = plainly) -> tuple[Tensor, Tensor]:
    """Mean and log variance of a whole clip, slice by slice; `each(vae.moments, pixels)` gives those of one."""
    parts = [each(vae.moments, x[:, :, s.start : s.stop]) for s in vae.plan.encode(x.shape[2])]
    mean, logvar = zip(*parts, strict=True)
    return torch.cat(mean, dim=2), torch.cat(logvar, dim=2)


def crop_near(x: Tensor, paths: Tensor, size: int, rng: random.Random) -> Tensor:
    """A `size` x `size` window near where the subject is at some moment, at a multiple of 8 pixels."""
    if size >= x.shape[-1]:
        return x
    windows = []
    for clip, path in zip(x, paths, strict=True):
        cx, cy, _ = path[rng.randrange(len(path))].tolist()
        left, top = (_snap(c + rng.uniform(-12, 12) - size / 2, x.shape[-1] - size) for c in (cx, cy))
        windows.append(clip[:, :, top : top + size, left : left + size])
    return torch.stack(windows)


def psnr(mse: Tensor) -> Tensor:
    """In dB, for pixels in [-1, 1]."""
    return 10 * torch.log10(4 / mse.detach())


def _snap(position: float, most: int) -> int:
    return min(max(round(position / 8) * 8, 0), most)
