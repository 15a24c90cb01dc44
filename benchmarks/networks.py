"""The released networks at full size, with random weights: speed and memory don't depend on what they have learned."""

from dataclasses import replace

import comfy.ops
import torch
from torch import nn

from easyanimate_models.dit.motion_dit import MotionDiT, MotionDiTConfig
from easyanimate_models.supported_models import RELEASED_SKIPS, EasyAnimateV3
from easyanimate_models.vae.host_vae import HostVAE
from easyanimate_models.vae.slice_vae import SliceVAE, SliceVAEConfig

from .measure import DEVICE

V3 = MotionDiTConfig(
    in_channels=12,
    latent_channels=4,
    width=1152,
    depth=28,
    heads=16,
    caption_channels=4096,
    motion=EasyAnimateV3.motion,
    skips=RELEASED_SKIPS,
    sample_size=64,
    clip_tokens=True,
    patch=2,
)
SLICE_VAE = SliceVAEConfig(
    channels=(128, 256, 512, 512), layers=2, latent_channels=4, norm_groups=32, scaling_factor=0.18215
)
TEXT_TOKENS = 120


def transformer(
    config: MotionDiTConfig = V3, dtype: torch.dtype = torch.float32, device: torch.device = DEVICE
) -> MotionDiT:
    """A transformer built as the host builds it."""
    network = MotionDiT(config, dtype=dtype, device=device, operations=comfy.ops.disable_weight_init)
    return filled(network).eval()


def shallow(depth: int) -> MotionDiTConfig:
    """V3 with fewer layers and no long skips."""
    return replace(V3, depth=depth, skips=None)


def slice_vae(dtype: torch.dtype = torch.float32) -> SliceVAE:
    """The Slice VAE of V3, on the device, in the layout that the pack chooses there."""
    network = filled(SliceVAE(SLICE_VAE, dtype=dtype, device=DEVICE)).eval()
    return network.to(memory_format=network.channels_last) if DEVICE.type == "cpu" else network


def host_vae() -> HostVAE:
    """The same as the host has it."""
    network = filled(SliceVAE(SLICE_VAE))
    return HostVAE(network, network.state_dict(), EasyAnimateV3)


@torch.no_grad()
def filled(network: nn.Module) -> nn.Module:
    """Random weights of about 1 / sqrt(inputs); norms keep the size of what goes through."""
    for name, p in network.named_parameters():
        if p.ndim > 1:
            p.normal_(std=p[0].numel() ** -0.5)
        else:
            p.fill_(float("norm" in name and name.endswith("weight")))
    return network.requires_grad_(False)


def step_inputs(
    config: MotionDiTConfig,
    batch: int,
    frames: int,
    sides: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    device: torch.device = DEVICE,
) -> dict[str, torch.Tensor]:
    """Inputs of a step: noisy latents of `frames` and height x width (in latents), and text."""
    like = {"device": device, "dtype": dtype}
    return {
        "x": torch.randn(batch, config.in_channels, frames, *sides, **like),
        "timesteps": torch.full((batch,), 500.0, device=device),
        "context": torch.randn(batch, TEXT_TOKENS, config.caption_channels, **like),
        "attention_mask": torch.ones(batch, TEXT_TOKENS, device=device),
    }
