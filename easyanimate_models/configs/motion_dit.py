"""config.json of a V1 to V3 transformer: the original's words for our config, and back."""

from ..dit.motion_dit import MotionDiTConfig
from ..dit.motion_module import CELL, MotionConfig
from ..files.checkpoint import CheckpointError, number_in
from ..files.messages import shorten

KNOWN = ["Temporal_Self", "Global_Self"]  # attention of motion modules
BLOCKS = {0: "basic", 1: "motionmodule", 2: "global_motionmodule"}  # by how many kinds of motion module there are


def transformer_config(config: MotionDiTConfig) -> dict:
    """config.json of a transformer; `uvit_*` are ours, for depths other than 28."""
    grid = any("grid" in kind.attentions for kind in config.motion)
    return {
        "_class_name": "Transformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": config.width // config.heads,
        "basic_block_type": BLOCKS[len(config.motion)],
        "caption_channels": config.caption_channels,
        "cross_attention_dim": config.width,
        "enable_uvit": config.skips is not None,
        "in_channels": config.in_channels,
        **dict(zip(_motion_keys(len(config.motion)), map(_motion_kwargs, config.motion), strict=True)),
        "motion_module_type": "VanillaGrid" if grid else "Vanilla",
        "norm_elementwise_affine": False,
        "norm_type": "ada_norm_single",
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": 2 * config.latent_channels,
        "patch_size": config.patch,
        "sample_size": config.sample_size,
        **({"uvit_stored": config.skips.stored, "uvit_start": config.skips.start} if config.skips else {}),
    }


def motion_of(config: dict, file: str) -> tuple[MotionConfig, ...] | None:
    """The motion modules that a config.json describes, None when it doesn't; `file` names it in errors."""
    block = config.get("basic_block_type")
    if block is None:
        return None
    counts = [count for count, name in BLOCKS.items() if name == block]
    if not counts:
        raise CheckpointError(
            f"{file} has {shorten(block)} blocks according to its config.json; only the blocks of V1 to V3 "
            f"({', '.join(BLOCKS.values())}) are supported."
        )
    cells = config.get("motion_module_type") == "VanillaGrid"
    return tuple(_motion_config(config.get(key) or {}, cells, file) for key in _motion_keys(counts[0]))


def _motion_keys(kinds: int) -> list[str]:
    return ["motion_module_kwargs"] if kinds == 1 else ["motion_module_kwargs_even", "motion_module_kwargs_odd"][:kinds]


def _motion_kwargs(config: MotionConfig) -> dict:
    kinds = ["temporal" if kind == "grid" else kind for kind in config.attentions]
    return {
        "attention_block_types": [f"{kind.capitalize()}_Self" for kind in kinds],
        "block_size": CELL if "grid" in config.attentions else 1,
        "num_attention_heads": config.heads,
        "num_transformer_block": 1,
        "temporal_attention_dim_div": 1,
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": 4096,
    }


def _motion_config(config: dict, cells: bool, file: str) -> MotionConfig:
    names = config.get("attention_block_types", KNOWN[:1] * 2) if isinstance(config, dict) else None
    if not isinstance(names, list) or not names or any(name not in KNOWN for name in names):
        raise CheckpointError(
            f"The config.json beside {file} describes motion modules that V1 to V3 don't have ({shorten(config)}); "
            "replace it with the right one."
        )
    size = config.get("block_size", CELL)
    if cells and size != CELL:
        raise CheckpointError(
            f"The config.json beside {file} sets the block_size of the motion modules to {shorten(size)}, but V1 uses "
            f"{CELL}; replace it with the right one."
        )
    attentions = tuple(name.split("_")[0].lower() for name in names)
    if cells:
        attentions = tuple("grid" if name == "temporal" else name for name in attentions)
    return MotionConfig(attentions, number_in(config, "num_attention_heads", 8, file))
