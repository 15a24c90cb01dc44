"""Workflows as the built-in tiny model runs them, in tests and for thumbnails. Standard library only."""

import shutil
from pathlib import Path

from ..environment import ROOT
from .author import Workflow, node
from .blocks import BUILT_IN, BUILT_IN_INP
from .files import V3

LOADERS = {
    "EasyAnimateLoadTransformer": "transformer",
    "EasyAnimateLoadVAE": "vae",
    "EasyAnimateLoadTextEncoder": "text_encoder",
}
SIZE = {"width": 64, "height": 64, "length": 24}
LIMITS = {"EasyAnimateEmptyLatent": SIZE, "EasyAnimateImageToVideo": SIZE}
NOT_FOR_TINY = ("clip_vision_output",)  # inputs that the tiny model has no use for
GUIDANCE = {7: 2.0}  # cfg of the releases -> cfg of the tiny InP model


def bring_inputs(base: Path) -> None:
    """Copy the pictures and clips of the tiny runs into the input folder of ComfyUI's base."""
    shutil.copytree(ROOT / "workflows" / "inputs", base / "input" / "easyanimate", dirs_exist_ok=True)


def as_tiny(prompt: dict, workflow: Workflow) -> dict:
    """A loaded prompt with the tiny model in place of V3, at its size, then `workflow.tiny.inputs`."""
    changed = {number: {**node, "inputs": _tiny_inputs(**node)} for number, node in prompt.items()}
    ids = workflow.ids()
    for name, inputs in workflow.tiny.inputs.items():
        changed[str(ids[name])]["inputs"].update(inputs)
    return changed


def _tiny_inputs(class_type: str, inputs: dict) -> dict:
    inputs = dict(inputs)
    if (name := LOADERS.get(class_type, "")) and inputs[name] == getattr(V3, name):
        inputs[name] = BUILT_IN_INP if name == "transformer" else BUILT_IN
    if class_type == "EasyAnimateSampler":
        inputs["cfg"] = GUIDANCE.get(inputs["cfg"], inputs["cfg"])
    for name, limit in LIMITS.get(class_type, {}).items():
        inputs[name] = min(inputs[name], limit)
    return inputs


def thumbnail(prompt: dict, workflow: Workflow) -> dict:
    """The part of a loaded prompt that the thumbnail needs, with the frames of each picture saved as a video."""
    ids = {name: str(number) for name, number in workflow.ids().items()} | {name: name for name in workflow.tiny.drawn}
    prompt = {number: {**node, "inputs": dict(node["inputs"])} for number, node in prompt.items()}
    for name, inputs in workflow.tiny.thumbnail.items():
        prompt[ids[name]]["inputs"].update(inputs)
    for name, drawn in workflow.tiny.drawn.items():
        prompt[name] = {**drawn, "inputs": {k: _linked(value, ids) for k, value in drawn["inputs"].items()}}
    needed = _needed(prompt, [ids[name] for name in workflow.tiny.pictures])
    for name in workflow.tiny.pictures:
        needed[f"video of {name}"] = node("CreateVideo", images=[ids[name], 0], fps=12.0)
        saved = {"filename_prefix": f"thumbnails/{workflow.name}", "format": "mp4", "codec": "h264"}
        needed[_saver(name)] = node("SaveVideo", video=[f"video of {name}", 0], **saved)
    return needed


def saved_by(workflow: Workflow) -> list[str]:
    """The nodes that save the videos of the thumbnail, in its order."""
    return [_saver(name) for name in workflow.tiny.pictures]


def _saver(picture: str) -> str:
    return f"thumbnail of {picture}"


def _linked(value, ids: dict[str, str]):
    """An input whose link names a node, as a prompt has it."""
    return [ids[value[0]], value[1]] if isinstance(value, list) else value


def _needed(prompt: dict, pictured: list[str]) -> dict:
    """The nodes `pictured` of a prompt and all that they depend on."""
    needed: dict[str, dict] = {}
    waiting = list(pictured)
    while waiting:
        number = waiting.pop()
        inputs = {k: v for k, v in prompt[number]["inputs"].items() if k not in NOT_FOR_TINY}
        needed[number] = {**prompt[number], "inputs": inputs}
        links = [value[0] for value in inputs.values() if isinstance(value, list)]
        waiting += [link for link in links if link not in needed]
    return needed
