"""From tensors (and config.json) to a release and its network config: the only place that looks at shapes."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from ..configs.motion_dit import motion_of
from ..dit.controlnet import ControlNetConfig
from ..dit.motion_dit import LongSkips, MotionDiTConfig
from ..dit.motion_module import MotionConfig
from ..files.checkpoint import MOST, Checkpoint, CheckpointError, describe, number_in, shape_of
from ..files.messages import shorten
from ..latent_formats import with_preview
from ..names.motion_module import is_motion_file
from ..supported_models import RELEASED_SKIPS, EasyAnimateV1, EasyAnimateV2, EasyAnimateV3, Release
from ..vae.image_vae import ImageVAEConfig
from ..vae.slice_vae import SliceVAEConfig

MOTION_KEY = "transformer_blocks.0.attn_temporal.temporal_transformer.proj_in.weight"
SIZE_KEY = "adaln_single.emb.resolution_embedder.linear_1.weight"
STABLE_DIFFUSION_CONTROL = ("zero_convs.", "controlnet_cond_embedding.", "input_hint_block.", "controlnet_down_blocks.")
HEADS = "num_attention_heads"
RELEASED_HEADS = 16
RELEASED_SIZE = (1152, 28)  # width and depth of all of V1 to V3
RELEASED_SCALING = 0.18215
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")  # of CLIP, that the host has


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
            heads=number_in(given, HEADS, RELEASED_HEADS, checkpoint.path.name),
            caption_channels=facts.caption_channels,
            motion=motion,
            skips=_skips(checkpoint, facts),
            sample_size=number_in(given, "sample_size", 128 if facts.sized else 64, checkpoint.path.name),
            clip_tokens=facts.clip_tokens,
            patch=facts.patch,
        )
    )
    if "latent_rgb_factors" in given:
        with_preview(detected.latent_format, *_preview(checkpoint))
    return detected


def _preview(checkpoint: Checkpoint) -> tuple[list[list[float]], list[float]]:
    """Red, green and blue of each latent channel, and what is added to them."""
    factors, bias = (checkpoint.config.get(name) for name in ("latent_rgb_factors", "latent_rgb_bias"))
    rows = [bias, *factors] if isinstance(factors, list) else []
    triples = [row for row in rows if isinstance(row, list) and len(row) == 3]
    numbers = all(type(colour) in (int, float) and abs(colour) < MOST for row in triples for colour in row)
    if not numbers or not len(triples) == len(rows) == 5:
        raise CheckpointError(
            f"The latent_rgb_factors and latent_rgb_bias of {checkpoint.path.name} are no preview colours; take both "
            "out of its config.json."
        )
    return triples[1:], triples[0]


def _release_and_motion(checkpoint: Checkpoint, facts: _Facts) -> tuple[type[Release], tuple[MotionConfig, ...]]:
    """By the block kinds in config.json, else by what only one release has."""
    if not facts.motion:
        return EasyAnimateV1, ()
    described = motion_of(checkpoint.config, checkpoint.path.name)
    if described:
        for motion in described:
            _require_division(checkpoint, facts.width, motion.heads)
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
    told, name = checkpoint.config, checkpoint.path.name
    stored = number_in(told, "uvit_stored", RELEASED_SKIPS.stored, name)
    skips = LongSkips(stored, number_in(told, "uvit_start", RELEASED_SKIPS.start, name))
    if skips.stored != facts.skips:
        raise CheckpointError(
            f"{checkpoint.path.name} has {facts.skips} long skips, not {skips.stored}; "
            "put the right config.json beside it."
        )
    return skips


def _transformer_facts(checkpoint: Checkpoint) -> _Facts:
    tensors = checkpoint.tensors
    if is_motion_file(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path.name} is a motion module without its image transformer; choose the PixArt base as "
            "transformer and this file as motion_module."
        )
    if not {"pos_embed.proj.weight", "caption_projection.linear_1.weight"} <= tensors.keys():
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(tensors)}, not an EasyAnimate V1 to V3 transformer; "
            "choose the transformer's file or folder."
        )
    width, in_channels, _, patch = shape_of(checkpoint, "pos_embed.proj.weight", 4)
    return _Facts(
        in_channels=in_channels,
        out_channels=shape_of(checkpoint, "proj_out.weight", 2)[0] // patch**2,
        width=width,
        depth=_count(checkpoint, "transformer_blocks.", 10),
        caption_channels=shape_of(checkpoint, "caption_projection.linear_1.weight", 2)[1],
        patch=patch,
        skips=_count(checkpoint, "long_connect_fc."),
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
    _require_division(
        checkpoint, facts.width, number_in(checkpoint.config, HEADS, RELEASED_HEADS, checkpoint.path.name)
    )


def _require_division(checkpoint: Checkpoint, width: int, heads: int) -> None:
    if width % heads:
        raise CheckpointError(
            f"{checkpoint.path.name} is {width} wide, which {heads} heads don't divide; put the right config.json "
            "beside it."
        )


def _require_claim(checkpoint: Checkpoint, name: str, shown) -> None:
    claimed = checkpoint.config.get(name)
    if claimed is not None and claimed != shown:
        raise CheckpointError(
            f"config.json beside {checkpoint.path.name} says {name} {shorten(claimed)}, but the weights have {shown}; "
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
    given, name = checkpoint.config, checkpoint.path.name
    config = SliceVAEConfig(
        channels=_vae_channels(checkpoint, "encoder.down_blocks.{}.convs.0.conv1.weight", 5),
        layers=_count(checkpoint, "encoder.down_blocks.0.convs."),
        latent_channels=shape_of(checkpoint, "decoder.conv_in.weight", 5)[1],
        norm_groups=number_in(given, "norm_num_groups", 32, name),
        scaling_factor=number_in(given, "scaling_factor", RELEASED_SCALING, name, float),
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
                f"config.json beside {checkpoint.path.name} says {name} {shorten(given[name])}, but V2 has 9 and 3, V3 "
                "8 and 2; put the right config.json beside it."
            )
    return release


def _image_vae(checkpoint: Checkpoint) -> DetectedVAE:
    latent_channels = shape_of(checkpoint, "decoder.conv_in.weight", 4)[1]
    if latent_channels != 4:
        raise CheckpointError(
            f"{checkpoint.path.name} is an image VAE of {latent_channels} latent channels, but V1 needs 4; choose the "
            "VAE of PixArt-XL-2 or Stable Diffusion 1.5."
        )
    scaling = number_in(checkpoint.config, "scaling_factor", RELEASED_SCALING, checkpoint.path.name, float)
    if scaling != RELEASED_SCALING:
        raise CheckpointError(
            f"{checkpoint.path.name} scales its latents by {scaling}, but V1 needs {RELEASED_SCALING}; choose the VAE "
            "of PixArt-XL-2 or Stable Diffusion 1.5."
        )
    config = ImageVAEConfig(
        channels=_vae_channels(checkpoint, "encoder.down_blocks.{}.resnets.0.conv1.weight", 4),
        layers=_count(checkpoint, "encoder.down_blocks.0.resnets."),
        latent_channels=latent_channels,
        norm_groups=number_in(checkpoint.config, "norm_num_groups", 32, checkpoint.path.name),
    )
    return DetectedVAE(EasyAnimateV1, config)


def _vae_channels(checkpoint: Checkpoint, key: str, dimensions: int) -> tuple[int, int, int, int]:
    """Channels of the four levels, which the norm groups must divide."""
    levels = _count(checkpoint, "encoder.down_blocks.")
    if levels != 4 or any(key.format(i) not in checkpoint.tensors for i in range(levels)):
        raise CheckpointError(f"{checkpoint.path.name} has {levels} levels where VAEs of V1 to V3 have 4.")
    first, second, third, fourth = (shape_of(checkpoint, key.format(i), dimensions)[0] for i in range(levels))
    channels = (first, second, third, fourth)
    _require_claim(checkpoint, "block_out_channels", list(channels))
    groups = number_in(checkpoint.config, "norm_num_groups", 32, checkpoint.path.name)
    if any(width % groups for width in channels):
        raise CheckpointError(
            f"{checkpoint.path.name} has {list(channels)} channels, which {groups} norm groups don't divide; "
            "put the right config.json beside it."
        )
    return channels


def detect_controlnet(checkpoint: Checkpoint) -> ControlNetConfig:
    """The config of a PixArt ControlNet under our names; heads can be given in the file's metadata or config.json."""
    tensors, name = checkpoint.tensors, checkpoint.path.name
    if any(probe in key for key in tensors for probe in STABLE_DIFFUSION_CONTROL):
        raise CheckpointError(
            f"{name} is a Stable Diffusion ControlNet, not a PixArt one; load it with the stock Load ControlNet Model "
            "and use it on a Stable Diffusion model that refines the frames one by one."
        )
    if "controlnet.0.before_proj.weight" not in tensors:
        raise CheckpointError(
            f"{name} is {describe(tensors)}, not a PixArt ControlNet; choose one such as PixArt-XL-2-1024-ControlNet."
        )
    told = str(checkpoint.metadata.get(HEADS, number_in(checkpoint.config, HEADS, RELEASED_HEADS, name)))
    width = shape_of(checkpoint, "controlnet.0.before_proj.weight", 2)[0]
    heads = int(told) if told.isdecimal() and len(told) < 6 else 0
    if not heads or width % heads:
        raise CheckpointError(f"{name} is {width} wide, which {shorten(told)} heads don't divide; download it again.")
    return ControlNetConfig(width, _count(checkpoint, "controlnet.", 8), heads)


