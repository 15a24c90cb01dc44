"""V5.1 transformers as diffusers saves them: one table from there to the original's names, which are ours."""

from dataclasses import replace

from ..files.checkpoint import Checkpoint
from .table import NameTable

PROBE = "transformer_blocks.0.attn1.add_q_proj.weight"
THEIRS, OURS = "transformer_blocks.{}.attn1", "transformer_blocks.{}.attn2"

DIFFUSERS = NameTable(  # the text's own projections are part of one joint attention
    pairs=(
        *((f"{THEIRS}.add_{x}_proj", f"{OURS}.to_{x}") for x in "qkv"),
        *((f"{THEIRS}.norm_added_{x}", f"{OURS}.norm_{x}") for x in "qk"),
        (f"{THEIRS}.to_add_out", f"{OURS}.to_out.0"),
    )
)


def with_our_names(checkpoint: Checkpoint) -> Checkpoint:
    """A transformer of diffusers renamed; any other file comes back as it is."""
    if PROBE not in checkpoint.tensors:
        return checkpoint
    return replace(checkpoint, tensors=DIFFUSERS.ours(checkpoint.tensors))
