"""Prompts as the server takes them: from the built-in tiny model to a latent, to frames, or to a saved video."""

from tools.workflows.author import node

from .pack import part

_files = part("easyanimate_models.files.model_files")
BUILT_IN, BUILT_IN_INP, BUILT_IN_LORA = _files.BUILT_IN, _files.BUILT_IN_INP, _files.BUILT_IN_LORA
PROMPT = "a red ball moves to the left on a black background"
CFG = part("easyanimate_models.training.toy.evaluation").Settings().cfg


def loaders() -> dict:
    """`model`, `vae` and `clip` of the built-in model."""
    return {
        "model": node("EasyAnimateLoadTransformer", transformer=BUILT_IN, weight_dtype="default"),
        "vae": node("EasyAnimateLoadVAE", vae=BUILT_IN),
        "clip": node("EasyAnimateLoadTextEncoder", text_encoder=BUILT_IN),
    }


def encode(text: str = PROMPT, clip: str = "clip") -> dict:
    """An EasyAnimateEncodePrompt without a negative prompt."""
    return node("EasyAnimateEncodePrompt", clip=[clip, 0], positive=text, negative="", clean_text=True)


def empty(length: int = 24, width: int = 64, height: int = 64, **changed) -> dict:
    """An EasyAnimateEmptyLatent of one video."""
    size = {"width": width, "height": height, "length": length, "batch_size": 1}
    return node("EasyAnimateEmptyLatent", **(size | changed))


def sampler(**changed) -> dict:
    """An EasyAnimateSampler on `model`, `prompt` and `empty`; `changed` are other inputs."""
    links = {"model": ["model", 0], "positive": ["prompt", 0], "negative": ["prompt", 1], "latent": ["empty", 0]}
    values = {"seed": 1, "steps": 25, "cfg": CFG, "sampler": "euler", "scheduler": "easyanimate", "denoise": 1.0}
    return node("EasyAnimateSampler", **(links | values | changed))


def ksampler(**changed) -> dict:
    """The stock KSampler in the same place."""
    links = {"model": ["model", 0], "positive": ["prompt", 0], "negative": ["prompt", 1], "latent_image": ["empty", 0]}
    values = {"seed": 1, "steps": 25, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return node("KSampler", **(links | values | changed))


def decode(latent: str = "sampler", **changed) -> dict:
    """An EasyAnimateDecode of the whole frame at once."""
    return node("EasyAnimateDecode", **({"latent": [latent, 0], "vae": ["vae", 0], "tile_size": 0} | changed))


def text_to_latent(**changed) -> dict:
    """Prompt to `sampler`; `changed` replaces or adds nodes by name."""
    return {**loaders(), "prompt": encode(), "empty": empty(), "sampler": sampler()} | changed


def text_to_frames(steps: int = 3, length: int = 24, **changed) -> dict:
    """Prompt to frames, saved as pictures without loss; `changed` replaces or adds nodes by name."""
    nodes = text_to_latent(
        empty=empty(length, vae=["vae", 0]),
        sampler=sampler(steps=steps),
        decode=decode(),
        save=node("SaveImage", images=["decode", 0], filename_prefix="tests/frames"),
    )
    return nodes | changed


def text_to_video(**changed) -> dict:
    """Prompt to a saved video; `changed` replaces or adds nodes by name."""
    saved = {
        "decode": decode(),
        "video": node("CreateVideo", images=["decode", 0], fps=24),
        "save": node("SaveVideo", video=["video", 0], filename_prefix="tests/video", format="mp4", codec="h264"),
    }
    return text_to_latent(**saved) | changed
