"""Trained networks in the released layout: config.json in the original's words, latents at the release's scale."""

import torch
from torch import Tensor

from ..dit.motion_dit import MotionConfig, MotionDiTConfig
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


def transformer_config(config: MotionDiTConfig) -> dict:
    """config.json of a V3 transformer; `uvit_*` are ours, for depths other than 28."""
    even, odd = config.motion
    return {
        "_class_name": "Transformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": config.width // config.heads,
        "basic_block_type": "global_motionmodule",
        "caption_channels": config.caption_channels,
        "cross_attention_dim": config.width,
        "enable_uvit": config.skips is not None,
        "in_channels": config.in_channels,
        "motion_module_kwargs_even": _motion(even),
        "motion_module_kwargs_odd": _motion(odd),
        "motion_module_type": "Vanilla",
        "norm_elementwise_affine": False,
        "norm_type": "ada_norm_single",
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": 2 * config.latent_channels,
        "patch_size": config.patch,
        "sample_size": config.sample_size,
        **({"uvit_stored": config.skips.stored, "uvit_start": config.skips.start} if config.skips else {}),
    }


def _motion(config: MotionConfig) -> dict:
    return {
        "attention_block_types": [f"{kind.capitalize()}_Self" for kind in config.attentions],
        "block_size": 1,
        "num_attention_heads": config.heads,
        "num_transformer_block": 1,
        "temporal_attention_dim_div": 1,
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 4096,
    }


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
