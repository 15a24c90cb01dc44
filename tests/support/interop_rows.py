"""The rows of the matrix: how each stock node is used on EasyAnimate, and what must come out of it."""

import os

from torch import Tensor

from tools import comfyui
from tools.workflows.author import node

from .interop import CFG, DIFFERENT, OTHER_PROMPT, SAME, STEPS, Bench, Row, distance, sampler
from .prompts import PROMPT, encode
from .stand_ins import stand_in

CONTROL, UPSCALER = "PixArt-XL-2-1024-ControlNet.safetensors", "4x-UltraSharp.pth"
SAVED = "easyanimate-tests"  # the folder for what save nodes write where loaders look; removed after the tests
NONE, MORE = (), (2, 3)  # videos at once, besides one
ROUNDED = 0.1  # the host's own noise levels are rounded to whole timesteps, ours are not
ROWS: list[Row] = []


def row(name: str, **options):
    """The function below checks the row `name`."""

    def add(check):
        ROWS.append(Row(name, check, **options))
        return check

    return add


def patched(bench: Bench, kind: str, **inputs) -> Tensor:
    """The latent that the model makes with a patching node."""
    return bench.latent(patch=node(kind, model=["model", 0], **inputs), sampler=sampler(model=["patch", 0]))


def lora(bench: Bench, strength: float, model: str = "model") -> dict:
    name = stand_in(bench.model.lora)
    return node("LoraLoaderModelOnly", model=[model, 0], lora_name=name, strength_model=strength)


def with_lora(bench: Bench, strength: float = 1.0) -> Tensor:
    return patched(bench, "LoraLoaderModelOnly", lora_name=stand_in(bench.model.lora), strength_model=strength)


@row("CLIPTextEncode")
def _(bench):
    positive, negative = (node("CLIPTextEncode", clip=["clip", 0], text=text) for text in (PROMPT, ""))
    both = sampler(positive=["positive", 0], negative=["negative", 0])
    assert distance(bench.latent(positive=positive, negative=negative, sampler=both), bench.plain) < SAME


@row("EmptyHunyuanLatentVideo")
def _(bench):
    stock = node("EmptyHunyuanLatentVideo", width=64, height=64, length=bench.model.stock_length, batch_size=1)
    assert distance(bench.latent(empty=stock), bench.plain) < SAME


@row("ConditioningCombine", videos=MORE)
def _(bench):
    def combined(text: str) -> Tensor:
        both = node("ConditioningCombine", conditioning_1=["prompt", 0], conditioning_2=["other", 0])
        return bench.latent(other=encode(text), both=both, sampler=sampler(positive=["both", 0]))

    assert distance(combined(PROMPT), bench.plain) < SAME
    assert distance(combined(OTHER_PROMPT), bench.plain) > DIFFERENT


@row("ConditioningSetTimestepRange", videos=MORE)
def _(bench):
    early, late = (
        node("ConditioningSetTimestepRange", conditioning=[text, 0], start=start, end=end)
        for text, start, end in (("prompt", 0.0, 0.5), ("other", 0.5, 1.0))
    )
    both = node("ConditioningCombine", conditioning_1=["early", 0], conditioning_2=["late", 0])

    def switched(text: str) -> Tensor:
        texts = {"other": encode(text), "early": early, "late": late, "both": both}
        return bench.latent(**texts, sampler=sampler(positive=["both", 0]))

    assert distance(switched(PROMPT), bench.plain) < SAME
    assert distance(switched(OTHER_PROMPT), bench.plain) > DIFFERENT


@row(
    "ConditioningSetAreaPercentage",
    error="tuple index out of range",
    reason="areas only work on images: with a video, ComfyUI mistakes the frames for the height",
    videos=NONE,
)
def _(bench):
    area = {"width": 0.5, "height": 1.0, "x": 0.0, "y": 0.0, "strength": 1.0}
    half = node("ConditioningSetAreaPercentage", conditioning=["prompt", 0], **area)
    bench.latent(half=half, sampler=sampler(positive=["half", 0]))


@row("KSampler: euler")
def _(bench):
    bench.assert_shows(bench.plain_frames)


@row("KSampler: ddim")
def _(bench):
    latent = bench.latent(sampler=sampler(sampler_name="ddim"))
    assert distance(latent, bench.plain) < SAME  # the host's ddim is euler without its churn


