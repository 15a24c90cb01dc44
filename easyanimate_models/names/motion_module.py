"""V1 comes in two files: a PixArt image transformer, and the motion module that goes into each of its blocks."""

import re
from dataclasses import replace

from ..configs.motion_dit import motion_of
from ..files.checkpoint import Checkpoint, CheckpointError, describe, shape_of

PROBE = "transformer_blocks.0.attn_temporal.temporal_transformer.proj_in.weight"
BASE_PROBE = "pos_embed.proj.weight"


def is_motion_file(checkpoint: Checkpoint) -> bool:
    """Whether these are motion modules without the image transformer around them."""
    return PROBE in checkpoint.tensors and BASE_PROBE not in checkpoint.tensors


def with_motion_module(base: Checkpoint, motion: Checkpoint) -> Checkpoint:
    """`base` with the motion modules of `motion` in its blocks; the block kinds are those of the motion file.

    A video transformer takes those that say they are of its own kinds, in place of its own. Raises `CheckpointError`
    when one of them is something else, or when they don't fit each other.
    """
    if not is_motion_file(motion):
        raise CheckpointError(
            f"{motion.path.name} is {describe(motion.tensors)}, not a motion module file; set motion_module to none "
            "or choose easyanimate_v1_mm.safetensors."
        )
    _require_place(base, motion)
    width, depth = shape_of(base, BASE_PROBE, 4)[0], _depth(base)
    motion_width = shape_of(motion, PROBE, 2)[0]
    if (motion_width, _depth(motion)) != (width, depth):
        raise CheckpointError(
            f"{motion.path.name} is for {_depth(motion)} blocks of width {motion_width}, but "
            f"{base.path.name} has {depth} of width {width}; choose the PixArt-XL-2 base that it was trained on."
        )
    motion_config = {k: v for k, v in motion.config.items() if k.startswith(("basic_block_type", "motion_module_"))}
    base_config = {k: v for k, v in base.config.items() if k != "basic_block_type"}
    return replace(base, tensors={**base.tensors, **motion.tensors}, config={**base_config, **motion_config})


def _require_place(base: Checkpoint, motion: Checkpoint) -> None:
    """An image transformer, or a video transformer that `motion` was trained in."""
    kinds = motion_of(motion.config, motion.path.name)
    if PROBE in base.tensors and (kinds is None or kinds != motion_of(base.config, base.path.name)):
        raise CheckpointError(
            f"{base.path.name} already has motion modules; set motion_module to none, or choose a PixArt base."
        )
    if BASE_PROBE not in base.tensors:
        raise CheckpointError(
            f"{base.path.name} is {describe(base.tensors)}, not a PixArt transformer; choose PixArt-XL-2 as the "
            "transformer that the motion module goes into."
        )


def _depth(checkpoint: Checkpoint) -> int:
    found = (re.match(r"transformer_blocks\.(\d+)\.", key) for key in checkpoint.tensors)
    return len({block[1] for block in found if block})
