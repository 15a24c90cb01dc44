"""Size -> empty LATENT."""

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..easyanimate_models.latent_formats import mark
from ..easyanimate_models.supported_models import DEFAULT
from ..easyanimate_models.vae.video_sizes import LENGTH_STEP, SIDE_STEP, decoded_length, latent_size
from .decoding import require_slice_vae
from .schema import schema


def size_inputs() -> list:
    """Width, height, length and batch size of a video to be made."""
    side = {"min": SIDE_STEP, "max": 4096, "step": SIDE_STEP}
    pixels = (
        f"In pixels, a multiple of {SIDE_STEP}. Keep width times height near a size that the release was trained on: "
        "512x512, 768x768 or 960x960 for V3, up to 1280x1280 for V4, 512x512, 768x768 or 1024x1024 for V5 and V5.1; "
        "64 for the tiny model."
    )
    return [
        io.Int.Input("width", default=672, tooltip=pixels, **side),
        io.Int.Input("height", default=384, tooltip=pixels, **side),
        io.Int.Input(
            "length",
            default=72,
            min=1,
            max=4096,
            step=1,
            tooltip="In frames, at 8 fps (V5, V5.1), 24 fps (V2 to V4) or 12 fps (V1): 1 for an image, else 4n + 1 "
            f"(V5, V5.1, trained on 49), a multiple of {LENGTH_STEP} (V3, V4, trained on up to 144), a multiple of 9 "
            "(V2) or any number (V1). Others are rounded: see the frames output.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Videos per run; each needs its own memory."),
    ]


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
        )

    @classmethod
    def execute(cls, width, height, length, batch_size, vae=None) -> io.NodeOutput:
        latent_format, plan = DEFAULT.latent_format, DEFAULT.vae.plan
        if vae is not None:
            latent_format, plan = require_slice_vae(vae).latent_format, vae.plan
        size = latent_size(width, height, length, plan)
        latent = {
            "samples": torch.zeros([batch_size, latent_format.latent_channels, *size], device=mm.intermediate_device()),
            "downscale_ratio_spacial": latent_format.spacial_downscale_ratio,  # 0.33 reads these two
            "downscale_ratio_temporal": latent_format.temporal_downscale_ratio,
        }
        return io.NodeOutput(mark(latent, latent_format), decoded_length(length, plan))


NODES = [EasyAnimateEmptyLatent]
