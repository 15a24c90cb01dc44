"""config.json of a VAE: the original's words for our config."""

from ..latent_formats import ImageLatents
from ..vae.image_vae import ImageVAEConfig
from ..vae.slice_vae import SliceVAEConfig

ATTENTION_TYPES = {"slice": "3d", "frame": "spatial", None: "spatial"}


def vae_config(config: SliceVAEConfig | ImageVAEConfig, flags: dict) -> dict:
    """config.json of a VAE; `flags` are what tells a video VAE from those of other releases."""
    numbers = {
        "block_out_channels": list(config.channels),
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers,
        "norm_num_groups": config.norm_groups,
    }
    if isinstance(config, ImageVAEConfig):
        return {"_class_name": "AutoencoderKL", **numbers, "scaling_factor": ImageLatents.scale_factor}
    return {
        "_class_name": "AutoencoderKLMagvit",
        "down_block_types": ["SpatialDownBlock3D", *["SpatialTemporalDownBlock3D"] * 3],
        "up_block_types": ["SpatialUpBlock3D", *["SpatialTemporalUpBlock3D"] * 3],
        "mid_block_attention_type": ATTENTION_TYPES[config.attention],
        "mid_block_use_attention": config.attention is not None,
        **numbers,
        "scaling_factor": config.scaling_factor,
        **flags,
    }
