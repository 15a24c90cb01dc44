"""Files of other models, made at test time: the host's own networks with random weights, as small as it accepts.

They lie in a folder of their own among the host's models while tests run; a workflow that names the real file is given
the one of the same name there. V5.1 and V4 lie under their own names (`stand_in_releases`).
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import comfy.cldm.cldm
import comfy.clip_model
import comfy.ldm.modules.diffusionmodules.openaimodel as ldm
import comfy.ops
import comfy.sd1_clip
import comfy.taesd.taesd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools import comfyui
from tools.workflows.author import Workflow
from tools.workflows.files import DOWNLOADS, V3

from .control_arithmetic import pixart_file
from .pack import part
from .stand_in_releases import releases

FOLDER = "easyanimate-tests"
UPSCALE = 4
IMAGE_ENCODER = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 32,
    "image_size": 224,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "patch_size": 32,
    "projection_dim": 768,
}
UNET = {  # Stable Diffusion 1's widths, which the host knows it by, with one block instead of twelve
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "operations": comfy.ops.manual_cast,
}


def checkpoint() -> dict[str, Tensor]:
    """Stable Diffusion 1.5: denoiser, CLIP-L (whole, the host has no smaller one), and its tiny VAE."""
    unet = ldm.UNetModel(**UNET, out_channels=4, transformer_depth_output=[1, 1])
    clip = comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float16)
    vae = comfy.taesd.taesd.TAESD()
    return {
        **_random(unet, "model.diffusion_model."),
        **_random(clip.transformer, "cond_stage_model.transformer."),
        **_random(vae, "first_stage_model."),
    }


def control_net() -> dict[str, Tensor]:
    """A ControlNet of that denoiser."""
    return _random(comfy.cldm.cldm.ControlNet(**UNET, hint_channels=3), "")


def upscaler() -> dict[str, Tensor]:
    """Real-ESRGAN's compact form, which adds to each enlarged pixel what it thinks is missing: here next to nothing."""
    features = 8
    return {
        "body.0.weight": torch.randn(features, 3, 3, 3) * 0.02,
        "body.0.bias": torch.zeros(features),
        "body.1.weight": torch.full([features], 0.2),
        "body.2.weight": torch.randn(features, features, 3, 3) * 0.02,
        "body.2.bias": torch.zeros(features),
        "body.3.weight": torch.full([features], 0.2),
        "body.4.weight": torch.randn(3 * UPSCALE**2, features, 3, 3) * 0.02,
        "body.4.bias": torch.zeros(3 * UPSCALE**2),
    }


def lora() -> dict[str, Tensor]:
    """A LoRA of the built-in tiny model."""
    tiny = part("easyanimate_models.files.model_files").TINY / "transformer"
    return lora_over(load_file(next(tiny.glob("*.safetensors"))))


