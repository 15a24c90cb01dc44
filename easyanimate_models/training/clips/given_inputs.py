"""What a network is given of a clip beside the noise: encoded once for each clip, drawn anew at every step.

One kind for each variant of the releases, laid out as conditioning nodes do; `objective.scaled` hands it on.
"""

import random
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...conditioning.camera import camera_latents, pack, plucker_maps
from ...conditioning.control import CAMERA, CONTROL, REFERENCE, CameraInputs, ControlInputs, control_latents
from ...conditioning.inpainting import Inpainting, given_frames, inpaint_latents
from ...conditioning.poses import parse_poses, resampled
from ...data.dataset_file import DatasetError, read_text
from ...vae.video_sizes import latent_size
from ...vae.video_vae import SPACE_RATIO
from .dataset import Item, fit_into, read_control

MAX_GIVEN = 4  # frames at either end, as the original trains its inpainting models
GIVEN_WHOLE = (1, 4)  # of these, where each takes an encoding of the whole clip
CONTROL_DROPOUT = 0.2  # of the control video and of the reference image, as in the original


@dataclass(frozen=True)
class Window:
    """Which frames of an item are trained on, one in `every` from its start on, and their size."""

    item: Item
    frames: int
    height: int
    width: int
    every: int


@dataclass(frozen=True)
class Drawn:
    """Rows of a `Batch` by their names; `starts` says whether the clip's first frame is given."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    starts: bool = False


class GivenInputs(Protocol):
    """`kind` is in the names of cached files and in the index."""

    kind: str

    def encode(self, vae, pixels: Tensor, window: Window) -> dict[str, Tensor]:
        """All that can be given of a clip `[T, H, W, 3]`, as tensors for the cache beside its "latents"."""

    def draw(self, clip: dict[str, Tensor], rng: random.Random) -> Drawn:
        """What is given of a cached clip this time."""

    def nothing(self, vae, size: tuple[int, int, int]) -> dict[str, Tensor]:
        """What conditioning holds for a preview in which nothing is given, of latents of this `size`."""

    def start(self, vae, size: tuple[int, int, int], image: Tensor) -> dict[str, Tensor]:
        """The same for a preview that starts from an image `[1, H, W, 3]`. Raises `ValueError` where none can."""


@dataclass(frozen=True)
class TextOnly:
    """Text to video: nothing."""

    kind = "t2v"

    def encode(self, vae, pixels: Tensor, window: Window) -> dict[str, Tensor]:
        return {}

    def draw(self, clip: dict[str, Tensor], rng: random.Random) -> Drawn:
        return Drawn()

    def nothing(self, vae, size: tuple[int, int, int]) -> dict[str, Tensor]:
        return {}

    def start(self, vae, size: tuple[int, int, int], image: Tensor) -> dict[str, Tensor]:
        raise ValueError(
            "This transformer can't start samples from an image; remove the image of the samples, or train an "
            "inpainting (InP) transformer."
        )


TEXT_ONLY = TextOnly()


@dataclass(frozen=True)
class GivenFrames:
    """Inpainting: nothing, or frames at the start, or as many at both ends, as often each as in the original.

    Slices of V1's to V3's VAEs are encoded apart, so "start" and "end" `[N, C, F, H, W]` hold the first and the last
    one alone. Where the VAE remembers, or nothing given is zeros, "start" and "both" are whole clips.
    """

    kind = "inp"

    def encode(self, vae, pixels: Tensor, window: Window) -> dict[str, Tensor]:
        given = {"none": inpaint_latents(vae, pixels, torch.ones(pixels.shape[:3]))[0]}
        if vae.plan.seamless:
            return given | self._whole(vae, pixels)
        slices = vae.plan.encode(len(pixels))
        if len(slices) > 1:
            for name, part in (("start", pixels[: slices[0].stop]), ("end", pixels[slices[-1].start :])):
                counts = range(1, min(MAX_GIVEN, len(part)) + 1)
                masks = (_mask_all_but(part, *((n, 0) if name == "start" else (0, n))) for n in counts)
                given[name] = torch.stack([inpaint_latents(vae, part, mask)[0] for mask in masks])
        return given

    @staticmethod
    def _whole(vae, pixels: Tensor) -> dict[str, Tensor]:
        ends = {"start": [(n, 0) for n in GIVEN_WHOLE], "both": [(n, n) for n in GIVEN_WHOLE]}
        fitting = {name: [given for given in pairs if sum(given) < len(pixels)] for name, pairs in ends.items()}
        return {
            name: torch.stack([inpaint_latents(vae, pixels, _mask_all_but(pixels, *given))[0] for given in pairs])
            for name, pairs in fitting.items()
            if pairs
        }

    def draw(self, clip: dict[str, Tensor], rng: random.Random) -> Drawn:
        given, kind = clip["none"].clone(), rng.choice(("none", "start", "both"))
        starts = "start" in clip and kind != "none"
        if starts and "end" in clip:
            start = rng.choice(list(clip["start"]))
            given[:, : start.shape[1]] = start
            if kind == "both":
                end = rng.choice(list(clip["end"]))
                given[:, -end.shape[1] :] = end
        elif starts:
            given = rng.choice(list(clip[kind if kind in clip else "start"]))
        return Drawn({"given": given.float()}, starts)

    def nothing(self, vae, size: tuple[int, int, int]) -> dict[str, Tensor]:
        shape = vae.plan.frames_for(size[0]), size[1] * SPACE_RATIO, size[2] * SPACE_RATIO
        return {"concat_latent_image": inpaint_latents(vae, torch.zeros(*shape, 3), torch.ones(shape))}

    def start(self, vae, size: tuple[int, int, int], image: Tensor) -> dict[str, Tensor]:
        shape = vae.plan.frames_for(size[0]), size[1] * SPACE_RATIO, size[2] * SPACE_RATIO
        return {"concat_latent_image": inpaint_latents(vae, *given_frames(*shape, image, None))}


@dataclass(frozen=True)
class GivenControl:
    """Control: a control video, and with V5.1 the clip's first frame as the reference; either is left out at times."""

    with_reference: bool
    kind = "control"

    def encode(self, vae, pixels: Tensor, window: Window) -> dict[str, Tensor]:
        size = latent_size(window.width, window.height, window.frames, vae.plan)
        video = None if window.item.control is None and window.frames == 1 else _control_pixels(window)
        given = control_latents(vae, size, video, pixels[:1] if self.with_reference else None)[0]
        return {"control": given[:CONTROL], "reference": given[CONTROL:, :1]}

    def draw(self, clip: dict[str, Tensor], rng: random.Random) -> Drawn:
        return Drawn({"given": _control_rows(clip, _is_given(rng), _is_given(rng))})

    def nothing(self, vae, size: tuple[int, int, int]) -> dict[str, Tensor]:
        return {}

    def start(self, vae, size: tuple[int, int, int], image: Tensor) -> dict[str, Tensor]:
        if not self.with_reference:
            return TEXT_ONLY.start(vae, size, image)
        return {"concat_latent_image": control_latents(vae, size, None, image)}


