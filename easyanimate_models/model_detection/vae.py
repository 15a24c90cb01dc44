"""The VAEs: which release a file is of, and the config of its network."""

import logging
from dataclasses import asdict, dataclass

from ..files.checkpoint import Checkpoint, CheckpointError, number_in, shape_of
from ..files.messages import shorten
from ..names import image_vae
from ..supported_models import (
    EasyAnimateV1,
    EasyAnimateV2,
    EasyAnimateV3,
    EasyAnimateV4,
    EasyAnimateV5,
    EasyAnimateV51,
    Release,
)
from ..vae.image_vae import ImageVAEConfig
from ..vae.slice_vae import SliceVAEConfig
from ..vae.video_sizes import VideoDefaults
from .probes import Detector, count, require_claim

ATTENTIONS = ("encoder.mid_block.attentions.0.", "decoder.mid_block.attentions.0.")
KINDS: dict[type[Release], tuple[str, str | None]] = {
    EasyAnimateV5: ("frame", "frame"),
    EasyAnimateV51: ("frame", None),
}
FLAGS: dict[str, type[Release]] = {  # in config.json; the last is V5's as well
    "slice_mag_vae": EasyAnimateV2,
    "slice_compression_vae": EasyAnimateV3,
    "cache_compression_vae": EasyAnimateV4,
    "cache_mag_vae": EasyAnimateV51,
}
CONVS, RESNETS = "encoder.down_blocks.{}.convs.0.conv1.weight", "encoder.down_blocks.{}.resnets.0.conv1.weight"


@dataclass(frozen=True)
class DetectedVAE:
    """Which release's VAE a file is, the config for its network, `release.vae`, and the video it is for."""

    release: type[Release]
    config: SliceVAEConfig | ImageVAEConfig
    video: VideoDefaults = VideoDefaults()


def video_defaults(checkpoint: Checkpoint, of_release: VideoDefaults) -> VideoDefaults:
    """What config.json says of the videos that a VAE is for, else what the release says."""
    values = {
        name: number_in(checkpoint.config, f"default_{name}", default, checkpoint.path.name, type(default))
        for name, default in asdict(of_release).items()
    }
    return VideoDefaults(**values)


def _video_vae(checkpoint: Checkpoint) -> DetectedVAE:
    config, name = checkpoint.config, checkpoint.path.name
    latent_channels = shape_of(checkpoint, "decoder.conv_in.weight", 5)[1]
    release = _release_of_vae(checkpoint, latent_channels)
    scale = release.latent_format.scale_factor
    norm, attention = KINDS.get(release, ("slice", "slice"))
    network = SliceVAEConfig(
        channels=_vae_channels(checkpoint, CONVS, 5),
        layers=count(checkpoint, "encoder.down_blocks.0.convs."),
        latent_channels=latent_channels,
        norm_groups=number_in(config, "norm_num_groups", 32, name),
        scaling_factor=number_in(config, "scaling_factor", scale, name, float),
        norm=norm,
        attention=attention,
    )
    return DetectedVAE(release, network)


def _release_of_vae(checkpoint: Checkpoint, latent_channels: int) -> type[Release]:
    """V5.1's has no attention; V2's, V3's and V4's have the same tensors, and flags in config.json tell them apart."""
    release = _release_by_flags(checkpoint, latent_channels)
    if release is EasyAnimateV51 and any(name.startswith(ATTENTIONS) for name in checkpoint.tensors):
        release = EasyAnimateV5
    label, needed = release.latent_format.release, release.latent_format.latent_channels
    if latent_channels != needed:
        raise CheckpointError(
            f"{checkpoint.path.name} has {latent_channels} latent channels, but the VAE of {label} has {needed}; "
            "choose another file, or put its own config.json beside it."
        )
    for name, value in release.vae_flags.items():
        claimed = checkpoint.config.get(name, value)
        if claimed != value:
            raise CheckpointError(
                f"The config.json beside {checkpoint.path.name} says {name} {shorten(claimed)}, but {label} has "
                f"{value}; replace it with the right one."
            )
    return release


def _release_by_flags(checkpoint: Checkpoint, latent_channels: int) -> type[Release]:
    config, name = checkpoint.config, checkpoint.path.name
    flags = [flag for flag in FLAGS if config.get(flag)]
    if len(flags) > 1:
        raise CheckpointError(
            f"The config.json beside {name} says both {flags[0]} and {flags[1]}, which are of different releases; "
            "replace it with the right one."
        )
    if flags:
        return FLAGS[flags[0]]
    if latent_channels == EasyAnimateV51.latent_format.latent_channels:
        return EasyAnimateV51
    if not config:
        logging.warning("%s has no config.json; it is loaded as a V3 VAE (V2's and V4's look the same).", name)
        return EasyAnimateV3
    return EasyAnimateV2


def _image_vae(checkpoint: Checkpoint) -> DetectedVAE:
    latent_channels = shape_of(checkpoint, "decoder.conv_in.weight", 4)[1]
    if latent_channels != 4:
        raise CheckpointError(
            f"{checkpoint.path.name} is an image VAE with {latent_channels} latent channels, but V1 needs 4; choose "
            "the VAE of PixArt-XL-2 or Stable Diffusion 1.5."
        )
    released = ImageVAEConfig.scaling_factor
    scaling = number_in(checkpoint.config, "scaling_factor", released, checkpoint.path.name, float)
    if scaling != released:
        raise CheckpointError(
            f"{checkpoint.path.name} scales its latents by {scaling}, but V1 needs {released}; choose the VAE "
            "of PixArt-XL-2 or Stable Diffusion 1.5."
        )
    config = ImageVAEConfig(
        channels=_vae_channels(checkpoint, RESNETS, 4),
        layers=count(checkpoint, "encoder.down_blocks.0.resnets."),
        latent_channels=latent_channels,
        norm_groups=number_in(checkpoint.config, "norm_num_groups", 32, checkpoint.path.name),
    )
    return DetectedVAE(EasyAnimateV1, config)


def _vae_channels(checkpoint: Checkpoint, key: str, dimensions: int) -> tuple[int, int, int, int]:
    """Channels of the four levels, which the norm groups must divide."""
    levels = count(checkpoint, "encoder.down_blocks.")
    if levels != 4 or any(key.format(i) not in checkpoint.tensors for i in range(levels)):
        raise CheckpointError(
            f"{checkpoint.path.name} has {levels} resolution levels, but EasyAnimate VAEs have 4; choose another file."
        )
    first, second, third, fourth = (shape_of(checkpoint, key.format(i), dimensions)[0] for i in range(levels))
    channels = (first, second, third, fourth)
    require_claim(checkpoint, "block_out_channels", list(channels))
    groups = number_in(checkpoint.config, "norm_num_groups", 32, checkpoint.path.name)
    if any(width % groups for width in channels):
        raise CheckpointError(
            f"{checkpoint.path.name} has {list(channels)} channels, which are not divisible by {groups} norm groups; "
            "put the right config.json beside it."
        )
    return channels


VIDEO_VAE = Detector(((CONVS.format(0), 5),), _video_vae)
IMAGE_VAE = Detector(((RESNETS.format(0), 4),), _image_vae, image_vae.with_our_names)
