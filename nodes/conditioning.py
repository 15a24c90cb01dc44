"""Images, masks and videos -> CONDITIONING (+ the LATENT that fits)."""

import comfy.model_management as mm
import node_helpers
import torch
from comfy_api.latest import io

from ..easyanimate_models.conditioning.inpainting import given_frames, inpaint_latents, mask_for
from ..easyanimate_models.latent_formats import mark
from ..easyanimate_models.vae.video_sizes import latent_size
from ..easyanimate_models.vae.video_vae import SPACE_RATIO
from .decoding import require_slice_vae
from .latents import size_inputs

CATEGORY = "EasyAnimate/conditioning"


def _shared_inputs() -> list:
    return [
        io.Conditioning.Input("positive", tooltip="What should be seen."),
        io.Conditioning.Input("negative", tooltip="What should not be seen."),
        io.Vae.Input("vae", tooltip="The EasyAnimate VAE."),
    ]


def _clip_vision_inputs() -> list:
    percent = {"min": 0.0, "max": 1.0, "step": 0.01, "optional": True}
    return [
        io.ClipVisionOutput.Input(
            "clip_vision_output",
            optional=True,
            tooltip="What CLIP ViT-L/14 sees in the start image (CLIP Vision Encode); it keeps the subject alike.",
        ),
        io.Float.Input(
            "clip_start_percent",
            default=0.5,
            tooltip="From which part of sampling on CLIP counts. V3 was released with 0.5, later code takes 0.6.",
            **percent,
        ),
        io.Float.Input("clip_end_percent", default=1.0, tooltip="Until which part of sampling CLIP counts.", **percent),
    ]


def _outputs() -> list:
    return [
        io.Conditioning.Output(display_name="positive", tooltip="The prompt, and what is given of the video."),
        io.Conditioning.Output(display_name="negative", tooltip="The negative, and what is given of the video."),
        io.Latent.Output(display_name="latent", tooltip="The latent that fits, for the sampler."),
        io.Int.Output(display_name="frames", tooltip="How many frames will come out."),
    ]


class EasyAnimateImageToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateImageToVideo",
            display_name="EasyAnimate Image to Video",
            category=CATEGORY,
            description="For inpainting (InP) transformers: a video that begins or ends with your images, or both; "
            "without images, video from text.",
            inputs=[
                *_shared_inputs(),
                *size_inputs(),
                io.Image.Input("start_image", optional=True, tooltip="The first frame, or the first few."),
                io.Image.Input("end_image", optional=True, tooltip="The last frame, or the last few."),
                *_clip_vision_inputs(),
            ],
            outputs=_outputs(),
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
    ) -> io.NodeOutput:
        require_slice_vae(vae)
        size = latent_size(width, height, length, vae.plan)
        frames = vae.plan.frames_for(size[0])
        video, mask = given_frames(frames, size[1] * SPACE_RATIO, size[2] * SPACE_RATIO, start_image, end_image)
        positive, negative = with_images(positive, negative, inpaint_latents(vae, video, mask))
        positive = with_clip_vision(positive, clip_vision_output, clip_start_percent, clip_end_percent)
        samples = torch.zeros([batch_size, vae.latent_channels, *size], device=mm.intermediate_device())
        return io.NodeOutput(positive, negative, mark({"samples": samples}, vae.latent_format), frames)


class EasyAnimateInpaintVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateInpaintVideo",
            display_name="EasyAnimate Inpaint Video",
            category=CATEGORY,
            description="Makes a masked region of a video anew; without a mask all of it, by the sampler's denoise. "
            "InP transformers see what is around the region, others are held to it at every step.",
            inputs=[
                *_shared_inputs(),
                io.Image.Input("video", tooltip="The frames of one clip."),
                io.Boolean.Input(
                    "noise_mask",
                    default=True,
                    tooltip="Hold what is outside of the mask to the original while sampling. Transformers that are "
                    "not InP need it.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is made anew: one mask for the whole video, or one a frame. Without one, all is.",
                ),
                *_clip_vision_inputs(),
            ],
            outputs=_outputs(),
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
        positive = with_clip_vision(positive, clip_vision_output, clip_start_percent, clip_end_percent)
        latent = mark({"samples": vae.encode(video)}, vae.latent_format)
        if hold:
            latent["noise_mask"] = mask[None, None]
        return io.NodeOutput(positive, negative, latent, vae.plan.frames_for(latent["samples"].shape[2]))


def with_images(positive: list, negative: list, latents: torch.Tensor) -> tuple[list, list]:
    """Both prompts with the same inpaint latents."""
    values = {"concat_latent_image": latents}
    return tuple(node_helpers.conditioning_set_values(c, values) for c in (positive, negative))


def with_clip_vision(conditioning: list, clip_vision_output, start: float, end: float) -> list:
    """Each entry of `conditioning` split in time: the CLIP output counts from `start` to `end`, fractions of a run."""
    if clip_vision_output is None:
        return conditioning
    if not start < end:
        raise ValueError(f"CLIP would count from {start} to {end}; clip_start_percent must be the smaller one.")
    parts = []
    for tokens, options in conditioning:
        first, last = options.get("start_percent", 0.0), options.get("end_percent", 1.0)
        spans = (
            (first, min(last, start), {}),
            (max(first, start), min(last, end), {"clip_vision_output": clip_vision_output}),
            (max(first, end), last, {}),
        )
        for a, b, value in spans:
            if a < b:
                parts.append([tokens, {**options, **value, "start_percent": a, "end_percent": b}])
    return parts


NODES = [EasyAnimateImageToVideo, EasyAnimateInpaintVideo]
