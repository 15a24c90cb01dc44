"""From tensors (and config.json) to a release and its network config: the only place that looks at shapes."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .checkpoint import Checkpoint, CheckpointError, describe
from .dit.controlnet import ControlNetConfig
from .dit.motion_dit import LongSkips, MotionDiTConfig
from .dit.motion_module import MotionConfig
from .latent_formats import with_preview
from .motion_files import is_motion_file
from .release_config import motion_of
from .supported_models import RELEASED_SKIPS, EasyAnimateV1, EasyAnimateV2, EasyAnimateV3, Release
from .vae.image_vae import ImageVAEConfig
from .vae.slice_vae import SliceVAEConfig

MOTION_KEY = "transformer_blocks.0.attn_temporal.temporal_transformer.proj_in.weight"
SIZE_KEY = "adaln_single.emb.resolution_embedder.linear_1.weight"
STABLE_DIFFUSION_CONTROL = ("zero_convs.", "controlnet_cond_embedding.", "input_hint_block.", "controlnet_down_blocks.")
HEADS = "num_attention_heads"
RELEASED_HEADS = 16
RELEASED_SIZE = (1152, 28)  # width and depth of all of V1 to V3
RELEASED_SCALING = 0.18215


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


def detect_transformer(checkpoint: Checkpoint) -> Release:
    """The release's class, holding the network config.

    Raises `CheckpointError` when the file is something else, or when config.json contradicts the tensors.
    """
    facts = _transformer_facts(checkpoint)
    given = checkpoint.config
    _require_agreement(checkpoint, facts)
    release, motion = _release_and_motion(checkpoint, facts)
    detected = release(
        MotionDiTConfig(
            in_channels=facts.in_channels,
            latent_channels=facts.out_channels // 2,
            width=facts.width,
            depth=facts.depth,
            heads=given.get("num_attention_heads", RELEASED_HEADS),
            caption_channels=facts.caption_channels,
            motion=motion,
            skips=_skips(checkpoint, facts),
            sample_size=given.get("sample_size", 128 if facts.sized else 64),
            clip_tokens=facts.clip_tokens,
            patch=facts.patch,
        )
    )
    if "latent_rgb_factors" in given:
        with_preview(detected.latent_format, given["latent_rgb_factors"], given["latent_rgb_bias"])
    return detected


def _release_and_motion(checkpoint: Checkpoint, facts: _Facts) -> tuple[type[Release], tuple[MotionConfig, ...]]:
    """By the block kinds in config.json, else by what only one release has."""
    if not facts.motion:
        return EasyAnimateV1, ()
    described = motion_of(checkpoint.config, checkpoint.path.name)
    if described:
        kinds = {name for motion in described for name in motion.attentions}
        release = EasyAnimateV1 if "grid" in kinds else EasyAnimateV3 if len(described) > 1 else EasyAnimateV2
        return release, described
    release = _release_without_config(checkpoint, facts)
    return release, release.motion


def _release_without_config(checkpoint: Checkpoint, facts: _Facts) -> type[Release]:
    """V2 and a V3 without image input have the same tensors, but the latter was never released."""
    if facts.clip_tokens:
        return EasyAnimateV3
    if not facts.skips:
        return EasyAnimateV1
    if (facts.width, facts.depth) == RELEASED_SIZE:
        logging.warning("%s has no config.json; by its size it is the released V2 transformer.", checkpoint.path.name)
        return EasyAnimateV2
    raise CheckpointError(
        f"{checkpoint.path.name} could be a V2 or a V3 transformer; put its config.json beside it to tell which."
    )


def _skips(checkpoint: Checkpoint, facts: _Facts) -> LongSkips | None:
    if not facts.skips:
        return None
    given = checkpoint.config
    skips = LongSkips(given.get("uvit_stored", RELEASED_SKIPS.stored), given.get("uvit_start", RELEASED_SKIPS.start))
    if skips.stored != facts.skips:
        raise CheckpointError(
            f"{checkpoint.path.name} has {facts.skips} long skips, not {skips.stored}; "
            "put the right config.json beside it."
        )
    return skips


def _transformer_facts(checkpoint: Checkpoint) -> _Facts:
    tensors = checkpoint.tensors
    patches, captions = tensors.get("pos_embed.proj.weight"), tensors.get("caption_projection.linear_1.weight")
    if is_motion_file(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path.name} is a motion module without its image transformer; choose the PixArt base as "
            "transformer and this file as motion_module."
        )
    if patches is None or captions is None:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(tensors)}, not an EasyAnimate V1 to V3 transformer; "
            "choose the transformer's file or folder."
        )
    patch = patches.shape[-1]
    return _Facts(
        in_channels=patches.shape[1],
        out_channels=tensors["proj_out.weight"].shape[0] // patch**2 if "proj_out.weight" in tensors else 8,
        width=patches.shape[0],
        depth=_count(tensors, "transformer_blocks."),
        caption_channels=captions.shape[1],
        patch=patch,
        skips=_count(tensors, "long_connect_fc."),
        clip_tokens="clip_projection.linear_1.weight" in tensors,
        motion=MOTION_KEY in tensors,
        sized=SIZE_KEY in tensors,
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
    for name, shown in claims.items():
        _require_claim(checkpoint, name, shown)
    heads = checkpoint.config.get("num_attention_heads", RELEASED_HEADS)
    if facts.width % heads:
        raise CheckpointError(
            f"{checkpoint.path.name} is {facts.width} wide, which {heads} heads don't divide; "
            "put the right config.json beside it."
        )


def _require_claim(checkpoint: Checkpoint, name: str, shown) -> None:
    claimed = checkpoint.config.get(name)
    if claimed is not None and claimed != shown:
        raise CheckpointError(
            f"config.json beside {checkpoint.path.name} says {name} {claimed}, but the weights have {shown}; "
            "they belong to different models."
        )


class DetectedVAE(NamedTuple):
    """Which release's VAE a file is, and the config for its network, `release.vae`."""

    release: type[Release]
    config: SliceVAEConfig | ImageVAEConfig


