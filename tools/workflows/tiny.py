"""Workflows as the built-in tiny model runs them: for the tests, and for the thumbnails. Standard library only."""

import shutil
from pathlib import Path

from author import Workflow, node
from blocks import BUILT_IN, BUILT_IN_INP

RELEASE_FILES = {
    "EasyAnimateLoadTransformer": "transformer",
    "EasyAnimateLoadVAE": "vae",
    "EasyAnimateLoadTextEncoder": "text_encoder",
}
SIZE = {"width": 64, "height": 64, "length": 24}
MOST = {"EasyAnimateEmptyLatent": SIZE, "EasyAnimateImageToVideo": SIZE}
OF_OTHER_MODELS = ("clip_vision_output",)  # the tiny model takes none
GUIDANCE = {7: 2.0}  # the cfg of releases, and of the InP model in their place


def bring_inputs(base: Path) -> None:
    """The pictures and the clip that the tiny model is given, into the input folder of ComfyUI's base."""
    shutil.copytree(
        Path(__file__).parents[2] / "workflows" / "inputs", base / "input" / "easyanimate", dirs_exist_ok=True
    )


def as_tiny(prompt: dict, workflow: Workflow) -> dict:
    """A loaded prompt with the tiny model in place of releases, at a size that it knows, then as `workflow` says."""
    changed = {number: {**node, "inputs": _tiny_inputs(**node)} for number, node in prompt.items()}
    ids = workflow.ids()
    for name, inputs in workflow.tiny.inputs.items():
        changed[str(ids[name])]["inputs"].update(inputs)
    return changed


def _tiny_inputs(class_type: str, inputs: dict) -> dict:
    inputs = dict(inputs)
    if class_type in RELEASE_FILES:
        name = RELEASE_FILES[class_type]
        inputs[name] = BUILT_IN_INP if name == "transformer" and "InP" in inputs[name] else BUILT_IN
    if class_type == "EasyAnimateSampler":
        inputs["cfg"] = GUIDANCE.get(inputs["cfg"], inputs["cfg"])
    for name, most in MOST.get(class_type, {}).items():
        inputs[name] = min(inputs[name], most)
    return inputs


def pictured(prompt: dict, workflow: Workflow) -> dict:
    """Only what the thumbnail needs of a loaded prompt, saved as a video."""
    shown = str(workflow.ids()[workflow.tiny.picture])
    kept, waiting = {}, [shown]
    while waiting:
        number = waiting.pop()
        inputs = {k: v for k, v in prompt[number]["inputs"].items() if k not in OF_OTHER_MODELS}
        kept[number] = {**prompt[number], "inputs": inputs}
        links = [value[0] for value in inputs.values() if isinstance(value, list)]
        waiting += [link for link in links if link not in kept]
    saved = {"filename_prefix": f"thumbnails/{workflow.name}", "format": "mp4", "codec": "h264"}
    return kept | {
        "thumbnail video": node("CreateVideo", images=[shown, 0], fps=12.0),
        "thumbnail": node("SaveVideo", video=["thumbnail video", 0], **saved),
    }
