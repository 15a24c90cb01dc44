"""Camera maps, compared with those that the original makes of the same poses, and with what its network was given."""

import json

import torch

from support.pack import part
from support.recorded import RECORDED, config_of, each, recorded, shapes_of

poses = part("easyanimate_models.conditioning.poses")
camera = part("easyanimate_models.conditioning.camera")
PATHS, RUNS = "inputs.pose_rows", "inputs.control_camera_video"
GIVEN = "inputs_to_model.call0.control_latents"  # the camera's channels come first


def holding(*tensors: str) -> list[str]:
    """Recordings, of any kind, that hold these tensors."""
    files = sorted(file.relative_to(RECORDED).with_suffix("") for file in RECORDED.glob("*/*.safetensors"))
    return [name.as_posix() for name in files if set(tensors) <= shapes_of(name.as_posix()).keys()]


@each("name", holding(PATHS))
def test_maps_of_recorded_poses(agree, name):
    config, theirs = config_of(name), recorded(name).tensors["outputs.plucker_fhwc"]
    path = poses.parse_poses(json.dumps(recorded(name).tensors[PATHS].tolist()))
    aspect = config["original_pose_width"] / config["original_pose_height"]
    ours = camera.plucker_maps(path, config["height"], config["width"], aspect)
    agree(name, None, "maps", ours, theirs)
    assert (ours - theirs).abs().max() <= 1e-5


@each("name", holding(RUNS, GIVEN))
def test_what_the_network_is_given(agree, name):
    maps, theirs = recorded(name).tensors[RUNS], recorded(name).tensors[GIVEN]
    ours = camera.camera_latents(camera.pack(maps[0].transpose(0, 1)), theirs.shape)
    agree(name, None, "latents", ours, theirs[:1, : ours.shape[1]])
    assert torch.equal(theirs[0, : ours.shape[1]], theirs[1, : ours.shape[1]])