def detect_vae(checkpoint: Checkpoint) -> DetectedVAE:
    """What a VAE file is, or a `CheckpointError` that names what it is instead of a VAE of V1 to V3."""
    tensors = checkpoint.tensors
    first = tensors.get("encoder.down_blocks.0.convs.0.conv1.weight")
    if first is not None and first.ndim == 5:
        return _video_vae(checkpoint)
    if "encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:
        return _image_vae(checkpoint)
    raise CheckpointError(
        f"{checkpoint.path.name} is {describe(tensors)}, not an EasyAnimate video VAE; choose the VAE's file or folder."
    )


def _video_vae(checkpoint: Checkpoint) -> DetectedVAE:
    tensors, given = checkpoint.tensors, checkpoint.config
    latent = tensors.get("decoder.conv_in.weight")
    config = SliceVAEConfig(
        channels=_vae_channels(checkpoint, "encoder.down_blocks.{}.convs.0.conv1.weight"),
        layers=_count(tensors, "encoder.down_blocks.0.convs."),
        latent_channels=4 if latent is None else latent.shape[1],
        norm_groups=given.get("norm_num_groups", 32),
        scaling_factor=given.get("scaling_factor", RELEASED_SCALING),
    )
    return DetectedVAE(_release_of_vae(checkpoint, config.latent_channels), config)


def _release_of_vae(checkpoint: Checkpoint, latent_channels: int) -> type[Release]:
    """V2, V3 and V4 have the same tensors; the flags in config.json are the original's."""
    given = checkpoint.config
    newer = "V5 or V5.1" if latent_channels == 16 or given.get("cache_mag_vae") else None
    newer = "V4" if given.get("cache_compression_vae") else newer
    if newer:
        raise CheckpointError(
            f"{checkpoint.path.name} is an EasyAnimate {newer} VAE; only those of V1 to V3 can be loaded so far."
        )
    is_slice = given.get("slice_compression_vae", not given)
    if not given:
        logging.warning("%s has no config.json; it is taken for a V3 VAE (V2's looks the same).", checkpoint.path.name)
    release = EasyAnimateV3 if is_slice else EasyAnimateV2
    for name, size in release.vae_flags.items():
        if given.get(name, size) != size:
            raise CheckpointError(
                f"config.json beside {checkpoint.path.name} says {name} {given[name]}, but V2 has 9 and 3, V3 8 and "
                "2; put the right config.json beside it."
            )
    return release


