"""Nodes that most of the workflows share, under the same names."""

from .author import Stage, node
from .files import V3, ModelFiles

BUILT_IN, BUILT_IN_INP = "built-in tiny model", "built-in tiny InP model"
BUILT_IN_LORA = "built-in tiny LoRA (grey background)"
NEGATIVE = "low resolution, blurry, deformed, distorted, shaking camera, strange motion, watermark"
PROMPT = "a red ball moves to the left on a black background"
LOADERS = Stage("1. Load", [["model", "clip", "vae"]])
PROMPT_AND_SIZE = "2. Prompt and size"
SOURCE_VIDEO = Stage("2. Input video", [["clip_file", "parts", "scaled"]])
MAKE, FOURTH = (
    Stage(f"{number}. Generate the video", [["sampler"], ["decode", "video"], ["save"]]) for number in (3, 4)
)


def loaders(model: str = BUILT_IN, clip: str = BUILT_IN, vae: str = BUILT_IN) -> dict:
    """`model`, `clip` and `vae`."""
    return {
        "model": node("EasyAnimateLoadTransformer", transformer=model, weight_dtype="default"),
        "clip": node("EasyAnimateLoadTextEncoder", text_encoder=clip),
        "vae": node("EasyAnimateLoadVAE", vae=vae),
    }


def built_in(transformer: str = BUILT_IN_INP, text: str = PROMPT, **inputs: dict) -> dict[str, dict]:
    """Inputs of a thumbnail: the built-in models in place of V5.1 or V4, their settings, a prompt that they know."""
    models: dict[str, dict] = {
        "model": {"transformer": transformer},
        "clip": {"text_encoder": BUILT_IN},
        "vae": {"vae": BUILT_IN},
    }
    settings: dict = {"steps": 25, "cfg": 2.5 if transformer == BUILT_IN else 2.0}
    return {**models, "prompt": {"positive": text, "negative": ""}, "sampler": settings, **inputs}


def prompt(positive: str = PROMPT, negative: str = "") -> dict:
    """`prompt`, from `clip`."""
    return {"prompt": node("EasyAnimateEncodePrompt", clip=["clip", 0], positive=positive, negative=negative)}


def empty(width: int = 64, height: int = 64, length: int = 24) -> dict:
    """`empty`: the latent that `sampler` starts from."""
    return {"empty": node("EasyAnimateEmptyLatent", width=width, height=height, length=length)}


def sampler(**changed) -> dict:
    """An EasyAnimateSampler on `model`, `prompt` and `empty`; `changed` are other inputs."""
    wired = {"model": ["model", 0], "positive": ["prompt", 0], "negative": ["prompt", 1], "latent": ["empty", 0]}
    chosen = {"seed": 1, "steps": 25, "cfg": 2.5, "sampler": "euler", "scheduler": "easyanimate"}
    return node("EasyAnimateSampler", **(wired | chosen | changed))


def decode(latent: str = "sampler", **changed) -> dict:
    """The frames of a latent; `changed` are other inputs."""
    return node("EasyAnimateDecode", latent=[latent, 0], vae=["vae", 0], **changed)


def video(images: str = "decode", prefix: str = "easyanimate/video", suffix: str = "") -> dict:
    """`video` and `save` (with `suffix` in their names), from the frames that the node `images` outputs.

    The frame rate is the model's own, which `decode` says.
    """
    return {
        f"video{suffix}": node("CreateVideo", images=[images, 0], fps=["decode", 1]),
        f"save{suffix}": node("SaveVideo", video=[f"video{suffix}", 0], filename_prefix=prefix),
    }


def from_release(text: str, clip: list | None = None, files: ModelFiles = V3, **sampling) -> dict:
    """What workflows of V3 (or of `files`) share, from loaders to the saved video; the caller adds `conditioning`."""
    wired = {"positive": ["conditioning", 0], "negative": ["conditioning", 1], "latent": ["conditioning", 2], "cfg": 7}
    texts = prompt(text, NEGATIVE)
    texts["prompt"]["inputs"]["clip"] = clip or ["clip", 0]
    return {
        **loaders(files.transformer, files.text_encoder, files.vae),
        **texts,
        "sampler": sampler(**(wired | sampling)),
        "decode": decode(seams="overlap"),
        **video(),
    }


def conditioning(**changed) -> dict:
    """An EasyAnimateImageToVideo in the size of the 512 release; `changed` are images and other inputs."""
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0]}
    return node("EasyAnimateImageToVideo", **wired, **{"width": 672, "height": 384, "length": 72, **changed})


def inpainting(**inputs) -> dict:
    """An EasyAnimateInpaintVideo of the video `scaled`; `inputs` are a mask and others."""
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0], "video": ["scaled", 0]}
    return node("EasyAnimateInpaintVideo", **wired, **inputs)


def clip_vision(image: str, files: ModelFiles = V3) -> dict:
    """`vision`: what CLIP makes of the image that the node `image` loads."""
    return {
        "encoder": node("EasyAnimateLoadImageEncoder", image_encoder=files.image_encoder),
        "vision": node("CLIPVisionEncode", clip_vision=["encoder", 0], image=[image, 0], crop="center"),
    }


TEXT_APP, CONDITIONED_APP = (
    {"prompt": ["positive"], size: ["length"], "sampler": ["seed"]} for size in ("empty", "conditioning")
)  # what app mode asks for
IMAGE_APP = {"start": ["image"], **CONDITIONED_APP}
EXAMPLE_CLIP = "easyanimate_clip.mp4"  # which the pack puts into the input folder
CLIP: dict[str, dict] = {"clip_file": {"file": "easyanimate/clip.mp4"}, "scaled": {"width": 64, "height": 64}}


def video_file() -> dict:
    """`scaled`: the frames of a video file in the size of the release."""
    return {
        "clip_file": node("LoadVideo", file=EXAMPLE_CLIP),
        "parts": node("GetVideoComponents", video=["clip_file", 0]),
        "scaled": node(
            "ImageScale", image=["parts", 0], upscale_method="lanczos", width=672, height=384, crop="center"
        ),
    }
