"""Size -> empty LATENT."""

from dataclasses import replace

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..easyanimate_models.host import show_text
from ..easyanimate_models.latent_formats import mark
from ..easyanimate_models.supported_models import DEFAULT
from ..easyanimate_models.vae.video_sizes import LENGTH_STEP, SIDE_STEP, VideoDefaults, decoded_length, latent_size
from .decoding import require_slice_vae
from .schema import schema


def size_inputs() -> list:
    """Width, height, length and batch size of a video to be made."""
    side = {"default": 0, "min": 0, "max": 4096, "step": SIDE_STEP}
    pixels = (
        f"In pixels, a multiple of {SIDE_STEP}; 0: the model's own, as the VAE says. Keep width times height near "
        "a size that the release was trained on: 512x512, 768x768 or 960x960 for V3, up to 1280x1280 for V4, 512x512, "
        "768x768 or 1024x1024 for V5 and V5.1; 64 for the tiny model."
    )
    return [
        io.Int.Input("width", tooltip=pixels, **side),
        io.Int.Input("height", tooltip=pixels, **side),
        io.Int.Input(
            "length",
            default=0,
            min=0,
            max=4096,
            step=1,
            tooltip="In frames; 0: the model's own, as the VAE says. At 8 fps (V5, V5.1), 24 fps (V2 to V4) or 12 fps "
            f"(V1): 1 for an image, else 4n + 1 (V5, V5.1, trained on 49), a multiple of {LENGTH_STEP} (V3, V4, "
            "trained on up to 144), a multiple of 9 (V2) or any number (V1). Others are rounded: see the frames "
            "output.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Videos per run; each needs its own memory."),
    ]


def size_of(node: type[io.ComfyNode], video: VideoDefaults, width: int, height: int, length: int) -> VideoDefaults:
    """Size and length to make: for those that are 0 the model's own, which the node then shows."""
    size = replace(video, width=width or video.width, height=height or video.height, length=length or video.length)
    if 0 in (width, height, length) and node.hidden is not None:
        show_text(node.hidden.unique_id, f"The model's own: {size.width} x {size.height}, length {size.length}.")
    return size


class EasyAnimateEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateEmptyLatent",
            display_name="Empty EasyAnimate Latent",
            category="EasyAnimate/latent",
            description="An empty video latent for the sampler, and the frame count of the video.",
            inputs=[
                *size_inputs(),
                io.Vae.Input("vae", optional=True, tooltip="The EasyAnimate VAE. Without one, the latent is for V3."),
            ],
            outputs=[
                io.Latent.Output(tooltip="An empty latent, for the sampler."),
                io.Int.Output(display_name="frames", tooltip="Number of frames the video will have."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, width, height, length, batch_size, vae=None) -> io.NodeOutput:
        latent_format, plan, video = DEFAULT.latent_format, DEFAULT.vae.plan, DEFAULT.video
        if vae is not None:
            latent_format, plan, video = require_slice_vae(vae).latent_format, vae.plan, vae.video
        asked = size_of(cls, video, width, height, length)
        size = latent_size(asked.width, asked.height, asked.length, plan)
        latent = {
            "samples": torch.zeros([batch_size, latent_format.latent_channels, *size], device=mm.intermediate_device()),
            "downscale_ratio_spacial": latent_format.spacial_downscale_ratio,  # 0.33 reads these two
            "downscale_ratio_temporal": latent_format.temporal_downscale_ratio,
        }
        return io.NodeOutput(mark(latent, latent_format), decoded_length(asked.length, plan))


NODES = [EasyAnimateEmptyLatent]
