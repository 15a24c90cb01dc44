"""What control models are given beside the noise: a control video or a camera's path, and a reference image."""

import logging

import comfy.latent_formats
import comfy.model_management as mm
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ..vae.video_vae import SPACE_RATIO
from .camera import camera_latents
from .inpainting import fitted, require_inputs, resized

CONTROL, CAMERA, REFERENCE = 16, 6, 16  # channels
CAMERA_LATENTS = "easyanimate_camera_latents"  # in conditioning: a path that is already in the size of latents


class ControlInputs:
    """V5: the encoded control video, `[B, 16, F, h, w]`. V5.1: then the reference image in the first latent frame.

    Conditioning is laid out as by WanFunControlToVideo: `concat_latent_image` `[B, 32, F, h, w]`.
    """

    name = "Control"
    takes = frozenset({"reference_latents"})

    def __init__(self, with_reference: bool):
        self.with_reference = with_reference
        self.channels = CONTROL + (REFERENCE if with_reference else 0)

    def concat(self, noise: Tensor, conds: dict, latent_format) -> Tensor:
        """See `concat.ConcatInputs`."""
        if conds.get("camera_conditions") is not None:
            raise ValueError(
                "This Control transformer can't follow a camera embedding; load a Camera transformer, or connect a "
                "control video."
            )
        control, reference = _parts(noise, conds)
        if not self.with_reference:
            if reference.any():
                raise ValueError("The Control transformer of V5 takes no reference image; remove the image.")
            return latent_format.process_in(control)
        return latent_format.process_in(torch.cat([control, reference], dim=1))


class CameraInputs:
    """V5.1: Plücker maps of the camera's path, then the reference image in the first latent frame.

    The path comes as `camera_conditions`, which WanCameraEmbedding and EasyAnimate Camera Path make.
    """

    name = "Camera"
    takes = frozenset({"reference_latents"})
    channels = CAMERA + REFERENCE

    def concat(self, noise: Tensor, conds: dict, latent_format) -> Tensor:
        """See `concat.ConcatInputs`."""
        control, reference = _parts(noise, conds)
        if control.any():
            raise ValueError(
                "This Camera transformer takes a camera embedding instead of a control video; connect a camera "
                "embedding, or load a Control transformer."
            )
        camera, maps = conds.get("camera_conditions"), conds.get(CAMERA_LATENTS)
        size = (1, CAMERA, *noise.shape[2:])
        if maps is None:
            maps = noise.new_zeros(size) if camera is None else camera_latents(camera, torch.Size(size)).to(noise)
        reference = latent_format.process_in(reference)
        return torch.cat([maps.expand(len(noise), -1, -1, -1, -1), reference], dim=1)


def _parts(noise: Tensor, conds: dict) -> tuple[Tensor, Tensor]:
    """Latents of the control video and of the reference image, unscaled, zeros where there are none."""
    given = conds.get("concat_latent_image")
    if given is None:
        given = noise.new_zeros(1, CONTROL + REFERENCE, *noise.shape[2:])
    if given.shape[1] == CONTROL and conds.get("concat_mask") is not None:  # an image to video node
        given = F.pad(given, (0, 0, 0, 0, 0, 0, REFERENCE, 0))
    if given.shape[1] == CONTROL + 1:
        raise ValueError(
            "This is a Control transformer, but its conditioning is that of image to video; use EasyAnimate Control to "
            "Video, or load an inpainting (InP) transformer."
        )
    require_inputs(given, CONTROL + REFERENCE)
    control, reference = resized(without_wan_means(given), noise).to(noise).split([CONTROL, REFERENCE], dim=1)
    if conds.get("reference_latents"):
        reference = _with_reference(reference, conds["reference_latents"])
    return control, _first_frame_of(reference)


def _with_reference(latents: Tensor, references: list[Tensor]) -> Tensor:
    """`latents` with the reference image that Wan22FunControlToVideo or ReferenceLatent gives, in the first frame.

    The last of `references`, `[1, 16, F, h, w]` unscaled, counts, over what `latents` hold there.
    """
    given = references[-1]
    if given.ndim != latents.ndim or given.shape[1] != REFERENCE:
        raise ValueError(
            f"A reference latent of shape {list(given.shape)} can't be used; encode the image with the VAE of the "
            "transformer's release."
        )
    if len(references) > 1:
        logging.warning("Control transformers take one reference image; only the last one is used.")
    given = comfy.utils.common_upscale(given[:, :, 0], latents.shape[4], latents.shape[3], "bilinear", "center")
    latents = latents.clone()
    latents[:, :, 0] = comfy.utils.resize_to_batch_size(given, len(latents)).to(latents)
    return latents


def _first_frame_of(reference: Tensor) -> Tensor:
    """The reference as these models know it: in the first latent frame of a video, nowhere in an image."""
    if reference[:, :, 1:].any():
        logging.warning("Control transformers take one reference image; those after the first are left out.")
    first = torch.zeros_like(reference)
    if reference.shape[2] > 1:
        first[:, :, :1] = reference[:, :, :1]
    elif reference.any():
        logging.warning("The reference image is left out: Control transformers know one in videos only.")
    return first


def without_wan_means(latents: Tensor) -> Tensor:
    """Latents `[B, 32, F, h, w]` with zeros in the frames that stock nodes fill with what is empty to Wan's VAE."""
    empty = comfy.latent_formats.Wan21().process_out(latents.new_zeros(1, CONTROL, 1, 1, 1)).to(latents)
    halves = latents.unflatten(1, (-1, CONTROL))
    unused = (halves == empty[:, None]).all(dim=(2, 4, 5), keepdim=True)
    return torch.where(unused, 0.0, halves).flatten(1, 2)


def control_latents(vae, size: tuple[int, int, int], video: Tensor | None, reference: Tensor | None) -> Tensor:
    """A control video and a reference image (`[T, H, W, 3]` in 0..1) as latents `[1, 32, F, h, w]` of `size`, unscaled.

    Zeros where nothing is given; frames beyond the size are left out.
    """
    height, width = (side * SPACE_RATIO for side in size[1:])
    latents = torch.zeros(1, CONTROL + REFERENCE, *size, device=mm.intermediate_device())
    if video is not None:
        encoded = vae.encode(fitted(video[: vae.plan.frames_for(size[0])], height, width))
        latents[:, :CONTROL, : encoded.shape[2]] = encoded
    if reference is not None and size[0] > 1:
        latents[:, CONTROL:, :1] = vae.encode(fitted(reference[:1], height, width))
    return latents