def detect_image_encoder(checkpoint: Checkpoint, usual: dict) -> dict:
    """The config of a CLIP vision encoder, in the words of `usual`, which holds for files without a config.json."""
    told, name = checkpoint.config, checkpoint.path.name
    if "visual_projection.weight" not in checkpoint.tensors:
        raise CheckpointError(
            f"{name} is {describe(checkpoint.tensors)}, not a CLIP vision model; choose the release's image_encoder, "
            "or a CLIP ViT-L/14 vision model."
        )
    projected, width = shape_of(checkpoint, "visual_projection.weight", 2)
    layers = _count(checkpoint, "vision_model.encoder.layers.")
    shown = {"num_hidden_layers": layers, "hidden_size": width, "projection_dim": projected}
    claims = {size: told.get(size, usual[size]) for size in shown}
    wrong = [
        f"{size} is {shown[size]} instead of {shorten(claims[size])}" for size in shown if shown[size] != claims[size]
    ]
    if wrong:
        raise CheckpointError(
            f"{name} is not a complete CLIP ViT-L/14 vision model: its {', '.join(wrong)}; download it again or choose "
            "another file."
        )
    sizes = {key: number_in(told, key, value, name) for key, value in usual.items() if type(value) is int}
    _require_division(checkpoint, width, sizes[HEADS])
    kinds = {key: told.get(key, usual[key]) for key in ("hidden_act", "model_type")}
    if kinds["model_type"] != usual["model_type"] or kinds["hidden_act"] not in ACTIVATIONS:
        raise CheckpointError(f"{name} is no CLIP ViT-L/14 by its config.json; choose the release's image_encoder.")
    return {**usual, **sizes, **kinds, **shown}


