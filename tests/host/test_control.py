"""Camera paths and trajectories on the real server, wired to stock nodes."""

import pytest

from support.prompts import encode, loaders
from support.videos import read_pictures
from tools.workflows import client
from tools.workflows.author import node

SIZE = {"width": 64, "height": 64, "length": 12}  # cut to 9 frames
POSE = "{} 0.5 0.9 0.5 0.5 0 0 1 0 0 {} 0 1 0 0 0 0 1 0"


def test_a_trajectory_is_a_picture_per_frame(server):
    track = node("EasyAnimateTrajectory", coordinates="[[10, 32], [50, 32]]", **SIZE)
    save = node("SaveImage", images=["track", 0], filename_prefix="tests/trajectory")
    pictures = read_pictures(client.run(server, {"track": track, "save": save}))
    assert pictures.shape == (9, 64, 64, 3)
    places = [int(picture[..., 0].sum(0).argmax()) for picture in pictures]
    assert places == pytest.approx(list(range(10, 51, 5)), abs=1)


def test_a_stock_camera_node_takes_a_camera_path(server):
    nodes = loaders() | {"prompt": encode()}
    nodes["path"] = node("EasyAnimateCameraPath", poses="\n".join(POSE.format(n, n / 10) for n in range(3)), **SIZE)
    size = {name: ["path", output] for output, name in enumerate(SIZE, 1)} | {"batch_size": 1}
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0], "camera_conditions": ["path", 0]}
    nodes["camera"] = node("WanCameraImageToVideo", **wired, **size)
    nodes["save"] = node("SaveLatent", samples=["camera", 2], filename_prefix="tests/camera")
    assert client.run(server, nodes)["save"]["latents"]
