"""PixArt checkpoints in their original names, as the V1 base: one table from there to ours (diffusers')."""

from dataclasses import replace

from ..files.checkpoint import Checkpoint, CheckpointError, shape_of
from .table import NameTable

PROBE = "x_embedder.proj.weight"
UNCONDITIONAL = ("y_embedder.y_embedding", "caption_projection.y_embedding")  # 120 tokens, or 300 in PixArt-Sigma
SIGMA_TOKENS = 300
POSITIONS = "pos_embed"  # a constant table; its length tells the size that the model was trained at

PIXART = NameTable(
    pairs=(
        ("x_embedder.proj", "pos_embed.proj"),
        ("t_embedder.mlp.0", "adaln_single.emb.timestep_embedder.linear_1"),
        ("t_embedder.mlp.2", "adaln_single.emb.timestep_embedder.linear_2"),
        ("csize_embedder.mlp.0", "adaln_single.emb.resolution_embedder.linear_1"),
        ("csize_embedder.mlp.2", "adaln_single.emb.resolution_embedder.linear_2"),
        ("ar_embedder.mlp.0", "adaln_single.emb.aspect_ratio_embedder.linear_1"),
        ("ar_embedder.mlp.2", "adaln_single.emb.aspect_ratio_embedder.linear_2"),
        ("t_block.1", "adaln_single.linear"),
        ("y_embedder.y_proj.fc1", "caption_projection.linear_1"),
        ("y_embedder.y_proj.fc2", "caption_projection.linear_2"),
        ("blocks.{}.scale_shift_table", "transformer_blocks.{}.scale_shift_table"),
        ("blocks.{}.attn.proj", "transformer_blocks.{}.attn1.to_out.0"),
        ("blocks.{}.cross_attn.q_linear", "transformer_blocks.{}.attn2.to_q"),
        ("blocks.{}.cross_attn.proj", "transformer_blocks.{}.attn2.to_out.0"),
        ("blocks.{}.mlp.fc1", "transformer_blocks.{}.ff.net.0.proj"),
        ("blocks.{}.mlp.fc2", "transformer_blocks.{}.ff.net.2"),
        ("final_layer.linear", "proj_out"),
        ("final_layer.scale_shift_table", "scale_shift_table"),
    ),
    fused=(
        ("blocks.{}.attn.qkv", tuple(f"transformer_blocks.{{}}.attn1.to_{x}" for x in "qkv")),
        ("blocks.{}.cross_attn.kv_linear", tuple(f"transformer_blocks.{{}}.attn2.to_{x}" for x in "kv")),
    ),
    dropped=(*UNCONDITIONAL, POSITIONS),
)

BASE, COPIED = "transformer_blocks.{}.", "controlnet.{}.copied_block."
CONTROL = NameTable(  # the blocks of a ControlNet: copies in the names of PixArt, or of diffusers' research project
    pairs=(
        *((a.replace("blocks.{}.", COPIED), b.replace(BASE, COPIED)) for a, b in PIXART.pairs if b.startswith(BASE)),
        ("controlnet_blocks.{}.transformer_block", COPIED.rstrip(".")),
        ("controlnet_blocks.{}.before_proj", "controlnet.{}.before_proj"),
        ("controlnet_blocks.{}.after_proj", "controlnet.{}.after_proj"),
    ),
    fused=tuple(
        (theirs.replace("blocks.{}.", COPIED), tuple(name.replace(BASE, COPIED) for name in ours))
        for theirs, ours in PIXART.fused
    ),
    dropped=("base_model.",),  # the PixArt that it was trained on; ours takes its place
)


def control_with_our_names(checkpoint: Checkpoint) -> Checkpoint:
    """A PixArt ControlNet renamed; any other file comes back as it is."""
    return replace(checkpoint, tensors=CONTROL.ours(checkpoint.tensors))


def with_our_names(checkpoint: Checkpoint) -> Checkpoint:
    """A PixArt checkpoint renamed, with the trained size in its config; any other comes back as it is."""
    _require_alpha(checkpoint)
    if PROBE not in checkpoint.tensors:
        return checkpoint
    config = {"sample_size": _sample_size(checkpoint), **checkpoint.config}
    return replace(checkpoint, tensors=PIXART.ours(checkpoint.tensors), config=config)


def _require_alpha(checkpoint: Checkpoint) -> None:
    texts = [checkpoint.tensors[name] for name in UNCONDITIONAL if name in checkpoint.tensors]
    if any(text.shape[:1] == (SIGMA_TOKENS,) for text in texts):
        raise CheckpointError(
            f"{checkpoint.path.name} is a PixArt-Sigma model, whose latents are not those of V1's VAE; choose "
            "PixArt-XL-2 (PixArt-alpha)."
        )


def _sample_size(checkpoint: Checkpoint) -> int:
    """Side of the trained latents: 32, 64 or 128 for 256, 512 or 1024 pixels."""
    if "csize_embedder.mlp.0.weight" in checkpoint.tensors:
        return 128
    if POSITIONS not in checkpoint.tensors:
        return 64
    return round(shape_of(checkpoint, POSITIONS, 3)[-2] ** 0.5) * shape_of(checkpoint, PROBE, 4)[-1]