@dataclass(frozen=True)
class GivenCamera:
    """Camera: the rays of the camera's path, and the clip's first frame as the reference, left out at times."""

    kind = "camera"

    def encode(self, vae, pixels: Tensor, window: Window) -> dict[str, Tensor]:
        size = latent_size(window.width, window.height, window.frames, vae.plan)
        given = control_latents(vae, size, None, pixels[:1])[0]
        maps = torch.zeros(CAMERA, *size)
        if window.frames > 1 or window.item.control is not None:
            maps = camera_latents(_camera_embedding(window), torch.Size((1, CAMERA, *size)))[0]
        return {"camera": maps, "reference": given[CONTROL:, :1]}

    def draw(self, clip: dict[str, Tensor], rng: random.Random) -> Drawn:
        return Drawn({"given": _control_rows(clip, False, _is_given(rng)), "camera": clip["camera"].float()})

    def nothing(self, vae, size: tuple[int, int, int]) -> dict[str, Tensor]:
        return {}

    def start(self, vae, size: tuple[int, int, int], image: Tensor) -> dict[str, Tensor]:
        return {"concat_latent_image": control_latents(vae, size, None, image)}


def given_inputs(model) -> GivenInputs:
    """What the network of a MODEL is given beside the noise."""
    variant = model.model.model_config.variant
    if isinstance(variant, Inpainting):
        return GivenFrames()
    if isinstance(variant, ControlInputs):
        return GivenControl(variant.with_reference)
    return GivenCamera() if isinstance(variant, CameraInputs) else TEXT_ONLY


def _mask_all_but(pixels: Tensor, start: int, end: int) -> Tensor:
    """The mask `[T, H, W]` of a clip `[T, H, W, 3]` of which so many frames at either end are given: 1 elsewhere."""
    mask = torch.ones(pixels.shape[:3])
    mask[:start] = mask[len(pixels) - end :] = 0
    return mask


def _is_given(rng: random.Random) -> bool:
    return rng.random() >= CONTROL_DROPOUT


def _control_rows(clip: dict[str, Tensor], control: bool, reference: bool) -> Tensor:
    """Control video and reference, `[32, F, H, W]` as of `control_latents`; zeros for what is left out."""
    given = torch.zeros(CONTROL + REFERENCE, *clip["latents"].shape[1:])
    if control:
        given[:CONTROL] = clip["control"]
    if reference and given.shape[1] > 1:
        given[CONTROL:, :1] = clip["reference"]
    return given


def _control_pixels(window: Window) -> Tensor:
    """The frames of an item's control video that belong to the window, `[T, H, W, 3]`."""
    item = window.item
    if item.control is None:
        raise DatasetError(
            f"{item.file} has no control video, which a Control transformer learns from; name one for each clip in "
            'metadata.jsonl ("control": "edges/clip.mp4").'
        )
    frames = read_control(item, item.control, window.frames, window.every)
    return fit_into(frames, window.height, window.width)


def _camera_embedding(window: Window) -> Tensor:
    """The camera's path of the window as WanCameraEmbedding lays it out."""
    item = window.item
    if item.control is None or item.control.suffix != ".txt":
        raise DatasetError(
            f"{item.file} has no camera path, which a Camera transformer learns from; name a file of poses for each "
            'clip in metadata.jsonl ("control": "poses/clip.txt").'
        )
    try:
        path = resampled(parse_poses(read_text(item.control)), item.frames)
    except ValueError as error:
        raise DatasetError(f"{item.control}: {error}") from error
    frames = slice(item.start, item.start + window.frames * window.every, window.every)
    part = type(path)(path.times[frames], path.intrinsics[frames], path.camera_to_world[frames])
    return pack(plucker_maps(part, window.height, window.width, item.width / item.height).movedim(-1, 1))
