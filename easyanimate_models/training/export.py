"""Trained networks in the released layout: config.json in the original's words, latents at the release's scale."""

import torch
from torch import Tensor

from ..configs.motion_dit import transformer_config as transformer_config
from ..model_detection import RELEASED_SCALING
from ..supported_models import EasyAnimateV3, Release
from ..vae.image_vae import ImageVAEConfig
from ..vae.slice_vae import SliceVAE, SliceVAEConfig


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


def vae_config(config: SliceVAEConfig | ImageVAEConfig, release: type[Release] = EasyAnimateV3) -> dict:
    """config.json of the VAE of a release."""
    numbers = {
        "block_out_channels": list(config.channels),
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers,
        "norm_num_groups": config.norm_groups,
    }
    if isinstance(config, ImageVAEConfig):
        return {"_class_name": "AutoencoderKL", **numbers, "scaling_factor": RELEASED_SCALING}
    return {
        "_class_name": "AutoencoderKLMagvit",
        "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
        "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
        "mid_block_attention_type": "3d",
        **numbers,
        "scaling_factor": config.scaling_factor,
        **release.vae_flags,
    }
