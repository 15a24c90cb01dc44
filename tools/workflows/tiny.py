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
    """The part of a loaded prompt that the thumbnail needs, with its frames saved as a video."""
    picture = str(workflow.ids()[workflow.tiny.picture])
    needed: dict[str, dict] = {}
    waiting = [picture]
    while waiting:
        number = waiting.pop()
        inputs = {k: v for k, v in prompt[number]["inputs"].items() if k not in NOT_FOR_TINY}
        needed[number] = {**prompt[number], "inputs": inputs}
        links = [value[0] for value in inputs.values() if isinstance(value, list)]
        waiting += [link for link in links if link not in needed]
    saved = {"filename_prefix": f"thumbnails/{workflow.name}", "format": "mp4", "codec": "h264"}
    return needed | {
        "thumbnail video": node("CreateVideo", images=[picture, 0], fps=12.0),
        "thumbnail": node("SaveVideo", video=["thumbnail video", 0], **saved),
    }
