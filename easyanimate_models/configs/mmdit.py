"""config.json of a V5 or V5.1 transformer: the original's words for our config."""

from ..dit.mmdit import BASE_COLUMNS, BASE_ROWS, MMDiTConfig

FIXED = {  # settings of the original that all releases share, and that no tensor shows
    "activation_fn": "gelu-approximate",
    "after_norm": False,
    "enable_clip_in_inpaint": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_elementwise_affine": True,
    "time_position_encoding_type": "3d_rope",
    "timestep_activation_fn": "silu",
}
WITH_REFERENCE_IMAGE = (38, 48)  # in_channels of V5.1's Control models


def transformer_config(config: MMDiTConfig) -> dict:
    """config.json of a transformer."""
    return {
        "_class_name": "EasyAnimateTransformer3DModel",
        **FIXED,
        "add_noise_in_inpaint_model": True,
        "add_norm_text_encoder": config.text_norm,
        "add_ref_latent_in_control_model": config.in_channels in WITH_REFERENCE_IMAGE,
        "attention_head_dim": config.head_channels,
        "in_channels": config.in_channels,
        "mmdit_layers": config.mmdit_layers,
        "norm_eps": config.eps,
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": config.latent_channels,
        "patch_size": config.patch,
        "resize_inpaint_mask_directly": True,
        "sample_height": BASE_ROWS * config.patch,
        "sample_width": BASE_COLUMNS * config.patch,
        "text_embed_dim": config.caption_channels,
        "text_embed_dim_t5": config.caption_channels_2,
        "time_embed_dim": config.timestep_channels,
    }
