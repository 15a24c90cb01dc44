"""LATENT <-> IMAGE, slice by slice."""

from comfy_api.latest import io

from ..easyanimate_models.host import chosen
from ..easyanimate_models.latent_formats import mark, require_channels, require_match, require_numbers
from ..easyanimate_models.vae.host_vae import SEAMS, HostVAE
from ..easyanimate_models.vae.tiling import Tiling
from ..easyanimate_models.vae.video_vae import SPACE_RATIO

CATEGORY = "EasyAnimate/latent"
TILE_INPUT = {
    "default": 384,
    "min": 0,
    "max": 4096,
    "step": 64,
    "tooltip": "Frames larger than this are worked on in tiles of this many pixels; smaller tiles take less memory, "
    "0 means whole frames.",
}


class EasyAnimateEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateEncode",
            display_name="EasyAnimate Encode",
            category=CATEGORY,
            description="A video as latents, slice by slice; lengths of 1, 8n and 8n + 1 (V3), 9n (V2) or any (V1) "
            "come back as they went in.",
            inputs=[
                io.Image.Input("images", tooltip="The frames of one clip."),
                io.Vae.Input("vae", tooltip="The EasyAnimate VAE."),
                io.Int.Input("tile_size", **TILE_INPUT),
            ],
            outputs=[io.Latent.Output(tooltip="The video as a latent, for the sampler.")],
        )

    @classmethod
    def execute(cls, images, vae, tile_size) -> io.NodeOutput:
        samples = require_slice_vae(vae).encode(images, tiling=tiling_of(tile_size))
        return io.NodeOutput(mark({"samples": samples}, vae.latent_format))


class EasyAnimateDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateDecode",
            display_name="EasyAnimate Decode",
            category=CATEGORY,
            description="Latents as frames, slice by slice, so that memory does not grow with the video's length.",
            inputs=[
                io.Latent.Input("latent", tooltip="What the sampler made."),
                io.Vae.Input("vae", tooltip="The EasyAnimate VAE."),
                io.Int.Input("tile_size", **TILE_INPUT),
                io.Combo.Input(
                    "seams",
                    options=list(SEAMS),
                    default=SEAMS[0],
                    optional=True,
                    tooltip="What to do about the jump every eight frames. original: nothing; overlap: slices are "
                    "cross-faded, which takes two decodes (V3); smooth: the original's smooth_output, which takes an "
                    "encode more and leaves more of the jump.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The frames, for Create Video: 24 a second (V2, V3) or 12 (V1).")],
        )

    @classmethod
    def execute(cls, latent, vae, tile_size, seams=SEAMS[0]) -> io.NodeOutput:
        require_match(latent, require_slice_vae(vae).latent_format, "VAE")
        require_channels(latent["samples"], vae.latent_format)
        require_numbers(latent["samples"])
        chosen("way to treat seams", seams, SEAMS)
        images = vae.decode(latent["samples"], tiling=tiling_of(tile_size), seams=seams)
        return io.NodeOutput(images.flatten(0, 1))


def require_slice_vae(vae) -> HostVAE:
    """Only our VAEs know slices; say so before anything is computed."""
    if not isinstance(vae, HostVAE):
        raise ValueError("This VAE is not an EasyAnimate VAE; load one with Load EasyAnimate VAE, or use VAE Decode.")
    return vae


def tiling_of(tile_size: int) -> Tiling | None:
    """Tiles of `tile_size` pixels with a quarter overlap, or none for 0."""
    side = tile_size // SPACE_RATIO
    return Tiling(side, side // 4) if side else None


NODES = [EasyAnimateEncode, EasyAnimateDecode]
