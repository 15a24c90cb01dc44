"""The VAEs of V1 to V3: which release a file is of, and the config of its network."""

import logging
from dataclasses import dataclass

from ..files.checkpoint import Checkpoint, CheckpointError, number_in, shape_of
from ..files.messages import shorten
from ..names import image_vae
from ..supported_models import EasyAnimateV1, EasyAnimateV2, EasyAnimateV3, MotionRelease, Release
from ..vae.image_vae import ImageVAEConfig
from ..vae.slice_vae import SliceVAEConfig
from .probes import Detector, count, require_claim

CONVS, RESNETS = "encoder.down_blocks.{}.convs.0.conv1.weight", "encoder.down_blocks.{}.resnets.0.conv1.weight"


@dataclass(frozen=True)
class DetectedVAE:
    """Which release's VAE a file is, and the config for its network, `release.vae`."""

    release: type[Release]
    config: SliceVAEConfig | ImageVAEConfig


def _video_vae(checkpoint: Checkpoint) -> DetectedVAE:
    config, name = checkpoint.config, checkpoint.path.name
    latent_channels = shape_of(checkpoint, "decoder.conv_in.weight", 5)[1]
    release = _release_of_vae(checkpoint, latent_channels)
    scale = release.latent_format.scale_factor
    network = SliceVAEConfig(
        channels=_vae_channels(checkpoint, CONVS, 5),
        layers=count(checkpoint, "encoder.down_blocks.0.convs."),
        latent_channels=latent_channels,
        norm_groups=number_in(config, "norm_num_groups", 32, name),
        scaling_factor=number_in(config, "scaling_factor", scale, name, float),
    )
    return DetectedVAE(release, network)


def _release_of_vae(checkpoint: Checkpoint, latent_channels: int) -> type[MotionRelease]:
    """V2, V3 and V4 have the same tensors; the flags in config.json are the original's."""
    config = checkpoint.config
    newer = "V5 or V5.1" if latent_channels == 16 or config.get("cache_mag_vae") else None
    newer = "V4" if config.get("cache_compression_vae") else newer
    if newer:
        raise CheckpointError(
            f"{checkpoint.path.name} is an EasyAnimate {newer} VAE; only those of V1 to V3 are supported."
        )
    is_slice = config.get("slice_compression_vae", not config)
    if not config:
        logging.warning("%s has no config.json; it is loaded as a V3 VAE (V2's looks the same).", checkpoint.path.name)
    release: type[MotionRelease] = EasyAnimateV3 if is_slice else EasyAnimateV2
    for name, size in release.vae_flags.items():
        if config.get(name, size) != size:
            raise CheckpointError(
                f"The config.json beside {checkpoint.path.name} says {name} {shorten(config[name])}, but V2 has 9 and "
                "3, and V3 has 8 and 2; replace it with the right one."
            )
    return release


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
            f"{checkpoint.path.name} has {levels} resolution levels, but the VAEs of V1 to V3 have "
            "4; choose another file."
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
