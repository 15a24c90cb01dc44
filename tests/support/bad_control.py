"""What users write into camera paths and trajectories, and the error."""

from tools.workflows.author import node

from .bad_graphs import OURS_ONLY, SD, Row, other

CAMERA, TRAJECTORY, TO_VIDEO = "EasyAnimateCameraPath", "EasyAnimateTrajectory", "EasyAnimateControlToVideo"
POSE = "0 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"


def path(poses: str, **inputs) -> dict:
    """The good graph in a size that comes out of a camera path."""
    size = {"width": 64, "height": 64, "length": 9}
    return {"path": node(CAMERA, **({"poses": poses} | size | inputs)), **other("empty", width=["path", 1])}


def track(coordinates: str, **inputs) -> dict:
    """The good graph in a size that comes out of a trajectory."""
    size = {"width": 64, "height": 64, "length": 9}
    spots = node(TRAJECTORY, **({"coordinates": coordinates} | size | inputs))
    return {"track": spots, **other("empty", width=["track", 1])}


def controlled_video(**inputs) -> dict:
    """The good graph with EasyAnimate Control to Video in it."""
    size = {"width": 64, "height": 64, "length": 9, "batch_size": 1}
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0]}
    between = node(TO_VIDEO, **(wired | size | inputs))
    return {"given": between, **other("sampler", positive=["given", 0], negative=["given", 1], latent=["given", 2])}


CONTROL = (
    Row("control for V3", TO_VIDEO, "^Control transformers are of V5.1 or V5, but .* of V3", controlled_video()),
    Row(
        "a VAE of another family",
        TO_VIDEO,
        OURS_ONLY,
        {**SD, **controlled_video(vae=["sd", 2])},
    ),
    Row("a negative length", TO_VIDEO, "length", controlled_video(length=-1), by="host"),
    Row("no poses", CAMERA, "^There are no poses; paste the text", path("")),
    Row("half a pose", CAMERA, "^Pose 2 has 12 numbers, but a row has 19", path(f"{POSE}\n{POSE[:31]}")),
    Row(
        "a word in a pose", CAMERA, "^Pose 1, column 2 is 'wide'; write a number", path(POSE.replace("0.5", "wide", 1))
    ),
    Row(
        "poses in pixels", CAMERA, "^Pose 1, column 4 is 320.*, not in pixels", path(POSE.replace("0.9 0.5", "0.9 320"))
    ),
    Row("poses in broken JSON", CAMERA, r"^The poses are not valid JSON \(.* column 7\); correct", path("[[0, 1")),
    Row("poses of no footage", CAMERA, "pose_height", path(POSE, pose_height=0), by="host"),
    Row("no coordinates", TRAJECTORY, "^There are no coordinates; write a list", track("[]")),
    Row("coordinates in words", TRAJECTORY, "^The coordinates are not valid JSON", track("from left to right")),
    Row("a point of three", TRAJECTORY, r"^Point 2 of track 1 is \[1, 2, 3\]", track("[[1, 2], [1, 2, 3]]")),
    Row("points outside", TRAJECTORY, "^No point comes into the picture of 64x64", track("[[900, 9], [950, 9]]")),
    Row(
        "points as fractions", TRAJECTORY, "^All points lie in the corner; give .* 64x64", track("[[0, 0.5], [1, 0.5]]")
    ),
)
