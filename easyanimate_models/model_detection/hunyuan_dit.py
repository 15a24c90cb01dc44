"""The HunyuanDiT of V4: the config of its network, which the tensors show by themselves."""

from ..configs.hunyuan_dit import rotary_in_block_0
from ..dit.hunyuan_dit import HunyuanDiTConfig
from ..dit.hunyuan_embedders import POOL_HEADS, ResamplerConfig
from ..files.checkpoint import Checkpoint, CheckpointError, shape_of
from ..supported_models import EasyAnimateV4
from .probes import HEADS, Detector, count, require_claim

PADDING, POSITIONS = "text_embedding_padding", "time_extra_emb.pooler.positional_embedding"
PARTS = (".attn_clip.", ".gate_clip.", "clip_padding", "time_extra_emb.")  # as `Detector.parts`
QUERIES, PROJECTION = "clip_projection.query", "clip_projection.kv_proj.weight"
IMAGE_MODEL = "HunyuanDiT2DModel"  # its tensors have the same names
ROTATED = 4  # numbers of a head that turn together: two by the column, two by the row


def detect(checkpoint: Checkpoint) -> EasyAnimateV4:
    """The release's class, holding the network config. Raises `CheckpointError` when config.json contradicts it."""
    if checkpoint.config.get("_class_name") == IMAGE_MODEL:
        raise CheckpointError(
            f"{checkpoint.path.name} is the image model HunyuanDiT according to its config.json; choose the V4 "
            "transformer of EasyAnimate."
        )
    width, in_channels, _, patch = shape_of(checkpoint, "pos_embed.proj.weight", 4)
    rows, captions = shape_of(checkpoint, PADDING, 2)
    positions, captions_2 = shape_of(checkpoint, POSITIONS, 2)
    config = HunyuanDiTConfig(
        in_channels=in_channels,
        latent_channels=shape_of(checkpoint, "proj_out.weight", 2)[0] // patch**2 // 2,
        width=width,
        depth=count(checkpoint, "blocks.", 10),
        heads=max(width // shape_of(checkpoint, "blocks.0.attn1.norm_q.weight", 1)[0], 1),
        inner=shape_of(checkpoint, "blocks.0.ff.net.2.weight", 2)[1],
        caption_channels=captions,
        caption_channels_2=captions_2,
        text_length=rows - positions + 1,
        text_length_2=positions - 1,
        pooled_channels=shape_of(checkpoint, "time_extra_emb.pooler.c_proj.weight", 2)[0],
        resampler=_resampler(checkpoint, captions),
        patch=patch,
        rotary_in_block_0=rotary_in_block_0(checkpoint.config, checkpoint.path.name),
    )
    _require_sense(checkpoint, config)
    _require_agreement(checkpoint, config)
    return EasyAnimateV4(config)


def _resampler(checkpoint: Checkpoint, captions: int) -> ResamplerConfig | None:
    """That of models that see a start image; CLIP's width is that of the text unless a layer projects it."""
    if QUERIES not in checkpoint.tensors:
        return None
    queries = shape_of(checkpoint, QUERIES, 2)[0]
    projected = PROJECTION in checkpoint.tensors
    channels = shape_of(checkpoint, PROJECTION, 2)[1] if projected else captions
    return ResamplerConfig(queries, channels, projected)


def _require_sense(checkpoint: Checkpoint, config: HunyuanDiTConfig) -> None:
    """Heads must divide widths, and there must be text and latents; no network is built otherwise."""
    head = config.width // config.heads
    divisions = [
        (config.width, config.heads),
        (head, ROTATED),
        (config.caption_channels_2, POOL_HEADS),
        (config.caption_channels, config.heads if config.resampler else 1),
    ]
    counts = (config.depth, config.latent_channels, config.text_length, config.text_length_2)
    if min(counts) < 1 or any(whole % share for whole, share in divisions):
        raise CheckpointError(
            f"{checkpoint.path.name} has tensors of sizes that don't belong together; download it again."
        )


def _require_agreement(checkpoint: Checkpoint, config: HunyuanDiTConfig) -> None:
    """What config.json says must be what the tensors show."""
    claims = {
        "in_channels": config.in_channels,
        "out_channels": 2 * config.latent_channels,
        "hidden_size": config.width,
        "num_layers": config.depth,
        HEADS: config.heads,
        "attention_head_dim": config.width // config.heads,
        "cross_attention_dim": config.caption_channels,
        "cross_attention_dim_t5": config.caption_channels_2,
        "text_len": config.text_length,
        "text_len_t5": config.text_length_2,
        "pooled_projection_dim": config.pooled_channels,
        "patch_size": config.patch,
    }
    if config.resampler:
        claims["n_query"] = config.resampler.queries
    for name, value in claims.items():
        require_claim(checkpoint, name, value)


HUNYUAN_DIT = Detector(((PADDING, 2), (POSITIONS, 2)), detect, parts=PARTS)