def takes_another_path(name: str, **options) -> None:
    @row(f"KSampler: {name}", **options)
    def _(bench):
        other = sampler(sampler_name=name)
        assert distance(bench.latent(sampler=other), bench.plain) > DIFFERENT
        bench.assert_shows(bench.frames(sampler=other))


takes_another_path("dpmpp_2m")
takes_another_path("euler_ancestral", alike=False)
takes_another_path("uni_pc")


@row("KSamplerAdvanced")
def _(bench):
    def part_of(latent: str, start: int, end: int, **ends) -> dict:
        wired = {
            "positive": ["prompt", 0],
            "negative": ["prompt", 1],
            "latent_image": [latent, 0],
            "model": ["model", 0],
        }
        chosen = {"noise_seed": 1, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal"}
        return node("KSamplerAdvanced", **wired, **chosen, **ends, start_at_step=start, end_at_step=end)

    first = part_of("empty", 0, 5, add_noise="enable", return_with_leftover_noise="enable")
    rest = part_of("first", 5, 10000, add_noise="disable", return_with_leftover_noise="disable")
    assert distance(bench.latent(first=first, sampler=rest), bench.plain) < SAME


@row("SamplerCustomAdvanced, CFGGuider")
def _(bench):
    parts = {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("CFGGuider", model=["model", 0], positive=["prompt", 0], negative=["prompt", 1], cfg=CFG),
        "method": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=STEPS, denoise=1.0),
    }
    links = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["method", 0], "sigmas": ["sigmas", 0]}
    custom = node("SamplerCustomAdvanced", **links, latent_image=["empty", 0])
    assert distance(bench.latent(**parts, sampler=custom), bench.plain) < SAME


@row("LoraLoaderModelOnly")
def _(bench):
    assert distance(with_lora(bench), bench.plain) > DIFFERENT
    there_and_back = {
        "first": lora(bench, 1.0),
        "patch": lora(bench, -1.0, "first"),
        "sampler": sampler(model=["patch", 0]),
    }
    assert distance(bench.latent(**there_and_back), bench.plain) < SAME


@row("CreateHookLora, ConditioningSetProperties")
def _(bench):
    hook = node("CreateHookLora", lora_name=stand_in(bench.model.lora), strength_model=1.0, strength_clip=0.0)
    on, off = (node("ConditioningSetProperties", cond_NEW=["prompt", slot], hooks=["hook", 0]) for slot in (0, 1))
    both = sampler(positive=["on", 0], negative=["off", 0])
    assert distance(bench.latent(hook=hook, on=on, off=off, sampler=both), with_lora(bench)) < SAME


@row("CreateHookLora, SetClipHooks")
def _(bench):
    hook = node("CreateHookLora", lora_name=stand_in(bench.model.lora), strength_model=1.0, strength_clip=1.0)
    clip = node("SetClipHooks", clip=["clip", 0], apply_to_conds=True, schedule_clip=False, hooks=["hook", 0])
    latent = bench.latent(hook=hook, hooked=clip, prompt=encode(PROMPT, "hooked"))
    assert distance(latent, with_lora(bench)) < SAME


@row("ModelMergeSimple")
def _(bench):
    merge = node("ModelMergeSimple", model1=["model", 0], model2=["other", 0], ratio=0.5)
    latent = bench.latent(other=lora(bench, 1.0), merge=merge, sampler=sampler(model=["merge", 0]))
    assert distance(latent, with_lora(bench, 0.5)) < SAME


@row("ModelSave, loaded again")
def _(bench):
    folder = comfyui.OUTPUT / "diffusion_models" / SAVED
    save = node("ModelSave", model=["patch", 0], filename_prefix=f"diffusion_models/{SAVED}/model")
    bench.run("none", {"model": bench.graph()["model"], "patch": lora(bench, 1.0), "save": save})
    (file,) = folder.glob("*.safetensors")
    name = os.path.join(SAVED, file.name)
    loaded = node("EasyAnimateLoadTransformer", transformer=name, weight_dtype="default")
    assert distance(bench.latent(model=loaded), with_lora(bench)) < SAME


@row("TrainLoraNode, SaveLoRA")
def _(bench):
    kind = "TrainLoraNode"
    choices = {"steps": 2, "rank": 2, "learning_rate": 0.01, "training_dtype": "fp32", "lora_dtype": "fp32"}
    nodes = {
        **{name: each for name, each in bench.graph().items() if name != "sampler"},
        "empty": bench.empty(length=9, batch_size=2),
        "list": node("RebatchLatents", latents=["empty", 0], batch_size=1),
        "train": node(kind, model=["model", 0], latents=["list", 0], positive=["prompt", 0], **choices),
        "save": node("SaveLoRA", lora=["train", bench.slot(kind, "LORA_MODEL")], prefix=f"loras/{SAVED}/lora"),
    }
    bench.run("none", nodes)
    (file,) = (comfyui.OUTPUT / "loras" / SAVED).iterdir()
    latent = patched(bench, "LoraLoaderModelOnly", lora_name=os.path.join(SAVED, file.name), strength_model=1.0)
    assert distance(latent, bench.plain) > DIFFERENT


