"""Image VAEs as Stable Diffusion saves them: one table from there to ours (diffusers')."""

from dataclasses import replace

from ..files.checkpoint import Checkpoint
from .table import NameTable

LEVELS = range(4)
ATTENTION = (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
OLD_ATTENTION = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))


def _half(half: str) -> tuple[tuple[str, str], ...]:
    """What encoder and decoder have in common."""
    mid, attention = f"{half}.mid_block", f"{half}.mid_block.attentions.0"
    pairs = [(f"{half}.mid.block_1", f"{mid}.resnets.0"), (f"{half}.mid.block_2", f"{mid}.resnets.1")]
    pairs += [(f"{half}.norm_out", f"{half}.conv_norm_out")]
    pairs += [(f"{half}.mid.attn_1.{theirs}", f"{attention}.{ours}") for theirs, ours in ATTENTION]
    pairs += [(f"{attention}.{theirs}", f"{attention}.{ours}") for theirs, ours in OLD_ATTENTION]
    return tuple(pairs)


def _levels() -> tuple[tuple[str, str], ...]:
    """Stable Diffusion counts the decoder's levels by size, diffusers in the order that they run."""
    pairs = []
    for i in LEVELS:
        down, up = f"encoder.down_blocks.{i}", f"decoder.up_blocks.{LEVELS[-1] - i}"
        for theirs, ours in ((f"encoder.down.{i}", down), (f"decoder.up.{i}", up)):
            pairs += [(f"{theirs}.block.{{}}.nin_shortcut", f"{ours}.resnets.{{}}.conv_shortcut")]
            pairs += [(f"{theirs}.block.{{}}", f"{ours}.resnets.{{}}")]
        pairs += [(f"encoder.down.{i}.downsample", f"{down}.downsamplers.0")]
        pairs += [(f"decoder.up.{i}.upsample", f"{up}.upsamplers.0")]
    return tuple(pairs)


STABLE_DIFFUSION = NameTable(pairs=(*_half("encoder"), *_half("decoder"), *_levels()), dropped=("loss.", "model_ema."))


def with_our_names(checkpoint: Checkpoint) -> Checkpoint:
    """An image VAE renamed, its attention as linear layers; any other checkpoint comes back as it is."""
    first = checkpoint.tensors.get("encoder.conv_in.weight")
    if first is None or first.ndim != 4:
        return checkpoint
    tensors = STABLE_DIFFUSION.ours(checkpoint.tensors)
    for key, tensor in tensors.items():
        if ".attentions." in key and tensor.ndim == 4:  # a convolution over single pixels
            tensors[key] = tensor.flatten(1)
    return replace(checkpoint, tensors=tensors)
