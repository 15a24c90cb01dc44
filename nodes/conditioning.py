"""Images, masks and videos -> CONDITIONING (+ the LATENT that fits)."""

import comfy.model_management as mm
import node_helpers
import torch
from comfy_api.latest import io

from ..easyanimate_models.conditioning.inpainting import (
    NOISE_AUGMENTATION,
    given_frames,
    inpaint_latents,
    mask_for,
)
from ..easyanimate_models.host import show_warnings
from ..easyanimate_models.latent_formats import mark
from ..easyanimate_models.vae.masks import latent_mask
from ..easyanimate_models.vae.video_sizes import latent_size, shortest_video
from ..easyanimate_models.vae.video_vae import SPACE_RATIO
from .decoding import require_slice_vae, show_length
from .latents import size_inputs, size_of
from .schema import schema

CATEGORY = "EasyAnimate/conditioning"
BORDER = 1e-5  # of a run; spans of conditioning include both of their ends


def shared_inputs() -> list:
    """The prompts and the VAE."""
    return [
        io.Conditioning.Input("positive", tooltip="Positive conditioning."),
        io.Conditioning.Input("negative", tooltip="Negative conditioning."),
        io.Vae.Input("vae", tooltip="The EasyAnimate VAE."),
    ]


def _clip_vision_inputs() -> list:
    percent = {"min": 0.0, "max": 1.0, "step": 0.01, "optional": True}
    return [
        io.ClipVisionOutput.Input(
            "clip_vision_output",
            optional=True,
            tooltip="V3 and V4 only: CLIP ViT-L/14's view of the start image, from CLIP Vision Encode. Keeps the "
            "subject consistent.",
        ),
        io.Float.Input(
            "clip_start_percent",
            default=0.5,
            tooltip="When CLIP starts, as a fraction of sampling. V3 was released with 0.5, V4 with 0.6.",
            **percent,
        ),
        io.Float.Input(
            "clip_end_percent", default=1.0, tooltip="When CLIP stops, as a fraction of sampling.", **percent
        ),
    ]


def outputs() -> list:
    """Both prompts with what they were given, the latent that fits, and its number of frames."""
    return [
        io.Conditioning.Output(
            display_name="positive", tooltip="Positive conditioning with the given frames attached."
        ),
        io.Conditioning.Output(
            display_name="negative", tooltip="Negative conditioning with the given frames attached."
        ),
        io.Latent.Output(display_name="latent", tooltip="The matching latent, for the sampler."),
        io.Int.Output(display_name="frames", tooltip="Number of frames the video will have."),
    ]


class EasyAnimateImageToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateImageToVideo",
            display_name="EasyAnimate Image to Video",
            category=CATEGORY,
            description="For inpainting (InP) transformers: makes a video that starts or ends with your images, or "
            "both. Without images: text to video.",
            inputs=[
                *shared_inputs(),
                *size_inputs(),
                io.Image.Input("start_image", optional=True, tooltip="The first frame, or the first few as a batch."),
                io.Image.Input("end_image", optional=True, tooltip="The last frame, or the last few as a batch."),
                *_clip_vision_inputs(),
                io.Float.Input(
                    "noise_augmentation",
                    default=NOISE_AUGMENTATION,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    optional=True,
                    tooltip="V5 and V5.1: noise on the images given, as in training. More gives freer motion and less "
                    "likeness; 0 = none.",
                ),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
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
        start_image=None,
        end_image=None,
        clip_vision_output=None,
        clip_start_percent=0.5,
        clip_end_percent=1.0,
        noise_augmentation=NOISE_AUGMENTATION,
    ) -> io.NodeOutput:
        asked = size_of(cls, require_slice_vae(vae).video, width, height, length)
        size = latent_size(asked.width, asked.height, asked.length, vae.plan)
        frames = vae.plan.frames_for(size[0])
        if end_image is not None and frames == 1:
            raise ValueError(
                f"An end image needs a video to end, and a length of {asked.length} is one frame; set length to "
                f"at least {shortest_video(vae.plan)}, or connect it as the start image."
            )
        video, mask = given_frames(frames, size[1] * SPACE_RATIO, size[2] * SPACE_RATIO, start_image, end_image)
        latents = inpaint_latents(vae, video, mask, noise_augmentation)
        positive, negative = with_images(positive, negative, latents)
        clip_vision_output = _used_clip_vision(cls, vae, clip_vision_output, noise_augmentation)
        positive = with_clip_vision(positive, clip_vision_output, clip_start_percent, clip_end_percent)
        samples = torch.zeros([batch_size, vae.latent_channels, *size], device=mm.intermediate_device())
        return io.NodeOutput(positive, negative, mark({"samples": samples}, vae.latent_format), frames)


class EasyAnimateInpaintVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateInpaintVideo",
            display_name="EasyAnimate Inpaint Video",
            category=CATEGORY,
            description="Regenerates the masked region of a video; without a mask, the whole video, depending on "
            "denoise. InP transformers see the area around the mask; others are held to the original there at every "
            "step.",
            inputs=[
                *shared_inputs(),
                io.Image.Input("video", tooltip="The frames of one clip."),
                io.Boolean.Input(
                    "noise_mask",
                    default=True,
                    tooltip="Keeps everything outside the mask as in the original while sampling. Required for "
                    "transformers that are not InP.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White areas are regenerated. One mask for the whole video, or one per frame. No mask: "
                    "everything.",
                ),
                *_clip_vision_inputs(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        vae,
        video,
        noise_mask,
        mask=None,
        clip_vision_output=None,
        clip_start_percent=0.5,
        clip_end_percent=1.0,
    ) -> io.NodeOutput:
        require_slice_vae(vae)
        hold, mask = noise_mask and mask is not None, mask_for(mask, *video.shape[:3])
        positive, negative = with_images(positive, negative, inpaint_latents(vae, video[..., :3].cpu(), mask))
        clip_vision_output = _used_clip_vision(cls, vae, clip_vision_output)
        positive = with_clip_vision(positive, clip_vision_output, clip_start_percent, clip_end_percent)
        latent = mark({"samples": vae.encode(video)}, vae.latent_format)
        if hold:
            latent["noise_mask"] = latent_mask(mask, vae.plan, latent["samples"].shape)
        show_length(cls, len(video), vae)
        return io.NodeOutput(positive, negative, latent, vae.plan.frames_for(latent["samples"].shape[2]))


def with_images(positive: list, negative: list, latents: torch.Tensor) -> tuple[list, list]:
    """Both prompts with the same inpaint latents."""
    values = {"concat_latent_image": latents}
    return tuple(node_helpers.conditioning_set_values(c, values) for c in (positive, negative))


def _used_clip_vision(node: type[io.ComfyNode], vae, clip_vision_output, noise_augmentation=NOISE_AUGMENTATION):
    """The CLIP output, if the VAE's release uses it; which of these inputs it does not use is said below the node."""
    release, notes = vae.latent_format.release, []
    if clip_vision_output is not None and not vae.inpainting.sees_through_clip:
        notes.append(f"clip_vision_output is left out: {release} sees the images themselves, and none through CLIP.")
    if noise_augmentation != NOISE_AUGMENTATION and not vae.inpainting.with_noise:
        notes.append(f"noise_augmentation is left out: {release} was trained without noise on the images given.")
    if notes and node.hidden is not None:
        show_warnings(node.hidden.unique_id, notes)
    return clip_vision_output if vae.inpainting.sees_through_clip else None


def with_clip_vision(conditioning: list, clip_vision_output, start: float, end: float) -> list:
    """Each entry of `conditioning` split in time: the CLIP output counts from `start` to `end`, fractions of a run."""
    if clip_vision_output is None:
        return conditioning
    if not start < end:
        raise ValueError(f"clip_start_percent ({start}) must be below clip_end_percent ({end}).")
    parts = []
    for tokens, options in conditioning:
        first, last = options.get("start_percent", 0.0), options.get("end_percent", 1.0)
        spans = (
            (first, min(last, start), {}),
            (_after(first, start), min(last, end), {"clip_vision_output": clip_vision_output}),
            (_after(first, end), last, {}),
        )
        for a, b, value in spans:
            if a < b:
                parts.append([tokens, {**options, **value, "start_percent": a, "end_percent": b}])
    return parts


def _after(first: float, border: float) -> float:
    """Where a span begins that follows another: a step at the border itself belongs to the one before."""
    return first if first >= border else border + BORDER


NODES = [EasyAnimateImageToVideo, EasyAnimateInpaintVideo]