@row("ModelSamplingDiscrete", releases=("V3", "V4"))
def _(bench):
    predictions = ("eps", "v_prediction") if bench.model.release == "V3" else ("v_prediction", "eps")
    same, other = (patched(bench, "ModelSamplingDiscrete", sampling=kind) for kind in predictions)
    assert distance(same, bench.plain) < ROUNDED < distance(other, bench.plain)


@row("RescaleCFG")
def _(bench):
    assert distance(patched(bench, "RescaleCFG", multiplier=0.0), bench.plain) < SAME
    assert distance(patched(bench, "RescaleCFG", multiplier=1.0), bench.plain) > 10 * SAME


@row("RenormCFG", videos=MORE)
def _(bench):
    never, always, limited = (patched(bench, "RenormCFG", renorm_cfg=limit) for limit in (0.0, 0.5, 100.0))
    assert distance(limited, never) < SAME
    assert distance(always, never) > DIFFERENT
    unguided = patched(bench, "RenormCFG", cfg_trunc=0.0)
    assert distance(unguided, bench.latent(sampler=sampler(cfg=1.0))) < SAME


@row("TemporalScoreRescaling")
def _(bench):
    assert distance(patched(bench, "TemporalScoreRescaling", tsr_k=1.0), bench.plain) < SAME
    assert distance(patched(bench, "TemporalScoreRescaling", tsr_k=0.5), bench.plain) > DIFFERENT


@row("SkipLayerGuidanceDiT")
def _(bench):
    choices = {"double_layers": "1, 2", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
    assert distance(patched(bench, "SkipLayerGuidanceDiT", scale=0.0, **choices), bench.plain) < SAME
    assert distance(patched(bench, "SkipLayerGuidanceDiT", scale=2.0, **choices), bench.plain) > DIFFERENT


def assert_reuses(bench: Bench, cache: str) -> None:
    """That a cache of the host leaves nothing out at a threshold of 0, and something at 2."""
    choices = {"start_percent": 0.1, "end_percent": 0.95, "verbose": False}
    assert distance(patched(bench, cache, reuse_threshold=0.0, **choices), bench.plain) < SAME
    assert distance(patched(bench, cache, reuse_threshold=2.0, **choices), bench.plain) > DIFFERENT


@row("EasyCache", videos=MORE)
def _(bench):
    assert_reuses(bench, "EasyCache")


@row("ContextWindowsManual, dim 2", videos=MORE)
def _(bench):
    def windows(length: int, overlap: int) -> Tensor:
        sizes = {"context_length": length, "context_overlap": overlap, "dim": 2}
        return patched(bench, "ContextWindowsManual", **sizes)

    assert distance(windows(64, 4), bench.plain) < SAME
    assert distance(windows(4, 2), bench.plain) > DIFFERENT


def with_images(bench: Bench, kind: str, **inputs) -> Tensor:
    """The latent that the InP model makes with a conditioning node, which may use `start`, `end`, `film` and `mask`."""
    colours = {"start": (1, 0xE02020), "end": (1, 0x2040E0), "film": (bench.model.length, 0x20C020)}
    pictures = {
        name: node("EmptyImage", width=64, height=64, batch_size=count, color=colour)
        for name, (count, colour) in colours.items()
    }
    return bench.latent(
        **pictures,
        **left_half(),
        model=bench.model.inpainting,
        given=node(kind, positive=["prompt", 0], negative=["prompt", 1], vae=["vae", 0], **inputs),
        sampler=sampler(positive=["given", 0], negative=["given", 1]),
    )


def left_half() -> dict:
    """`mask` of a frame: its left half is marked."""
    return {
        "nothing": node("SolidMask", value=0.0, width=64, height=64),
        "half": node("SolidMask", value=1.0, width=32, height=64),
        "mask": node("MaskComposite", destination=["nothing", 0], source=["half", 0], x=0, y=0, operation="add"),
    }


def gives_what_ours_gives(name: str, **images) -> None:
    @row(name)
    def _(bench):
        inputs = {"width": 64, "height": 64, "length": bench.model.length, "batch_size": 1, **images}
        ours = with_images(bench, "EasyAnimateImageToVideo", **inputs)
        assert distance(with_images(bench, name, **inputs), ours) < SAME


gives_what_ours_gives("WanImageToVideo", start_image=["start", 0])
gives_what_ours_gives("WanFirstLastFrameToVideo", start_image=["start", 0], end_image=["end", 0])
gives_what_ours_gives("WanFunInpaintToVideo", end_image=["end", 0])


@row("InpaintModelConditioning", videos=MORE)
def _(bench):
    stock = with_images(bench, "InpaintModelConditioning", pixels=["film", 0], mask=["mask", 0], noise_mask=False)
    ours = with_images(bench, "EasyAnimateInpaintVideo", video=["film", 0], mask=["mask", 0], noise_mask=False)
    assert distance(stock, ours) < SAME


def controlled(bench: Bench, strength: float) -> Tensor:
    """The latent of a run under a PixArt ControlNet."""
    load = node("EasyAnimateLoadControlNet", control_net=stand_in(CONTROL))
    hint = node("EmptyImage", width=64, height=64, batch_size=bench.model.length, color=0xFFFFFF)
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "control_net": ["loaded", 0], "image": ["hint", 0]}
    apply = node("ControlNetApplyAdvanced", **wired, vae=["vae", 0], strength=strength)
    ends = sampler(positive=["apply", 0], negative=["apply", 1])
    return bench.latent(loaded=load, hint=hint, apply=apply, sampler=ends)


