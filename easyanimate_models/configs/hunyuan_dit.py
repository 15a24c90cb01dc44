"""config.json of a V4 transformer: the original's words for our config, and back."""

from ..dit.hunyuan_dit import HunyuanDiTConfig
from ..files.checkpoint import CheckpointError
from ..files.messages import shorten

ROTARY = "rotary_in_block_0"  # ours: the code released with the weights has it, the original's later code does not


def hunyuan_dit_config(config: HunyuanDiTConfig) -> dict:
    """config.json of a transformer."""
    resampler = config.resampler
    return {
        "_class_name": "HunyuanTransformer3DModel",
        "activation_fn": "gelu-approximate",
        "after_norm": False,
        "attention_head_dim": config.width // config.heads,
        "basic_block_type": "basic",
        "cross_attention_dim": config.caption_channels,
        "cross_attention_dim_t5": config.caption_channels_2,
        "hidden_size": config.width,
        "in_channels": config.in_channels,
        "learn_sigma": True,
        "mlp_ratio": _ratio(config.inner, config.width),
        **({"n_query": resampler.queries, "projection_dim": resampler.channels} if resampler else {}),
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": 2 * config.latent_channels,
        "patch_size": config.patch,
        "pooled_projection_dim": config.pooled_channels,
        "text_len": config.text_length,
        "text_len_t5": config.text_length_2,
        "time_position_encoding": True,
        "time_position_encoding_type": "2d_rope",
        ROTARY: config.rotary_in_block_0,
    }


def rotary_in_block_0(config: dict, file: str) -> bool:
    """Whether the self-attention of block 0 rotates; as released where a config.json says nothing."""
    value = config.get(ROTARY, True)
    if not isinstance(value, bool):
        raise CheckpointError(
            f"The config.json beside {file} sets {ROTARY} to {shorten(value)}, which is neither true nor false; "
            "correct it, or remove it."
        )
    return value


def _ratio(inner: int, width: int) -> float:
    """By which the original multiplies and rounds down."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else (inner + 0.5) / width
