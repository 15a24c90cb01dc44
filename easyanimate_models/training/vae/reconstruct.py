"""Reconstruction by a video VAE, slice by slice as inference does it, with its losses (paper section 3.2)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...vae.slice_vae import SliceVAE
from ...vae.video_vae import VideoVAE


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


def call(function: Callable, *arguments):
    """Call a function; `encode_moments` may be given gradient checkpointing instead."""
    return function(*arguments)


def encode_moments(vae: VideoVAE, x: Tensor, each: Callable = call) -> tuple[Tensor, Tensor]:
    """Mean and log variance of whole clips, slice by slice; `each(vae.moments, pixels)` gives those of a slice.

    Where slices remember those before, they share a cache.
    """
    cache: tuple[dict, ...] = ({},) if vae.plan.seamless else ()
    parts = [each(vae.moments, x[:, :, s.start : s.stop], *cache) for s in vae.plan.encode(x.shape[2])]
    mean, logvar = zip(*parts, strict=True)
    return torch.cat(mean, dim=2), torch.cat(logvar, dim=2)


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, of the mean squared error of pixels in [-1, 1]."""
    return 10 * torch.log10(4 / mse.detach())
