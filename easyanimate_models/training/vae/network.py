"""The network of a VAE in training: that of a file, one of another architecture with its weights, or a new one."""

from typing import Any

import comfy.ops
import torch

from ...model_detection.vae import KINDS
from ...supported_models import (
    EasyAnimateV1,
    EasyAnimateV2,
    EasyAnimateV3,
    EasyAnimateV4,
    EasyAnimateV5,
    EasyAnimateV51,
    Release,
)
from ...vae.host_vae import HostVAE
from ...vae.image_vae import ImageVAE, ImageVAEConfig
from ...vae.slice_vae import SliceVAEConfig
from ...vae.slicing import TimePlan
from ...vae.video_vae import VideoVAE
from ..initialize import reset_parameters
from .inflate import LAYERS, inflate
from .objective import VAESettings

RELEASES: dict[str, type[Release]] = {
    "image": EasyAnimateV1,
    "window": EasyAnimateV2,
    "slice": EasyAnimateV3,
    "pair": EasyAnimateV4,
    "causal_attention": EasyAnimateV5,
    "causal": EasyAnimateV51,
}
INFLATED = ("window", "slice")  # from an image VAE
ALIKE = {"window", "slice", "pair"}  # in their tensors
OPS = {"dtype": torch.float32, "operations": comfy.ops.disable_weight_init}


def time_plan(start: HostVAE | None, settings: VAESettings) -> TimePlan:
    """How the VAE that is trained cuts time. Raises `ValueError` as `trainable_vae` does where it is not said."""
    if not settings.architecture and start is not None:
        return start.plan
    return RELEASES[_named(settings)].vae.plan


def trainable_vae(start: HostVAE | None, settings: VAESettings) -> VideoVAE:
    """The network of `start` in float32, or one of another architecture with its weights; without `start`, a new one.

    Image VAEs are inflated; those of V2, V3 and V4 have the same tensors. Raises `ValueError` where neither is
    possible.
    """
    if start is None:
        return _new_vae(_named(settings), settings)
    network = start.first_stage_model
    weights = {name: tensor.detach().float().cpu() for name, tensor in network.state_dict().items()}
    same: Any = type(network)(network.config, **OPS)
    same.load_state_dict(weights)
    old = next(name for name, release in RELEASES.items() if release.latent_format is type(start.latent_format))
    new = settings.architecture or old
    if new == old:
        return same
    if new == "image":
        raise ValueError('A video VAE can\'t become an image VAE; set architecture in [vae] to "window" or "slice".')
    if old == "image" and new in INFLATED:
        return inflate(same, RELEASES[new].vae, **OPS)
    if not {old, new} <= ALIKE:
        raise ValueError(
            f'A VAE of the architecture "{old}" can\'t become "{new}", whose layers are others; remove architecture '
            "from [vae], or remove vae from [models] to train one from scratch."
        )
    other = RELEASES[new].vae(network.config, **OPS)
    other.load_state_dict(weights)
    return other


def _named(settings: VAESettings) -> str:
    if not settings.architecture:
        raise ValueError(
            f"A VAE that is trained from scratch needs an architecture in [vae]: one of {', '.join(RELEASES)}."
        )
    return settings.architecture


def _new_vae(architecture: str, settings: VAESettings) -> VideoVAE:
    release = RELEASES[architecture]
    latents = release.latent_format
    sizes = settings.channels, LAYERS, latents.latent_channels, settings.norm_groups
    if release.vae is ImageVAE:
        vae = ImageVAE(ImageVAEConfig(*sizes), **OPS)
    else:
        norm, attention = KINDS.get(release, ("slice", "slice"))
        vae = release.vae(SliceVAEConfig(*sizes, latents.scale_factor, norm, attention), **OPS)
    reset_parameters(vae).initialize_weights()
    return vae
