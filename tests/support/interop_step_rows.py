"""The rows of the matrix about parts of a run: mixed prompts, split noise levels, caches, masks in time."""

import inspect

import comfy.samplers
from torch import Tensor

from tools.workflows.author import node

from .interop import CFG, DIFFERENT, OTHER_PROMPT, SAME, STEPS, Unsupported, distance, sampler
from .interop_rows import MORE, NONE, assert_reuses, row
from .prompts import encode

ONE_TEXT = ("V3", "V5.1")
OUR_NAMES = {"latent": "latent_image", "sampler": "sampler_name"}
FITTED_BY_HOST = (
    "of a mask per frame, this ComfyUI's own samplers take one frame for each latent, before the pack is asked; "
    "EasyAnimate Sampler takes them all"
)


def averaged(bench, strength: float) -> Tensor:
    """The latent of two prompts mixed: `strength` of the plain run's, the rest of another."""
    mixed = {"conditioning_to": ["prompt", 0], "conditioning_from": ["other", 0]}
    return bench.latent(
        other=encode(OTHER_PROMPT),
        mixed=node("ConditioningAverage", **mixed, conditioning_to_strength=strength),
        sampler=sampler(positive=["mixed", 0]),
    )


@row("ConditioningAverage", releases=ONE_TEXT)
def _(bench):
    assert distance(averaged(bench, 1.0), bench.plain) < SAME
    assert distance(averaged(bench, 0.5), bench.plain) > SAME


@row(
    "ConditioningAverage",
    error="mixed the prompt with another, but V4",
    reason="V4 reads a prompt with BERT and mT5; the node would mix BERT's part alone, and the pack says so and stops",
    videos=NONE,
    releases=("V4",),
)
def _(bench):
    assert distance(averaged(bench, 1.0), bench.plain) < SAME
    averaged(bench, 0.5)


@row("SplitSigmas", videos=MORE)
def _(bench):
    parts = {
        "noise": node("RandomNoise", noise_seed=1),
        "none": node("DisableNoise"),
        "guider": node("CFGGuider", model=["model", 0], positive=["prompt", 0], negative=["prompt", 1], cfg=CFG),
        "method": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=STEPS, denoise=1.0),
        "split": node("SplitSigmas", sigmas=["sigmas", 0], step=3),
    }
    both = {"guider": ["guider", 0], "sampler": ["method", 0]}
    high = {"noise": ["noise", 0], "sigmas": ["split", 0], "latent_image": ["empty", 0]}
    low = {"noise": ["none", 0], "sigmas": ["split", 1], "latent_image": ["first", 0]}
    first, second = (node("SamplerCustomAdvanced", **both, **inputs) for inputs in (high, low))
    assert distance(bench.latent(**parts, first=first, sampler=second), bench.plain) < SAME


@row("LazyCache", videos=MORE)
def _(bench):
    assert_reuses(bench, "LazyCache")


@row("SetLatentNoiseMask, a mask per frame", videos=MORE)
def _(bench):
    marked, length, plan = range(1, 5), bench.model.length, bench.model.plan
    black, white, rest = (
        node("EmptyImage", width=64, height=64, batch_size=count, color=colour)
        for count, colour in ((1, 0), (len(marked), 0xFFFFFF), (length - marked.stop, 0))
    )
    masked = {
        "before": black,
        "marked": white,
        "after": rest,
        "two": node("ImageBatch", image1=["before", 0], image2=["marked", 0]),
        "all": node("ImageBatch", image1=["two", 0], image2=["after", 0]),
        "mask": node("ImageToMask", image=["all", 0], channel="red"),
        "first": sampler(),
        "set": node("SetLatentNoiseMask", samples=["first", 0], mask=["mask", 0]),
        "other": encode(OTHER_PROMPT),
    }
    again = sampler(positive=["other", 0], latent_image=["set", 0], seed=2)
    if by_host := fits_masks_itself():
        again = by_our_node(again)
    latent = bench.latent(**masked, sampler=again)
    for i, frames in enumerate(plan.frames_of(length)):
        changed = distance(latent[:, :, i], bench.plain[:, :, i])
        assert changed > DIFFERENT if set(frames) & set(marked) else changed < SAME
    if by_host:
        raise Unsupported(FITTED_BY_HOST)


def fits_masks_itself() -> bool:
    """Whether this host brings masks to the size of latents before a model hears of them, as 0.33 does."""
    return "latent_shapes" in inspect.signature(comfy.samplers.CFGGuider.outer_sample).parameters


def by_our_node(stock: dict) -> dict:
    """An EasyAnimateSampler with the inputs of this KSampler."""
    inputs = dict(stock["inputs"])
    renamed = {ours: inputs.pop(name) for ours, name in OUR_NAMES.items()}
    return node("EasyAnimateSampler", **inputs, **renamed)
