"""Control videos, camera paths and trajectories -> what Control and Camera transformers follow."""

import comfy.model_management as mm
import node_helpers
import torch
from comfy_api.latest import io

from ..easyanimate_models.conditioning.camera import POSE_SIZE, pack, plucker_maps
from ..easyanimate_models.conditioning.control import ControlInputs, control_latents
from ..easyanimate_models.conditioning.poses import parse_poses, resampled
from ..easyanimate_models.conditioning.trajectory import parse_tracks, trajectory_video
from ..easyanimate_models.host import show_text, show_warnings
from ..easyanimate_models.latent_formats import mark
from ..easyanimate_models.vae.slicing import CAUSAL
from ..easyanimate_models.vae.video_sizes import SIDE_STEP, latent_size
from .conditioning import CATEGORY, outputs, shared_inputs
from .decoding import require_slice_vae
from .latents import size_inputs, size_of
from .schema import schema


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


class EasyAnimateControlToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateControlToVideo",
            display_name="EasyAnimate Control to Video",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            description="For Control and Camera transformers (V5.1, V5): makes a video that follows a control video "
            "(edges, depth, poses, a trajectory) or a camera's path.",
            inputs=[
                *shared_inputs(),
                *size_inputs(),
                io.Image.Input(
                    "control_video",
                    optional=True,
                    tooltip="Edges, depth maps, poses or a trajectory, a picture per frame, for Control transformers.",
                ),
                io.WanCameraEmbedding.Input(
                    "camera_conditions",
                    optional=True,
                    tooltip="From WanCameraEmbedding or EasyAnimate Camera Path, for Camera transformers.",
                ),
                io.Image.Input(
                    "ref_image",
                    optional=True,
                    tooltip="What the video should look like; it becomes the first frame or resembles it. V5.1 only.",
                ),
            ],
            outputs=outputs(),
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        vae,
        width,
        height,
        length,
        batch_size,
        control_video=None,
        camera_conditions=None,
        ref_image=None,
    ) -> io.NodeOutput:
        variant = _control_variant(require_slice_vae(vae))
        if ref_image is not None and not variant.with_reference:
            raise ValueError("The Control transformer of V5 takes no reference image; remove ref_image.")
        if control_video is not None and camera_conditions is not None:
            raise ValueError(
                "A control video and a camera belong to different transformers; connect either control_video (Control) "
                "or camera_conditions (Camera)."
            )
        asked = size_of(cls, vae.video, width, height, length)
        size = latent_size(asked.width, asked.height, asked.length, vae.plan)
        latents = control_latents(vae, size, control_video, ref_image)
        values = {"concat_latent_image": latents}
        if camera_conditions is not None:
            values["camera_conditions"] = camera_conditions
        positive, negative = (node_helpers.conditioning_set_values(c, values) for c in (positive, negative))
        frames = vae.plan.frames_for(size[0])
        notes = _notes(frames, control_video, ref_image)
        if notes:
            show_warnings(cls.hidden.unique_id, notes)
        samples = torch.zeros([batch_size, vae.latent_channels, *size], device=mm.intermediate_device())
        return io.NodeOutput(positive, negative, mark({"samples": samples}, vae.latent_format), frames)


class EasyAnimateCameraPath(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        width, height = POSE_SIZE
        pose_side = {"min": 1, "max": 16384, "optional": True}
        return schema(
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
                    tooltip="Width of the footage that the poses are of; only the aspect ratio counts.",
                    **pose_side,
                ),
                io.Int.Input(
                    "pose_height",
                    default=height,
                    tooltip="Height of the footage that the poses are of; only the aspect ratio counts.",
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
        return schema(
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
    return width // SIDE_STEP * SIDE_STEP, height // SIDE_STEP * SIDE_STEP, CAUSAL.crop(length)


def _control_variant(vae) -> ControlInputs:
    """How Control transformers of this VAE's release are given their inputs."""
    for variant in vae.variants:
        if isinstance(variant, ControlInputs):
            return variant
    raise ValueError(
        f"Control transformers are of V5.1 or V5, but the VAE is that of {vae.latent_format.release}; load the VAE of "
        "the transformer's release."
    )


def _notes(frames: int, control_video, ref_image) -> list[str]:
    """What of the inputs is not used."""
    notes = []
    given = frames if control_video is None else len(control_video)
    if given > frames:
        notes.append(f"The last {given - frames} frames of the control video are left out: the video has {frames}.")
    if given < frames:
        notes.append(f"The control video has {given} frames; what comes after them in the {frames} is not controlled.")
    if ref_image is not None and len(ref_image) > 1:
        notes.append("Only the first image of ref_image is used.")
    if ref_image is not None and frames == 1:
        notes.append("ref_image is left out: Control transformers know a reference in videos only, and length is 1.")
    return notes


NODES = [EasyAnimateControlToVideo, EasyAnimateCameraPath, EasyAnimateTrajectory]
