"""LoRA files under every naming that artists meet, over the linear layers of a transformer."""

from pathlib import Path

import torch
from safetensors.torch import save_file

RANK, ALPHA = 4, 2.0
NAMINGS = {  # a layer of the transformer as files name it
    "easyanimate": lambda layer: "lora_unet__" + layer.replace(".", "_"),
    "kohya": lambda layer: "lora_unet_" + layer.replace(".", "_"),
    "peft": lambda layer: "base_model.model." + layer,
    "diffusers": lambda layer: "transformer." + layer,
    "host": lambda layer: "diffusion_model." + layer,
}


def linears(patcher) -> dict[str, torch.Tensor]:
    """Every linear weight of a transformer, by the name of its layer."""
    weights = patcher.model.diffusion_model.state_dict()
    return {k.removesuffix(".weight"): v for k, v in weights.items() if k.endswith(".weight") and v.ndim == 2}


def write_lora(folder: Path, layers: dict[str, torch.Tensor], naming: str = "easyanimate", seed: int = 0):
    """A LoRA file over `layers`, and what it adds to their weights at strength 1."""
    tensors, changes, rng = {}, {}, torch.Generator().manual_seed(seed)
    up_name, down_name = ("lora_B", "lora_A") if naming in ("peft", "diffusers") else ("lora_up", "lora_down")
    for layer, weight in layers.items():
        up, down = (
            torch.randn(shape, generator=rng) * 0.1 for shape in ((weight.shape[0], RANK), (RANK, weight.shape[1]))
        )
        name = NAMINGS[naming](layer)
        tensors |= {f"{name}.{up_name}.weight": up, f"{name}.{down_name}.weight": down}
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
        changes[layer] = ALPHA / RANK * up @ down
    path = folder / f"{naming}-{seed}.safetensors"
    save_file(tensors, path)
    return path, changes
