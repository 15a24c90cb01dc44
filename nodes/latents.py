"""Size -> empty LATENT."""

import comfy.model_management as mm
import torch
from comfy_api.latest import io

from ..easyanimate_models.latent_formats import SliceLatents
from ..easyanimate_models.video_sizes import LENGTH_STEP, SIDE_STEP, decoded_length, latent_size


class EasyAnimateEmptyLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        side = {"min": SIDE_STEP, "max": 4096, "step": SIDE_STEP}
        return io.Schema(
            node_id="EasyAnimateEmptyLatent",
            display_name="Empty EasyAnimate Latent",
            category="EasyAnimate/latent",
            description="An empty video to be sampled, and how many frames it will have.",
            inputs=[
                io.Int.Input("width", default=672, tooltip="In pixels.", **side),
                io.Int.Input("height", default=384, tooltip="In pixels.", **side),
                io.Int.Input(
                    "length",
                    default=72,
                    min=1,
                    max=4096,
                    step=1,
                    tooltip=f"In frames, at 24 a second: 1 for an image, else a multiple of {LENGTH_STEP}. "
                    "Other numbers come out as the frames output says.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many videos at once."),
            ],
            outputs=[io.Latent.Output(), io.Int.Output(display_name="frames")],
        )

    @classmethod
    def execute(cls, width, height, length, batch_size) -> io.NodeOutput:
        size = latent_size(width, height, length)
        samples = torch.zeros([batch_size, SliceLatents.latent_channels, *size], device=mm.intermediate_device())
        latent = {
            "samples": samples,
            "downscale_ratio_spacial": SliceLatents.spacial_downscale_ratio,  # 0.33 reads these two
            "downscale_ratio_temporal": SliceLatents.temporal_downscale_ratio,
        }
        return io.NodeOutput(latent, decoded_length(length))


NODES = [EasyAnimateEmptyLatent]