@row("ControlNetApplyAdvanced", videos=MORE, releases=("V3",))
def _(bench):
    assert distance(controlled(bench, 0.0), bench.plain) < SAME
    assert distance(controlled(bench, 1.0), bench.plain) > DIFFERENT


@row(
    "ControlNetApplyAdvanced",
    error="ControlNet",
    reason="there are no ControlNets for V4 and V5.1, and the pack says so and stops; V5.1 has Control transformers",
    videos=NONE,
    releases=("V4", "V5.1"),
)
def _(bench):
    controlled(bench, 1.0)


@row("VAEDecode")
def _(bench):
    stock = bench.frames(decode=node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]))
    assert (stock - bench.plain_frames).abs().max() < 2 / 255


@row("VAEDecodeTiled")
def _(bench):
    whole = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    stock = bench.frames(decode=node("VAEDecodeTiled", samples=["sampler", 0], vae=["vae", 0], **whole))
    assert (stock - bench.plain_frames).abs().mean() < 2 / 255


def encoded(bench: Bench, kind: str, **inputs) -> Tensor:
    """What an encoder makes of eight grey frames with a red one in the middle, left out of `graph` but for its VAE."""
    frames = {
        "grey": node("EmptyImage", width=64, height=64, batch_size=4, color=0x808080),
        "red": node("EmptyImage", width=64, height=64, batch_size=bench.model.clip - 4, color=0xE02020),
        "clip": node("ImageBatch", image1=["grey", 0], image2=["red", 0]),
    }
    return bench.latent(**frames, sampler=node(kind, vae=["vae", 0], **inputs))


@row("VAEEncode", videos=NONE)
def _(bench):
    ours = encoded(bench, "EasyAnimateEncode", images=["clip", 0], tile_size=0)
    assert distance(encoded(bench, "VAEEncode", pixels=["clip", 0]), ours) < SAME


@row("VAEEncodeTiled", videos=NONE)
def _(bench):
    ours = encoded(bench, "EasyAnimateEncode", images=["clip", 0], tile_size=0)
    whole = {"tile_size": 64, "overlap": 0, "temporal_size": 64, "temporal_overlap": 8}
    assert distance(encoded(bench, "VAEEncodeTiled", pixels=["clip", 0], **whole), ours) < DIFFERENT


@row("SetLatentNoiseMask", videos=MORE)
def _(bench):
    masked = {
        **left_half(),
        "first": sampler(),
        "set": node("SetLatentNoiseMask", samples=["first", 0], mask=["mask", 0]),
        "other": encode(OTHER_PROMPT),
        "sampler": sampler(positive=["other", 0], latent_image=["set", 0], seed=2),
    }
    latent = bench.latent(**masked)
    assert distance(latent[..., 4:], bench.plain[..., 4:]) < SAME
    assert distance(latent[..., :4], bench.plain[..., :4]) > DIFFERENT
