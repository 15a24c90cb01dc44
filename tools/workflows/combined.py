"""Workflows that add other models: upscalers, Stable Diffusion with ControlNet, PixArt's ControlNet."""

from .author import Stage, TinyRun, Workflow, node, note
from .blocks import (
    CLIP,
    FOURTH,
    LOADERS,
    conditioning,
    decode,
    empty,
    from_release,
    loaders,
    prompt,
    sampler,
    video,
    video_file,
)
from .files import CHECKPOINT, CONTROL_NET

UPSCALE_NOTE = """**Two ways to upscale a video, one after the other.** Bypass the one that you don't want.

*Latent*: the latent is enlarged and sampled again at a lower denoise, so that the model itself adds the detail. With \
the releases, keep denoise between 0.3 and 0.6: below that, edges stay soft; above it, the motion may change. Generate \
the first video at half the size that your release was trained on, then enlarge it to that size.

*Model*: an image upscaler processes each frame. Put 4x-UltraSharp.pth, or any other, into models/upscale_models.

As saved, the built-in tiny model generates 32 x 32 and enlarges it to the 64 x 64 it knows, at denoise 0.8. \
Select your release in the three loaders and set its sizes. The thumbnail shows the video after the latent upscale."""


def upscale() -> Workflow:
    return Workflow(
        name="18 Upscaling (EasyAnimate)",
        nodes={
            **loaders(),
            **prompt("a green square goes down on a black background"),
            **empty(32, 32),
            "sampler": sampler(),
            "larger": node("LatentUpscale", samples=["sampler", 0], upscale_method="bilinear", width=64, height=64),
            "second": sampler(latent=["larger", 0], seed=1, denoise=0.8),
            "decode": decode("second"),
            **video(prefix="easyanimate/upscale_latent"),
            "upscaler": node("UpscaleModelLoader", model_name="4x-UltraSharp.pth"),
            "upscaled": node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["decode", 0]),
            **video("upscaled", "easyanimate/upscale_model", suffix=" of the model"),
            "note": note(UPSCALE_NOTE),
        },
        stages=[
            LOADERS,
            Stage("2. Prompt and size", [["prompt", "empty"], ["note"]]),
            Stage("3. Generate a small video", [["sampler"]]),
            Stage("4. Upscale the latent", [["larger", "second", "decode"], ["video", "save"]]),
            Stage("5. Upscale the frames", [["upscaler", "upscaled", "video of the model"], ["save of the model"]]),
        ],
        titles={"second": "Second pass at lower denoise"},
        tiny=TinyRun({"save": (24, 64), "save of the model": (24, 256)}, shows=("green", "down")),
    )


REFINE_NOTE = """**Stable Diffusion redraws each frame, and ControlNet Tile keeps it close to the video.**

Files: a Stable Diffusion 1.5 checkpoint in models/checkpoints, and a ControlNet for it (tile, lineart or depth) in \
models/controlnet.

All frames are one batch with one seed. A denoise of 0.2 to 0.4 redraws textures and keeps the motion; higher values \
flicker, because Stable Diffusion does not know the previous frames.

As saved, the built-in tiny model makes the video. Select your release in the three loaders on the left and set its \
sizes. The thumbnail shows the frames *before* refining, because Stable Diffusion does not come with this pack."""


def _redraw() -> dict:
    """From `decode` to `refined`: every frame by Stable Diffusion, steered by ControlNet Tile."""
    return {
        "sd": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "tile": node("ControlNetLoader", control_net_name=CONTROL_NET),
        "positive": node("CLIPTextEncode", clip=["sd", 1], text="a glossy blue glass ball, studio photo, sharp focus"),
        "negative": node("CLIPTextEncode", clip=["sd", 1], text="blurry, noise, text, watermark"),
        "scaled": node("ImageScale", image=["decode", 0], upscale_method="lanczos", width=512, height=512),
        "steered": node(
            "ControlNetApplyAdvanced",
            **{"positive": ["positive", 0], "negative": ["negative", 0], "control_net": ["tile", 0]},
            **{"image": ["scaled", 0], "strength": 0.8, "vae": ["sd", 2]},
        ),
        "encoded": node("VAEEncode", pixels=["scaled", 0], vae=["sd", 2]),
        "redrawn": node(
            "KSampler",
            **{
                "model": ["sd", 0],
                "positive": ["steered", 0],
                "negative": ["steered", 1],
                "latent_image": ["encoded", 0],
            },
            **{"steps": 20, "cfg": 5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 0.35},
        ),
        "refined": node("VAEDecode", samples=["redrawn", 0], vae=["sd", 2]),
    }


def controlnet_refine() -> Workflow:
    return Workflow(
        name="19 Stable Diffusion ControlNet (EasyAnimate)",
        nodes={
            **loaders(),
            **prompt("a blue ball moves to the right on a black background"),
            **empty(),
            "sampler": sampler(),
            "decode": decode(),
            **_redraw(),
            **video("refined", "easyanimate/refined"),
            "note": note(REFINE_NOTE),
        },
        stages=[
            LOADERS,
            Stage("2. Prompt and size", [["prompt", "empty"]]),
            Stage("3. Generate the video", [["sampler", "decode", "scaled"]]),
            Stage(
                "4. Redraw each frame",
                [["sd", "tile", "note"], ["positive", "negative"], ["steered", "encoded"], ["redrawn"]],
            ),
            Stage("5. Save", [["refined", "video", "save"]]),
        ],
        titles={"positive": "Prompt for the frames", "negative": "Negative prompt for the frames"},
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={"scaled": {"width": 64, "height": 64}, "redrawn": {"steps": 1}},
        ),
    )


CONTROL_NOTE = """**A PixArt ControlNet guides every frame.** Put PixArt-XL-2-1024-ControlNet.pth into \
models/controlnet. It was made for PixArt and works on V1 to V3 to the extent that they still resemble PixArt; start \
with a strength of 0.5.

It was trained on soft edges (HED, white on black). Canny edges, which come with ComfyUI, work almost as well; a HED \
preprocessor from another pack works better. Connect the model's VAE, which encodes the edges.

The thumbnail shows the Canny edges of a procedurally generated video. The tests use a random ControlNet, whose output \
is not worth showing."""


def pixart_controlnet() -> Workflow:
    return Workflow(
        name="17 PixArt ControlNet (EasyAnimate V3)",
        nodes={
            **from_release(
                "a paper boat drifts down a stream, macro shot",
                positive=["steered", 0],
                negative=["steered", 1],
            ),
            **video_file(),
            "hint": node("Canny", image=["scaled", 0], low_threshold=0.2, high_threshold=0.5),
            "conditioning": conditioning(),
            "control": node("EasyAnimateLoadControlNet", control_net="PixArt-XL-2-1024-ControlNet.pth"),
            "steered": node(
                "ControlNetApplyAdvanced",
                **{"positive": ["conditioning", 0], "negative": ["conditioning", 1], "control_net": ["control", 0]},
                **{"image": ["hint", 0], "strength": 0.5, "end_percent": 0.6, "vae": ["vae", 0]},
            ),
            "note": note(CONTROL_NOTE),
        },
        stages=[
            LOADERS,
            Stage("2. Control video", [["clip_file", "parts", "scaled", "hint"]]),
            Stage("3. Prompt and ControlNet", [["prompt", "conditioning"], ["control", "steered", "note"]]),
            FOURTH,
        ],
        tiny=TinyRun({"save": (24, 64)}, inputs=CLIP, pictures=("hint",)),
    )