def _image_vae(checkpoint: Checkpoint) -> DetectedVAE:
    tensors = checkpoint.tensors
    latent = tensors.get("decoder.conv_in.weight")
    latent_channels = 4 if latent is None else latent.shape[1]
    if latent_channels != 4:
        raise CheckpointError(
            f"{checkpoint.path.name} is an image VAE of {latent_channels} latent channels, but V1 needs 4; choose the "
            "VAE of PixArt-XL-2 or Stable Diffusion 1.5."
        )
    scaling = checkpoint.config.get("scaling_factor", RELEASED_SCALING)
    if scaling != RELEASED_SCALING:
        raise CheckpointError(
            f"{checkpoint.path.name} scales its latents by {scaling}, but V1 needs {RELEASED_SCALING}; choose the VAE "
            "of PixArt-XL-2 or Stable Diffusion 1.5."
        )
    config = ImageVAEConfig(
        channels=_vae_channels(checkpoint, "encoder.down_blocks.{}.resnets.0.conv1.weight"),
        layers=_count(tensors, "encoder.down_blocks.0.resnets."),
        latent_channels=latent_channels,
        norm_groups=checkpoint.config.get("norm_num_groups", 32),
    )
    return DetectedVAE(EasyAnimateV1, config)


def _vae_channels(checkpoint: Checkpoint, key: str) -> tuple[int, int, int, int]:
    """Channels of the four levels, which the norm groups must divide."""
    tensors = checkpoint.tensors
    levels = _count(tensors, "encoder.down_blocks.")
    if levels != 4 or any(key.format(i) not in tensors for i in range(levels)):
        raise CheckpointError(f"{checkpoint.path.name} has {levels} levels where VAEs of V1 to V3 have 4.")
    first, second, third, fourth = (tensors[key.format(i)].shape[0] for i in range(levels))
    channels = (first, second, third, fourth)
    _require_claim(checkpoint, "block_out_channels", list(channels))
    groups = checkpoint.config.get("norm_num_groups", 32)
    if any(width % groups for width in channels):
        raise CheckpointError(
            f"{checkpoint.path.name} has {list(channels)} channels, which {groups} norm groups don't divide; "
            "put the right config.json beside it."
        )
    return channels


def detect_controlnet(checkpoint: Checkpoint) -> ControlNetConfig:
    """The config of a PixArt ControlNet under our names; heads can be given in the file's metadata or config.json."""
    tensors, name = checkpoint.tensors, checkpoint.path.name
    first = tensors.get("controlnet.0.before_proj.weight")
    if any(probe in key for key in tensors for probe in STABLE_DIFFUSION_CONTROL):
        raise CheckpointError(
            f"{name} is a Stable Diffusion ControlNet, not a PixArt one; load it with the stock Load ControlNet Model "
            "and use it on a Stable Diffusion model that refines the frames one by one."
        )
    if first is None:
        raise CheckpointError(
            f"{name} is {describe(tensors)}, not a PixArt ControlNet; choose one such as PixArt-XL-2-1024-ControlNet."
        )
    heads = checkpoint.metadata.get(HEADS, checkpoint.config.get(HEADS, RELEASED_HEADS))
    width = first.shape[0]
    if not str(heads).isdecimal() or int(heads) == 0 or width % int(heads):
        raise CheckpointError(f"{name} is {width} wide, which {heads!r} heads don't divide; download it again.")
    return ControlNetConfig(width, _count(tensors, "controlnet."), int(heads))


def detect_t5(checkpoint: Checkpoint) -> dict[str, int]:
    """Sizes of a T5 encoder by its tensors, in the names of its config."""
    tensors = checkpoint.tensors
    bias = tensors.get("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    if bias is None or "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" not in tensors:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(tensors)}, not a T5 v1.1 text encoder; choose a t5xxl file or the "
            "release's text_encoder folder."
        )
    heads = bias.shape[1]
    inner, width = tensors["encoder.block.0.layer.0.SelfAttention.q.weight"].shape
    vocabulary = tensors.get("shared.weight")
    if vocabulary is None:
        raise CheckpointError(f"{checkpoint.path.name} lacks shared.weight, its word embeddings; download it again.")
    sizes = {
        "num_layers": _count(tensors, "encoder.block."),
        "num_heads": heads,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        "vocab_size": vocabulary.shape[0],
    }
    for name, shown in sizes.items():
        _require_claim(checkpoint, name, shown)
    return sizes


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    """How many numbered parts start with `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in tensors if key.startswith(prefix)})
