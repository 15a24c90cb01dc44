"""Graphs that can't run: those of a small video, with something in them that a node can't use."""

from dataclasses import dataclass

from tools.workflows.author import node

from .bad_files import name_of
from .prompts import empty, sampler, text_to_video

T, V, C, E, L, N = (
    f"EasyAnimateLoad{kind}" for kind in ("Transformer", "VAE", "TextEncoder", "ImageEncoder", "Lora", "ControlNet")
)
SAMPLER = "EasyAnimateSampler"
SD = {"sd": node("CheckpointLoaderSimple", ckpt_name=name_of("sd15.safetensors"))}
OURS_ONLY = "^This VAE is not an EasyAnimate VAE; load one with Load EasyAnimate VAE"
NOT_OURS = "^This model is not an EasyAnimate transformer; "


@dataclass(frozen=True)
class Row:
    """`nodes` replace and join those of the good graph; a node of type `kind` fails with `error`, a regular expression.

    The error comes `by` the node; by the "host", which names the input; or by its "list" of choices.
    """

    name: str
    kind: str
    error: str
    nodes: dict
    by: str = "node"
    deleted: str = ""  # a file below models that is deleted once the prompt is queued


def good(**changed) -> dict:
    """Prompt to eight small frames in two steps."""
    nodes = text_to_video(empty=empty(8), sampler=sampler(steps=2, seed=2))
    del nodes["video"]
    nodes["save"] = node("SaveImage", images=["decode", 0], filename_prefix="tests/good")
    return nodes | changed


def other(name: str, **inputs) -> dict:
    """A node of the good graph with other inputs, as `nodes` of a row."""
    before = good()[name]
    return {name: node(before["class_type"], **(before["inputs"] | inputs))}


def transformer(name: str, **more) -> dict:
    return other("model", transformer=name_of(name), **more)


def vae(name: str) -> dict:
    return other("vae", vae=name_of(name))


def text_encoder(name: str) -> dict:
    return other("clip", text_encoder=name_of(name))


def clip_vision(name: str) -> dict:
    """The start image through an image encoder."""
    encoder = node(E, image_encoder=name_of(name))
    embeds = node("CLIPVisionEncode", clip_vision=["encoder", 0], image=["grey", 0], crop="center")
    return {"grey": grey(1), "encoder": encoder, "embeds": embeds, **given(clip_vision_output=["embeds", 0])}


def grey(count: int, side: int = 64) -> dict:
    return node("EmptyImage", width=side, height=side, batch_size=count, color=8421504)


def given(**inputs) -> dict:
    """The good graph with EasyAnimate Image to Video in it."""
    size = {"width": 64, "height": 64, "length": 8, "batch_size": 1}
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0]}
    between = node("EasyAnimateImageToVideo", **(wired | size | inputs))
    return {"given": between, **other("sampler", positive=["given", 0], negative=["given", 1], latent=["given", 2])}


def lora(name: str, **inputs) -> dict:
    wired = {"model": ["model", 0], "lora": name, "strength_model": 1.0}
    return {"lora": node(L, **(wired | inputs)), **other("sampler", model=["lora", 0])}


def controlled(name: str, with_vae: bool = True) -> dict:
    """The good graph steered by a ControlNet."""
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "control_net": ["control", 0], "image": ["grey", 0]}
    applied = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0} | ({"vae": ["vae", 0]} if with_vae else {})
    nodes = {"grey": grey(1), "control": node(N, control_net=name_of(name))}
    nodes["steered"] = node("ControlNetApplyAdvanced", **wired, **applied)
    return nodes | other("sampler", positive=["steered", 0], negative=["steered", 1])