def detect_t5(checkpoint: Checkpoint) -> dict[str, int]:
    """Sizes of a T5 encoder by its tensors, in the names of its config."""
    tensors = checkpoint.tensors
    bias = tensors.get("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    if bias is None or "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" not in tensors:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(tensors)}, not a T5 v1.1 text encoder; choose a t5xxl file or the "
            "release's text_encoder folder."
        )
    if "shared.weight" not in tensors:
        raise CheckpointError(f"{checkpoint.path.name} lacks shared.weight, its word embeddings; download it again.")
    heads = shape_of(checkpoint, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 2)[1]
    inner, width = shape_of(checkpoint, "encoder.block.0.layer.0.SelfAttention.q.weight", 2)
    sizes = {
        "num_layers": _count(checkpoint, "encoder.block.", 8),
        "num_heads": heads,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": shape_of(checkpoint, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        "vocab_size": shape_of(checkpoint, "shared.weight", 2)[0],
    }
    for name, shown in sizes.items():
        _require_claim(checkpoint, name, shown)
    return sizes


def _count(checkpoint: Checkpoint, prefix: str, tensors: int = 2) -> int:
    """How many numbered parts start with `prefix`, each with at least so many tensors: no network is built of names."""
    found = [key[len(prefix) :].split(".")[0] for key in checkpoint.tensors if key.startswith(prefix)]
    parts = len(set(found))
    if parts * tensors > len(found):
        raise CheckpointError(
            f"{checkpoint.path.name} has {parts} parts called {prefix[:-1]} with {len(found)} tensors in them, which "
            "are too few; download it again."
        )
    return parts
