"""What the latents of each VAE look like to the host: channels, scale, ratios, preview colours.

A latent carries the release that it is for: a wrong VAE or transformer is noticed before anything is computed.
"""

import comfy.latent_formats
import torch
from torch import Tensor, nn

STAMP = "easyanimate_release"


class ImageLatents(comfy.latent_formats.LatentFormat):
    """Four channels, 8x8 in space, every frame on its own (V1)."""

    release = "V1"
    latent_channels = 4
    latent_dimensions = 3
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 1
    scale_factor = 0.18215
    taesd_decoder_name = None  # the image previewer would be handed a video
    own_colours: dict = {}  # of previews, as its config.json says them
    latent_rgb_factors: list[list[float]] | None = [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ]


class WindowLatents(ImageLatents):
    """The same, and 4x in time (V2)."""

    release = "V2"
    temporal_downscale_ratio = 4


class SliceLatents(ImageLatents):
    """The same, and 4x in time (V3)."""

    release = "V3"
    temporal_downscale_ratio = 4


class CachedDecoderLatents(ImageLatents):
    """The same, and 4x in time (V4)."""

    release = "V4"
    temporal_downscale_ratio = 4
    latent_rgb_factors = None  # those of another VAE would show wrong colours; the host then shows no preview


class CausalLatents(comfy.latent_formats.LatentFormat):
    """Sixteen channels, 8x8 in space, 4x in time after a first frame alone (V5.1)."""

    release = "V5.1"
    latent_channels = 16
    latent_dimensions = 3
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 4
    scale_factor = 0.7125


class CausalAttentionLatents(CausalLatents):
    """The same, of the VAE with attention (V5)."""

    release = "V5"


def with_preview(latents: ImageLatents, factors: list[list[float]], bias: list[float]) -> ImageLatents:
    """The same latents with preview colours of their own."""
    latents.latent_rgb_factors = factors
    latents.latent_rgb_factors_bias = bias
    latents.own_colours = {"latent_rgb_factors": factors, "latent_rgb_bias": bias}
    return latents


def with_previewer(latents: ImageLatents, previewer: nn.Module) -> ImageLatents:
    """The same latents whose previews a network makes: `[B, C, F, h, w]` -> `[B, 3, 1, h, w]`."""

    def colours(samples: Tensor) -> Tensor:
        return previewer.to(samples.device, torch.float32)(samples.float())

    latents.latent_rgb_factors = torch.eye(3).tolist()
    latents.latent_rgb_factors_bias = [0.0, 0.0, 0.0]
    latents.latent_rgb_factors_reshape = colours
    return latents


def mark(latent: dict, latent_format) -> dict:
    """A copy of `latent` that says which release it is for; of no release when `latent_format` is not ours."""
    release = getattr(latent_format, "release", None)
    rest = {k: v for k, v in latent.items() if k != STAMP}
    return rest if release is None else {**rest, STAMP: release}


def require_match(latent: dict, latent_format, what: str) -> None:
    """Raise `ValueError` when `latent` is for another release than `latent_format`; `what` names its owner."""
    of_latent, needed = latent.get(STAMP), getattr(latent_format, "release", None)
    if of_latent is None or needed is None or of_latent == needed:
        return
    raise ValueError(
        f"The latent is for EasyAnimate {of_latent}, but the {what} is for {needed}; load the {what} of "
        f"{of_latent}, or connect the VAE of {needed} to the node that makes the latent{alike(of_latent, needed)}."
    )


def alike(one: str, other: str) -> str:
    """What to add to an error about VAEs of two releases whose files look alike; else ""."""
    return " (without its config.json, a V2 VAE is loaded as V3)" if {one, other} == {"V2", "V3"} else ""


def require_channels(samples: Tensor, latent_format) -> None:
    """Raise `ValueError` when latents `[B, C, ...]` are those of another model."""
    if samples.shape[1] != latent_format.latent_channels:
        raise ValueError(
            f"The latent has {samples.shape[1]} channels, but EasyAnimate {latent_format.release} needs "
            f"{latent_format.latent_channels}; it was made for another model, so use Empty EasyAnimate Latent or "
            "EasyAnimate Encode."
        )


def require_numbers(samples: Tensor) -> None:
    """Raise `ValueError` when some of the latents overflowed: nothing but black comes of them."""
    if not samples.isfinite().all():
        raise ValueError(
            "The latent contains NaN or infinite values, so a computation before this node overflowed; run the node "
            "that made it again, in bf16 or fp32."
        )
