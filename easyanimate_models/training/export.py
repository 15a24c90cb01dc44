"""Trained networks in the released layout: config.json in the original's words, latents at the release's scale."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..release_config import transformer_config as transformer_config
from ..vae.slice_vae import SliceVAE, SliceVAEConfig


def write_whole(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file that is either all there or not there."""
    partial = file.with_suffix(".part")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial, metadata)
    partial.replace(file)


@torch.no_grad()
def set_latent_scale(vae: SliceVAE, mean: Tensor, deviation: Tensor) -> None:
    """Make `vae` give `(latents - mean) / deviation` per channel, and decode those: exact, in its 1x1 convolutions."""
    channels = vae.config.latent_channels
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:channels] /= deviation.view(-1, 1, 1, 1, 1)
    encode.bias[:channels] = (encode.bias[:channels] - mean) / deviation
    encode.bias[channels:] -= 2 * deviation.log()
    decode.bias += decode.weight[:, :, 0, 0, 0] @ mean
    decode.weight *= deviation.view(1, -1, 1, 1, 1)


def vae_config(config: SliceVAEConfig) -> dict:
    """config.json of a V3 Slice VAE."""
    return {
        "_class_name": "AutoencoderKLMagvit",
        "block_out_channels": list(config.channels),
        "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
        "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers,
        "mid_block_attention_type": "3d",
        "mini_batch_decoder": 2,
        "mini_batch_encoder": 8,
        "norm_num_groups": config.norm_groups,
        "scaling_factor": config.scaling_factor,
        "slice_compression_vae": True,
    }
