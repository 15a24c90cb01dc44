"""The camera of a scene as a Camera transformer is given it: the rays of its path."""

import torch
from torch import Tensor

from ...conditioning.camera import RAY_CHANNELS, camera_latents, pack, plucker_maps
from ...conditioning.poses import CameraPath
from .scene_clips import PAN, ZOOM

ASIDE, AHEAD = 1.44, 2.88  # how far WanCameraEmbedding moves in 25 frames at speed 1, which is to be a usual camera
INTRINSICS, ASPECT = (0.5, 0.5, 0.5, 0.5), 16 / 9  # of WanCameraEmbedding


def camera_path(camera: Tensor) -> CameraPath:
    """A path from pan and zoom by frame, `[T, 2]`."""
    pan, zoom = camera.double().unbind(-1)
    usual_pan, usual_zoom = sum(PAN) / 2, sum(ZOOM) / 2
    poses = torch.eye(4, dtype=torch.float64).repeat(len(camera), 1, 1)
    poses[:, 0, 3] = ASIDE * (pan - pan[0]) / usual_pan
    poses[:, 2, 3] = AHEAD * (1 - 1 / zoom) / (1 - 1 / usual_zoom)
    return CameraPath(torch.arange(len(camera)).double(), poses.new_tensor(INTRINSICS).repeat(len(camera), 1), poses)


def camera_rays(camera: Tensor, size: torch.Size) -> Tensor:
    """The rays of the same, for latents of a size `(F, h, w)`, `[6, F, h, w]`.

    They are those of the middle of each latent pixel, to which whole maps would be resized.
    """
    maps = plucker_maps(camera_path(camera), size[1], size[2], ASPECT).movedim(-1, 1)
    return camera_latents(pack(maps), torch.Size((1, RAY_CHANNELS, *size)))[0]
