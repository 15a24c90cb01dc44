"""The MMDiT of V5 and V5.1: which release a file is of, and the config of its network."""

from ..configs.mmdit import FIXED
from ..dit.mmdit import MMDiTConfig
from ..files.checkpoint import Checkpoint, CheckpointError, number_in, shape_of
from ..files.messages import shorten
from ..names import mmdit
from ..supported_models import EasyAnimateV5, EasyAnimateV51, MMDiTRelease
from .probes import HEADS, Detector, count, require_claim

PATCHES, TIMESTEP = "proj.weight", "time_embedding.linear_2.weight"
QUERY_NORM, TEXT_FEED_FORWARD = "transformer_blocks.0.attn1.norm_q.weight", "transformer_blocks.{}.txt_ff.net.2.weight"
PARTS = (".txt_ff.", "text_proj_t5.")  # as `Detector.parts`
NORMED_TEXT, NORM = "text_proj.1.weight", "text_proj.0.weight"
TEXT, TEXT_2 = "text_proj.weight", "text_proj_t5.weight"
RELEASED = {3072: ((36, 18), (48, 48))}  # width: blocks, and how many of them have weights for the text (7B, 12B)
EPS = 1e-5
ROTARY = 16  # channels of a head come in multiples of it: even ones for time, rows and columns


def detect(checkpoint: Checkpoint) -> MMDiTRelease:
    """The release's class, holding the network config. Raises `CheckpointError` when config.json contradicts it."""
    release = _release(checkpoint)
    normed = release is EasyAnimateV51
    width, in_channels, _, patch = shape_of(checkpoint, PATCHES, 4)
    depth = count(checkpoint, "transformer_blocks.", 10)
    config = MMDiTConfig(
        in_channels=in_channels,
        latent_channels=shape_of(checkpoint, "proj_out.weight", 2)[0] // patch**2,
        width=width,
        depth=depth,
        mmdit_layers=sum(TEXT_FEED_FORWARD.format(i) in checkpoint.tensors for i in range(depth)),
        heads=_heads(checkpoint, width),
        caption_channels=shape_of(checkpoint, NORMED_TEXT if normed else TEXT, 2)[1],
        caption_channels_2=None if normed else shape_of(checkpoint, TEXT_2, 2)[1],
        text_norm=normed,
        timestep_channels=shape_of(checkpoint, TIMESTEP, 2)[0],
        eps=number_in(checkpoint.config, "norm_eps", EPS, checkpoint.path.name, float),
        patch=patch,
    )
    _require_agreement(checkpoint, config)
    _require_all_blocks(checkpoint, config)
    return release(config)


def _release(checkpoint: Checkpoint) -> type[MMDiTRelease]:
    """By what the text comes in through: two projections, or one behind a norm."""
    tensors = checkpoint.tensors
    if TEXT in tensors and TEXT_2 in tensors:
        return EasyAnimateV5
    if NORMED_TEXT in tensors and NORM in tensors and not any(name.startswith("text_proj_t5.") for name in tensors):
        return EasyAnimateV51
    raise CheckpointError(
        f"{checkpoint.path.name} lacks the text projections of V5 (text_proj and text_proj_t5) or of V5.1 (text_proj.0 "
        "and text_proj.1); download it again or choose another file."
    )


def _heads(checkpoint: Checkpoint, width: int) -> int:
    """As many as fit into the width: norms show the channels of a head."""
    channels = shape_of(checkpoint, QUERY_NORM, 1)[0]
    if width % channels or channels % ROTARY:
        raise CheckpointError(
            f"{checkpoint.path.name} has width {width} with {channels} channels a head, which is not valid; download "
            "it again."
        )
    return width // channels


def _require_agreement(checkpoint: Checkpoint, config: MMDiTConfig) -> None:
    """What config.json says must be what the tensors show, and what all releases have in common."""
    claims = {
        "in_channels": config.in_channels,
        "out_channels": config.latent_channels,
        "num_layers": config.depth,
        HEADS: config.heads,
        "attention_head_dim": config.head_channels,
        "text_embed_dim": config.caption_channels,
        "text_embed_dim_t5": config.caption_channels_2,
        "add_norm_text_encoder": config.text_norm,
        "time_embed_dim": config.timestep_channels,
        "patch_size": config.patch,
    }
    for name, value in claims.items():
        require_claim(checkpoint, name, value)
    claimed = number_in(checkpoint.config, "mmdit_layers", config.mmdit_layers, checkpoint.path.name)
    if claimed < config.depth or config.mmdit_layers < config.depth:  # the original's default is beyond all depths
        require_claim(checkpoint, "mmdit_layers", config.mmdit_layers)
    for name, usual in FIXED.items():
        value = checkpoint.config.get(name, usual)
        if value != usual:
            raise CheckpointError(
                f"The config.json beside {checkpoint.path.name} sets {name} to {shorten(value)}, but V5 and V5.1 have "
                f"{shorten(usual)}; replace it with the right one."
            )


def _require_all_blocks(checkpoint: Checkpoint, config: MMDiTConfig) -> None:
    """Without a config.json that says otherwise, models as wide as the released ones are as deep."""
    released = RELEASED.get(config.width)
    found = config.depth, config.mmdit_layers
    if released and found not in released and not {"num_layers", "mmdit_layers"} <= checkpoint.config.keys():
        raise CheckpointError(
            f"{checkpoint.path.name} has {config.depth} blocks, {config.mmdit_layers} of them with weights for the "
            "text, but the 7B models have 36 and 18, and the 12B models 48 and 48; download it again, or put its "
            "config.json beside it."
        )


MMDIT = Detector(((PATCHES, 4), (TEXT_FEED_FORWARD.format(0), 2)), detect, mmdit.with_our_names, PARTS)
