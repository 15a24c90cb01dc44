"""A camera path -> what a camera model is given of every pixel's ray: Pluecker coordinates.

After CameraCtrl (He et al. 2024) and light field networks (Sitzmann et al. 2021).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..vae.slicing import CAUSAL, TIME_RATIO
from ..vae.video_sizes import SIDE_STEP
from .inpainting import SAME_SHAPE, resized_by_frame
from .poses import CameraPath

RAY_CHANNELS = 6  # moment, direction
EMBEDDING_CHANNELS = RAY_CHANNELS * TIME_RATIO
STRENGTH = 6.0  # the maps were multiplied by it in training
POSE_SIZE = (1280, 720)  # width and height of RealEstate10K


def plucker_maps(path: CameraPath, height: int, width: int, pose_aspect: float) -> Tensor:
    """(origin x direction, direction) of the ray of each pixel, `[T, height, width, 6]`, in the first camera's frame.

    `pose_aspect` is width by height of the footage that the poses are of; it is cut in the middle to the video's.
    """
    relative = torch.linalg.inv(path.camera_to_world[0]) @ path.camera_to_world
    pixels = path.intrinsics * path.intrinsics.new_tensor([width, height, width, height])
    if pose_aspect > width / height:
        pixels[:, 0] *= height * pose_aspect / width
    else:
        pixels[:, 1] *= width / pose_aspect / height
    maps = torch.empty(len(path), height, width, RAY_CHANNELS)
    for frame, camera, pose in zip(maps, pixels.float(), relative.float(), strict=True):
        frame[:] = _rays(camera, pose, height, width)
    return maps


def _rays(intrinsics: Tensor, pose: Tensor, height: int, width: int) -> Tensor:
    """Pluecker coordinates of one camera `[4, 4]`, intrinsics in pixels, `[height, width, 6]`."""
    fx, fy, cx, cy = intrinsics
    x = (torch.arange(width) + 0.5 - cx) / fx
    y = (torch.arange(height) + 0.5 - cy) / fy
    x, y = torch.meshgrid(x, y, indexing="xy")
    directions = F.normalize(torch.stack([x, y, torch.ones_like(x)], dim=-1), dim=-1) @ pose[:3, :3].T
    return torch.cat([torch.linalg.cross(pose[:3, 3].expand_as(directions), directions), directions], dim=-1)


def pack(maps: Tensor) -> Tensor:
    """Maps `[T, 6, H, W]` of 4n + 1 frames as WanCameraEmbedding lays them out, `[1, 24, F, H, W]`.

    Channel c * 4 + k of latent frame f is channel c of frame 4f - 3 + k; all four of latent frame 0 are frame 0.
    """
    embedding = maps.new_empty(RAY_CHANNELS, TIME_RATIO, 1 + len(maps) // TIME_RATIO, *maps.shape[2:])
    embedding[:, :, 0] = maps[0, :, None]
    if len(maps) > 1:
        embedding[:, :, 1:] = maps[1:].unflatten(0, (-1, TIME_RATIO)).permute(2, 1, 0, 3, 4)
    return embedding.flatten(0, 1)[None]


def unpack(embedding: Tensor) -> Tensor:
    """The maps `[T, 6, H, W]` in a camera embedding `[1, 24, F, H, W]`."""
    if embedding.ndim != 5 or embedding.shape[:2] != (1, EMBEDDING_CHANNELS):
        raise ValueError(
            f"A camera embedding of shape {list(embedding.shape)} can't be used; connect EasyAnimate Camera Path or "
            "WanCameraEmbedding."
        )
    frames = embedding[0].unflatten(0, (RAY_CHANNELS, TIME_RATIO)).permute(2, 1, 0, 3, 4)
    return frames.flatten(0, 1)[TIME_RATIO - 1 :]


def camera_latents(embedding: Tensor, latent: torch.Size) -> Tensor:
    """A camera embedding `[1, 24, F, H, W]` for latents of shape `[B, C, F, h, w]`: `[1, 6, F, h, w]`.

    As a mask is resized: frame 0 by itself, the rest with its neighbours in time. Raises `ValueError` for a path of
    another length or shape.
    """
    (count, height, width), (frames, rows, columns) = embedding.shape[-3:], latent[2:]
    if count != frames or abs(width / height * rows / columns - 1) > SAME_SHAPE:
        here, there = (
            f"{w}x{h} with {CAUSAL.frames_for(n)} frames"
            for w, h, n in ((width, height, count), (columns * SIDE_STEP // 2, rows * SIDE_STEP // 2, frames))
        )
        raise ValueError(
            f"The camera path is for a video of {here}, but the latent is for {there}; set the same width, height and "
            "length on both nodes."
        )
    maps = unpack(embedding).movedim(1, 0)[None]
    return resized_by_frame(maps, torch.Size((frames, rows, columns))) * STRENGTH
