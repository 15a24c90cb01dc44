"""Reconstruction by a video VAE, slice by slice as inference does it, with its losses (paper section 3.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...vae.layers import Cache
from ...vae.slice_vae import SliceVAE
from ...vae.video_vae import SPACE_RATIO, VideoVAE

SHRUNK = (2, 4)  # factors that `scale_equivariance` divides width and height by


@dataclass(frozen=True)
class Reconstruction:
    """The loss of reconstructed clips, their latents at the denoiser's scale, the PSNR in dB and the KL divergence."""

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
    z, logvar = mean * scale, logvar + 2 * math.log(scale)
    kl = 0.5 * (z.square() + logvar.exp() - 1 - logvar).mean()
    loss = (weight * (y - x).abs()).mean() + mse + kl_weight * kl
    return Reconstruction(loss, z, float(psnr(mse)), float(kl.detach()))


def call(function: Callable, *arguments, cache: Cache) -> Any:
    """`function` of these arguments and the cache of the slices before, which it updates."""
    return function(*arguments, cache)


def recompute(function: Callable, *arguments, cache: Cache) -> Any:
    """The same under gradient checkpointing: the second time, too, it starts from what the cache held before."""
    before = dict(cache)

    def from_before(*arguments) -> tuple[Any, Cache]:
        after = dict(before)
        return function(*arguments, after), after

    result, after = checkpoint(from_before, *arguments, use_reentrant=False)
    cache.update(after)
    return result


def encode_moments(vae: VideoVAE, x: Tensor, each: Callable = call) -> tuple[Tensor, Tensor]:
    """Mean and log variance of whole clips, slice by slice, each by `call` or `recompute`."""
    cache: Cache = {}
    slices = vae.plan.encode(x.shape[2])
    mean, logvar = zip(*(each(vae.moments, x[:, :, s.start : s.stop], cache=cache) for s in slices), strict=True)
    return torch.cat(mean, dim=2), torch.cat(logvar, dim=2)


def decode_latents(vae: VideoVAE, z: Tensor, each: Callable = call) -> Tensor:
    """The pixels of whole clips, in the same way."""
    cache: Cache = {}
    cuts = ((z[:, :, s.before : s.after], s.start - s.before, s.stop - s.start) for s in vae.plan.decode(z.shape[2]))
    return torch.cat([each(vae.decode_slice, *cut, cache=cache) for cut in cuts], dim=2)


def scale_equivariance(vae: VideoVAE, x: Tensor, z: Tensor, each: Callable = call) -> Tensor:
    """L1 + L2 of what the shrunk latents `z` of clips `x` are decoded to, against the shrunk clips.

    It makes coarse latents stand for coarse pixels, so that a denoiser can go from coarse to fine (Kouzelis et al.
    2025). They are shrunk to a half or a quarter, by torch's random numbers. Raises `ValueError` below 32 pixels.
    """
    factors = [factor for factor in SHRUNK if min(z.shape[-2:]) >= 2 * factor]
    if not factors:
        raise ValueError(f"equivariance needs {2 * SHRUNK[0] * SPACE_RATIO} pixels or more; set a larger crop or side.")
    factor = factors[int(torch.randint(len(factors), ()))]
    height, width = (side // factor * factor for side in z.shape[-2:])
    small = F.avg_pool3d(z[..., :height, :width], (1, factor, factor))
    wanted = F.avg_pool3d(x[..., : height * SPACE_RATIO, : width * SPACE_RATIO], (1, factor, factor))
    error = decode_latents(vae, small, each) - wanted
    return error.abs().mean() + error.square().mean()


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, of the mean squared error of pixels in [-1, 1]."""
    return 10 * torch.log10(4 / mse.detach())
