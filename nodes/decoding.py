"""LATENT <-> IMAGE, slice by slice."""

from comfy_api.latest import io

from ..easyanimate_models.host import require_choice, show_text
from ..easyanimate_models.latent_formats import mark, require_channels, require_match, require_numbers
from ..easyanimate_models.vae.host_vae import SEAMS, HostVAE
from ..easyanimate_models.vae.tiling import Tiling
from ..easyanimate_models.vae.video_sizes import length_note
from ..easyanimate_models.vae.video_vae import SPACE_RATIO
from .schema import schema

CATEGORY = "EasyAnimate/latent"
TILE_INPUT = {
    "default": 384,
    "min": 0,
    "max": 4096,
    "step": 64,
    "tooltip": "Larger frames are processed in tiles of this many pixels. Smaller tiles use less memory; 0 = no "
    "tiling.",
}


class EasyAnimateEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateEncode",
            display_name="EasyAnimate Encode",
            category=CATEGORY,
            description="Encodes a video into latents, slice by slice. Lengths of 1, 4n + 1 (V5, V5.1), 8n (V4), 8n "
            "and 8n + 1 (V3), 9n (V2) or any (V1) are preserved exactly; V5 and V5.1 leave out frames after 4n + 1.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of one clip."),
                io.Vae.Input("vae", tooltip="The EasyAnimate VAE."),
                io.Int.Input("tile_size", **TILE_INPUT),
            ],
            outputs=[io.Latent.Output(tooltip="The encoded video, for the sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images, vae, tile_size) -> io.NodeOutput:
        samples = require_slice_vae(vae).encode(images, tiling=tiling_of(tile_size))
        show_length(cls, len(images), vae)
        return io.NodeOutput(mark({"samples": samples}, vae.latent_format))


class EasyAnimateDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateDecode",
            display_name="EasyAnimate Decode",
            category=CATEGORY,
            description="Decodes latents into frames, slice by slice, so that memory use does not grow with the "
            "video's length.",
            inputs=[
                io.Latent.Input("latent", tooltip="The latent from the sampler."),
                io.Vae.Input("vae", tooltip="The EasyAnimate VAE."),
                io.Int.Input("tile_size", **TILE_INPUT),
                io.Combo.Input(
                    "seams",
                    options=list(SEAMS),
                    default=SEAMS[0],
                    optional=True,
                    tooltip="How to treat the jump every eight frames. original: leave it. overlap (V3): cross-fade "
                    "slices, which takes two decodes. smooth: the original's smooth_output, which takes an extra "
                    "encode and hides less of it. V1, V4, V5 and V5.1 have no jumps; all options are the same.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The frames, for Create Video."),
                io.Float.Output(
                    display_name="fps",
                    tooltip="The model's own frame rate, for Create Video: 24 (V2 to V4), 12 (V1 and the tiny model) "
                    "or 8 (V5, V5.1).",
                ),
            ],
        )

    @classmethod
    def execute(cls, latent, vae, tile_size, seams=SEAMS[0]) -> io.NodeOutput:
        require_match(latent, require_slice_vae(vae).latent_format, "VAE")
        require_channels(latent["samples"], vae.latent_format)
        require_numbers(latent["samples"])
        require_choice("seams option", seams, SEAMS)
        images = vae.decode(latent["samples"], tiling=tiling_of(tile_size), seams=seams)
        return io.NodeOutput(images.flatten(0, 1), vae.video.fps)


def require_slice_vae(vae) -> HostVAE:
    """Only our VAEs know slices; say so before anything is computed."""
    if not isinstance(vae, HostVAE):
        raise ValueError(
            "This VAE is not an EasyAnimate VAE; load one with Load EasyAnimate VAE, or use the stock VAE nodes."
        )
    return vae


def show_length(node: type[io.ComfyNode], frames: int, vae: HostVAE) -> None:
    """Say below the node what becomes of a clip of so many frames, where its length changes."""
    note = length_note(frames, vae.plan)
    if note is not None and node.hidden is not None:
        show_text(node.hidden.unique_id, note)


def tiling_of(tile_size: int) -> Tiling | None:
    """Tiles of `tile_size` pixels with a quarter overlap, or none for 0."""
    side = tile_size // SPACE_RATIO
    return Tiling(side, side // 4) if side else None


NODES = [EasyAnimateEncode, EasyAnimateDecode]