def lora_over(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA of a transformer, named as the host names them: every attention query, of rank 2."""
    queries = {name.removesuffix(".weight"): w for name, w in weights.items() if name.endswith("to_q.weight")}
    tensors = {}
    for name, weight in queries.items():
        tensors[f"diffusion_model.{name}.lora_up.weight"] = torch.randn(weight.shape[0], 2) * 0.2
        tensors[f"diffusion_model.{name}.lora_down.weight"] = torch.randn(2, weight.shape[1]) * 0.2
    return tensors


def image_encoder() -> dict[str, Tensor]:
    """CLIP vision as a release holds it, in two thin layers."""
    encoder = comfy.clip_model.CLIPVisionModelProjection(IMAGE_ENCODER, torch.float32, "cpu", comfy.ops.manual_cast)
    return _random(encoder, "")


def write_image_encoder(folder: Path) -> Path:
    """The same as a component folder with a config.json; returns the folder."""
    torch.manual_seed(0)
    save_file(image_encoder(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(IMAGE_ENCODER))
    return folder


FILES: dict[str, tuple[str, Callable[[], dict[str, Tensor]]]] = {  # name that workflows use -> folder, weights
    "v1-5-pruned-emaonly-fp16.safetensors": ("checkpoints", checkpoint),
    "control_v11f1e_sd15_tile_fp16.safetensors": ("controlnet", control_net),
    "4x-UltraSharp.pth": ("upscale_models", upscaler),
    "easyanimate-style-lora.safetensors": ("loras", lora),
}
PIXART_CONTROL = "PixArt-XL-2-1024-ControlNet.pth"
RELEASE_FOLDER = "easyanimate-tests-release"


def stand_in(name: str) -> str:
    """What the server calls the file that stands in for `name`."""
    return os.path.join(FOLDER, name)


def swapped(prompt: dict) -> dict:
    """A prompt with stand-ins where it names files of other models."""
    return {
        number: {**node, "inputs": {k: _swapped(v) for k, v in node["inputs"].items()}}
        for number, node in prompt.items()
    }


def _swapped(value):
    if value == PIXART_CONTROL:
        return stand_in("pixart.safetensors")
    if value == V3.image_encoder:  # whose config.json says how small it is
        return f"easyanimate/{RELEASE_FOLDER}"
    return stand_in(value) if isinstance(value, str) and value in FILES else value


@contextlib.contextmanager
def files_for(workflows: Iterable[Workflow]) -> Iterator[None]:
    """Whatever these workflows name beside the built-in tiny model, among the host's models while this lasts."""
    named = {name for workflow in workflows for name in FILES if name in str(workflow.nodes)}
    with (
        stand_ins(*sorted(named)),
        pixart_control("pixart.safetensors"),
        release(),
        releases(IMAGE_ENCODER["hidden_size"]) as v4_folder,
        placeholders(),
    ):
        _pickle_image_encoder(v4_folder)
        yield


@contextlib.contextmanager
def placeholders() -> Iterator[None]:
    """Empty files for whatever the editor would offer to download, so that it finds nothing missing."""
    files = [comfyui.BASE / "models" / download.directory / download.name for download in DOWNLOADS.values()]
    made = [file for file in files if not file.exists()]
    try:
        for file in made:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        yield
    finally:
        for file in made:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def release() -> Iterator[None]:
    """A release folder with nothing but an image encoder, pickled as V3's is."""
    folder = comfyui.BASE / "models" / "easyanimate" / RELEASE_FOLDER
    try:
        _pickle_image_encoder(folder)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pickle_image_encoder(release_folder: Path) -> None:
    folder = release_folder / "image_encoder"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.save(image_encoder(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(IMAGE_ENCODER))


@contextlib.contextmanager
def stand_ins(*names: str) -> Iterator[None]:
    """The files of `names`, or all, among the host's models for as long as this lasts."""
    folders = {name: comfyui.BASE / "models" / FILES[name][0] / FOLDER for name in names or FILES}
    try:
        for seed, (name, folder) in enumerate(folders.items()):
            folder.mkdir(parents=True, exist_ok=True)
            torch.manual_seed(seed)
            _save(FILES[name][1](), folder / name)
        yield
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pixart_control(name: str) -> Iterator[None]:
    """A PixArt ControlNet of the built-in tiny model's width among the host's, as `stand_in(name)`."""
    folder = comfyui.BASE / "models" / "controlnet" / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pixart_file(folder / name, width=128, heads=4, depth=5)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file({name: w.half().contiguous() for name, w in weights.items()}, path)


def _random(module: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    """Weights that keep the size of what goes through them; norms scale by one and add nothing."""
    weights = {}
    for name, weight in module.state_dict().items():
        if weight.ndim > 1:
            weights[prefix + name] = torch.randn(weight.shape) * weight[0].numel() ** -0.5
        elif weight.ndim == 1 and weight.is_floating_point():
            weights[prefix + name] = torch.full(weight.shape, float(name.endswith("weight")))
        else:  # counters, and the scales of the VAE's latents
            weights[prefix + name] = weight
    return weights
