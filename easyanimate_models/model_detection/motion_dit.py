"""The motion DiT of V1 to V3, PixArt among them: which release a file is of, and the config of its network."""

import logging
from dataclasses import dataclass

from ..configs.motion_dit import motion_of
from ..dit.motion_dit import LongSkips, MotionDiTConfig
from ..dit.motion_module import MotionConfig
from ..files.checkpoint import Checkpoint, CheckpointError, number_in, shape_of
from ..names import pixart
from ..names.motion_module import is_motion_file
from ..supported_models import RELEASED_SKIPS, EasyAnimateV1, EasyAnimateV2, EasyAnimateV3, MotionRelease
from .probes import HEADS, Detector, count, require_claim, require_division

PATCHES, CAPTIONS = "pos_embed.proj.weight", "caption_projection.linear_1.weight"
MOTION = "transformer_blocks.0.attn_temporal.temporal_transformer.proj_in.weight"
SIZE = "adaln_single.emb.resolution_embedder.linear_1.weight"
RELEASED_HEADS = 16
RELEASED_SIZE = (1152, 28)  # width and depth of all of V1 to V3


@dataclass(frozen=True)
class _Facts:
    """What the tensors of a transformer show by themselves."""

    in_channels: int
    out_channels: int
    width: int
    depth: int
    caption_channels: int
    patch: int
    skips: int
    clip_tokens: bool
    motion: bool
    sized: bool


def detect(checkpoint: Checkpoint) -> MotionRelease:
    """The release's class, holding the network config.

    Raises `CheckpointError` when config.json contradicts the tensors, or when both releases are possible.
    """
    facts = _facts(checkpoint)
    config, name = checkpoint.config, checkpoint.path.name
    _require_agreement(checkpoint, facts)
    release, motion = _release_and_motion(checkpoint, facts)
    return release(
        MotionDiTConfig(
            in_channels=facts.in_channels,
            latent_channels=facts.out_channels // 2,
            width=facts.width,
            depth=facts.depth,
            heads=number_in(config, HEADS, RELEASED_HEADS, name),
            caption_channels=facts.caption_channels,
            motion=motion,
            skips=_skips(checkpoint, facts),
            sample_size=number_in(config, "sample_size", 128 if facts.sized else 64, name),
            clip_tokens=facts.clip_tokens,
            patch=facts.patch,
        )
    )


def require_whole(checkpoint: Checkpoint) -> None:
    """Raise `CheckpointError` for motion modules without the image transformer around them."""
    if is_motion_file(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path.name} is a motion module without its image transformer; choose the PixArt base as "
            "transformer and this file as motion_module."
        )


def _release_and_motion(checkpoint: Checkpoint, facts: _Facts) -> tuple[type[MotionRelease], tuple[MotionConfig, ...]]:
    """By the block kinds in config.json, else by what only one release has."""
    if not facts.motion:
        return EasyAnimateV1, ()
    described = motion_of(checkpoint.config, checkpoint.path.name)
    if described:
        for motion in described:
            require_division(checkpoint, facts.width, motion.heads)
        kinds = {name for motion in described for name in motion.attentions}
        release = EasyAnimateV1 if "grid" in kinds else EasyAnimateV3 if len(described) > 1 else EasyAnimateV2
        return release, described
    release = _release_without_config(checkpoint, facts)
    return release, release.motion


def _release_without_config(checkpoint: Checkpoint, facts: _Facts) -> type[MotionRelease]:
    """V2 and a V3 without image input have the same tensors, but the latter was never released."""
    if facts.clip_tokens:
        return EasyAnimateV3
    if not facts.skips:
        return EasyAnimateV1
    if (facts.width, facts.depth) == RELEASED_SIZE:
        logging.warning(
            "%s has no config.json; judging by its size, it is the released V2 transformer.", checkpoint.path.name
        )
        return EasyAnimateV2
    raise CheckpointError(
        f"{checkpoint.path.name} could be a V2 or a V3 transformer; put its config.json beside it to tell which."
    )


def _skips(checkpoint: Checkpoint, facts: _Facts) -> LongSkips | None:
    if not facts.skips:
        return None
    config, name = checkpoint.config, checkpoint.path.name
    stored = number_in(config, "uvit_stored", RELEASED_SKIPS.stored, name)
    skips = LongSkips(stored, number_in(config, "uvit_start", RELEASED_SKIPS.start, name))
    if skips.stored != facts.skips:
        raise CheckpointError(
            f"{checkpoint.path.name} has {facts.skips} long skips, but its config.json says {skips.stored}; replace "
            "it with the right one."
        )
    return skips


def _facts(checkpoint: Checkpoint) -> _Facts:
    tensors = checkpoint.tensors
    width, in_channels, _, patch = shape_of(checkpoint, PATCHES, 4)
    return _Facts(
        in_channels=in_channels,
        out_channels=shape_of(checkpoint, "proj_out.weight", 2)[0] // patch**2,
        width=width,
        depth=count(checkpoint, "transformer_blocks.", 10),
        caption_channels=shape_of(checkpoint, CAPTIONS, 2)[1],
        patch=patch,
        skips=count(checkpoint, "long_connect_fc."),
        clip_tokens="clip_projection.linear_1.weight" in tensors,
        motion=MOTION in tensors,
        sized=SIZE in tensors,
    )


def _require_agreement(checkpoint: Checkpoint, facts: _Facts) -> None:
    """What config.json says must be what the tensors show."""
    claims = {
        "in_channels": facts.in_channels,
        "out_channels": facts.out_channels,
        "cross_attention_dim": facts.width,
        "num_layers": facts.depth,
        "caption_channels": facts.caption_channels,
        "patch_size": facts.patch,
    }
    for name, value in claims.items():
        require_claim(checkpoint, name, value)
    require_division(checkpoint, facts.width, number_in(checkpoint.config, HEADS, RELEASED_HEADS, checkpoint.path.name))


MOTION_DIT = Detector(((PATCHES, 4), (CAPTIONS, 2)), detect, pixart.with_our_names)
