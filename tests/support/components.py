"""Component folders (weights and config.json) as releases hold them, and what a loaded transformer predicts."""

import json
from pathlib import Path

import comfy.model_management as mm
import comfy.sample
import torch
from safetensors.torch import load_file, save_file

from .pack import part
from .tiny_networks import random

TINY_TRANSFORMER = part("easyanimate_models.files.model_files").TINY / "transformer"
CPU = torch.device("cpu")
FP8_LARGEST = 448.0


def write_component(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict, metadata: dict[str, str] | None = None
) -> Path:
    """A component folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", metadata)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_tiny(folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A component folder of these weights with the built-in transformer's config."""
    return write_component(folder, tensors, json.loads((TINY_TRANSFORMER / "config.json").read_text()), metadata)


def tiny_weights() -> dict[str, torch.Tensor]:
    """The weights of the built-in transformer."""
    return load_file(TINY_TRANSFORMER / "diffusion_pytorch_model.safetensors")


def scaled_fp8(tensors: dict[str, torch.Tensor], scale: str) -> dict[str, torch.Tensor]:
    """Block weights in fp8, each with a scale of this name; everything else as it was."""
    scaled = {}
    for key, tensor in tensors.items():
        if key.endswith(".weight") and tensor.ndim == 2 and "transformer_blocks." in key:
            factor = tensor.float().abs().max() / FP8_LARGEST
            scaled[key] = (tensor.float() / factor).to(torch.float8_e4m3fn)
            scaled[key.removesuffix("weight") + scale] = factor
        else:
            scaled[key] = tensor
    return scaled


class Patched:
    """The model of a MODEL or CLIP's patcher while its patches are applied; the host's runs have left it."""

    def __init__(self, patcher, lowvram: int = 0):
        self.patcher, self.lowvram = patcher, lowvram

    def __enter__(self):
        mm.unload_all_models()  # whose weights it would take for patched ones
        self.patcher.patch_model(CPU, lowvram_model_memory=self.lowvram)
        return self.patcher.model

    def __exit__(self, *_):
        self.patcher.unpatch_model(CPU)


def predict(patcher, lowvram: int = 0) -> torch.Tensor:
    """What a transformer makes of fixed inputs, with its patches and with the host's casts."""
    config = patcher.model.diffusion_model.config
    x, context = random(1, config.in_channels, 3, 8, 8), random(1, 6, config.caption_channels, seed=1)
    with Patched(patcher, lowvram) as model:
        return model.apply_model(x, torch.tensor([3.0]), c_crossattn=context, transformer_options={})


def one_step(model, seed: int = 1) -> torch.Tensor:
    """What the built-in transformer makes of fixed noise in one step of euler."""
    x = torch.randn(1, 4, 6, 8, 8, generator=torch.Generator().manual_seed(seed))
    text = [[torch.ones(1, 5, 32), {"attention_mask": torch.ones(1, 5)}]]
    sigmas = torch.tensor([10.0, 5.0])
    with torch.inference_mode():
        return comfy.sample.sample(
            model, x, 1, 1.0, "euler", "normal", text, text, torch.zeros_like(x), sigmas=sigmas, disable_pbar=True
        ).clone()


def assert_gradient_is_right(reader, weight: torch.Tensor, text: str, direction: torch.Tensor) -> None:
    """The gradient of a text's embeddings along `direction`, against what a small step of the weight changes."""
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad((reader([text])["context"] * direction).sum(), weight)
    step, ends = 2e-2 * gradient / gradient.norm(), []
    for sign in (1, -1):
        weight.data += sign * step
        ends.append((reader([text])["context"].double() * direction).sum())
        weight.data -= sign * step
    assert abs((ends[0] - ends[1]) / 4e-2 / gradient.norm() - 1) < 2e-2
