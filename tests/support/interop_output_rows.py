"""The rows of the matrix that come after sampling: upscaling and saving."""

import torch
from PIL import Image, ImageSequence

from tools.workflows.author import node

from .interop import sampler
from .interop_rows import NONE, UPSCALER, row
from .prompts import decode
from .stand_ins import UPSCALE, stand_in
from .videos import pixels, read_video


@row("LatentUpscale, second KSampler")
def _(bench):
    small = bench.empty(width=32, height=32)
    larger = node("LatentUpscale", samples=["first", 0], upscale_method="bilinear", width=64, height=64)
    second = sampler(latent_image=["larger", 0], denoise=0.6, seed=2)
    bench.assert_shows(bench.frames(empty=small, first=sampler(), larger=larger, sampler=second))


@row("ImageUpscaleWithModel")
def _(bench):
    loaded = node("UpscaleModelLoader", model_name=stand_in(UPSCALER))
    upscaled = node("ImageUpscaleWithModel", upscale_model=["loaded", 0], image=["small", 0])
    small = decode()
    bench.assert_shows(bench.frames(small=small, loaded=loaded, decode=upscaled), side=64 * UPSCALE)


@row("CreateVideo, SaveVideo", videos=NONE)
def _(bench):
    (file,) = bench.run("images", film(bench) | {"save": save_video()})
    bench.assert_shows(read_video(file))


@row("SaveAnimatedWEBP", videos=NONE)
def _(bench):
    chosen = {"filename_prefix": "tests/video", "fps": 12.0, "lossless": True, "quality": 100, "method": "fastest"}
    (file,) = bench.run("images", film(bench) | {"save": node("SaveAnimatedWEBP", images=["decode", 0], **chosen)})
    with Image.open(file) as pictures:
        frames = torch.stack([pixels(frame) for frame in ImageSequence.Iterator(pictures)])
    assert (frames - bench.plain_frames).abs().max() < 2 / 255


def film(bench) -> dict:
    return {
        **bench.graph(),
        "decode": decode(),
        "video": node("CreateVideo", images=["decode", 0], fps=12.0),
    }


def save_video() -> dict:
    return node("SaveVideo", video=["video", 0], filename_prefix="tests/video", format="mp4", codec="h264")
