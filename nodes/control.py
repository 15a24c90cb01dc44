"""Camera paths and trajectories -> what Control and Camera transformers follow."""

import comfy.model_management as mm
from comfy_api.latest import io

from ..easyanimate_models.conditioning.camera import POSE_SIZE, pack, plucker_maps, whole_frames
from ..easyanimate_models.conditioning.poses import parse_poses, resampled
from ..easyanimate_models.conditioning.trajectory import parse_tracks, trajectory_video
from ..easyanimate_models.host import show_text
from ..easyanimate_models.vae.video_sizes import SIDE_STEP

CATEGORY = "EasyAnimate/conditioning"


def _size_inputs() -> list:
    side = {"min": SIDE_STEP, "max": 4096, "step": SIDE_STEP}
    pixels = f"Of the video, in pixels, a multiple of {SIDE_STEP}."
    return [
        io.Int.Input("width", default=672, tooltip=pixels, **side),
        io.Int.Input("height", default=384, tooltip=pixels, **side),
        io.Int.Input(
            "length",
            default=49,
            min=1,
            max=4096,
            step=4,
            tooltip="In frames, 4n + 1, at 8 fps. Other lengths are shortened: see the length output.",
        ),
    ]


def _size_outputs() -> list:
    return [
        io.Int.Output(display_name="width", tooltip="Width of the video."),
        io.Int.Output(display_name="height", tooltip="Height of the video."),
        io.Int.Output(display_name="length", tooltip="Number of frames the video will have."),
    ]


class EasyAnimateCameraPath(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        width, height = POSE_SIZE
        pose_side = {"min": 1, "max": 16384, "optional": True}
        only_ratio = "Only the aspect ratio counts. RealEstate10K and CameraCtrl:"
        return io.Schema(
            node_id="EasyAnimateCameraPath",
            display_name="EasyAnimate Camera Path",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            description="For Camera transformers: a camera that moves as in a pose file. With fewer or more poses than "
            "frames, the whole path is fitted to the length.",
            inputs=[
                io.String.Input(
                    "poses",
                    multiline=True,
                    tooltip="A row for each pose: time, fx, fy, cx, cy, 0, 0 and the 12 numbers of its world-to-camera "
                    "matrix, as in RealEstate10K and CameraCtrl. Or the same as a JSON list.",
                ),
                *_size_inputs(),
                io.Int.Input(
                    "pose_width",
                    default=width,
                    tooltip=f"Width of the footage that the poses are of. {only_ratio} {width}.",
                    **pose_side,
                ),
                io.Int.Input(
                    "pose_height",
                    default=height,
                    tooltip=f"Height of the footage that the poses are of. {only_ratio} {height}.",
                    **pose_side,
                ),
            ],
            outputs=[
                io.WanCameraEmbedding.Output(
                    display_name="camera_embedding", tooltip="The camera's rays in every pixel of every frame."
                ),
                *_size_outputs(),
            ],
        )

    @classmethod
    def execute(cls, poses, width, height, length, pose_width=POSE_SIZE[0], pose_height=POSE_SIZE[1]) -> io.NodeOutput:
        path = parse_poses(poses)
        width, height, length = _whole_size(width, height, length)
        if len(path) != length:
            show_text(cls.hidden.unique_id, f"{len(path)} poses are interpolated to {length} frames.")
        maps = plucker_maps(resampled(path, length), height, width, pose_width / pose_height)
        return io.NodeOutput(pack(maps.movedim(-1, 1)).to(mm.intermediate_device()), width, height, length)


class EasyAnimateTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateTrajectory",
            display_name="EasyAnimate Trajectory",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            description="For Control transformers: a control video in which white spots move along your coordinates. "
            "With fewer or more points than frames, the whole track is fitted to the length.",
            inputs=[
                io.String.Input(
                    "coordinates",
                    multiline=True,
                    tooltip="A JSON list of points, x and y in pixels, such as [[100, 200], [600, 200]], or a list of "
                    "such lists to move several things. The output of KJNodes' Spline Editor fits.",
                ),
                *_size_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="control_video", tooltip="White spots on black, a picture per frame."),
                *_size_outputs(),
            ],
        )

    @classmethod
    def execute(cls, coordinates, width, height, length) -> io.NodeOutput:
        tracks = parse_tracks(coordinates)
        width, height, length = _whole_size(width, height, length)
        if counts := [str(len(track)) for track in tracks if len(track) != length]:
            show_text(cls.hidden.unique_id, f"{', '.join(counts)} points are interpolated to {length} frames.")
        video = trajectory_video(tracks, width, height, length)
        return io.NodeOutput(video.to(mm.intermediate_device()), width, height, length)


def _whole_size(width: int, height: int, length: int) -> tuple[int, int, int]:
    """The size in pixels and the length in frames that latents of V5.1 stand for, no more than asked for."""
    return width // SIDE_STEP * SIDE_STEP, height // SIDE_STEP * SIDE_STEP, whole_frames(length)


NODES = [EasyAnimateCameraPath, EasyAnimateTrajectory]
