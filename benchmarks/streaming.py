"""Weights that stay in RAM while a GPU holds a tenth of them: how often they lie in RAM, and what a step sends.

Patched and run on the CPU in the host's own way, with a LoRA on every layer, then unloaded for another release.
"""

import gc
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import comfy.ops
import comfy.sd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from easyanimate_models.sd import load_transformer

from . import hunyuan_dit
from .measure import Row, in_own_process, peak_above, report, resident
from .networks import shallow, step_inputs, transformer

CPU = torch.device("cpu")
V3, V4 = replace(shallow(6), in_channels=4, clip_tokens=False), replace(hunyuan_dit.V4, depth=8)
RANK, RESIDENT = 16, 0.1  # of the LoRA; the share of the weights that the GPU holds
FRAMES, SIDES = 4, (16, 16)  # latents: 256 tokens


def write_files(folder: Path) -> tuple[Path, Path]:
    """Both releases in bfloat16, a file each, with less depth than they have."""
    files = folder / "v3.safetensors", folder / "v4.safetensors"
    networks = transformer(V3, torch.bfloat16), hunyuan_dit.network(V4, torch.bfloat16)
    for file, network in zip(files, networks, strict=True):
        save_file(network.state_dict(), file)
    return files


def with_lora(patcher):
    """The MODEL with a LoRA on each of its linear layers, by the host's loader."""
    lora: dict[str, Tensor] = {}
    for name, layer in patcher.model.diffusion_model.named_modules():
        if isinstance(layer, nn.Linear):
            rows, columns = layer.weight.shape
            lora[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(RANK, columns, dtype=torch.bfloat16) / columns
            lora[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(rows, RANK, dtype=torch.bfloat16) / RANK
    return comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)[0]


class Sent:
    """Counts the bytes of weights that the host casts, and so sends, for the layers that are called."""

    def __init__(self) -> None:
        self.bytes, self.cast = 0, comfy.ops.cast_bias_weight

    def __call__(self, layer: nn.Module, *args, **kwargs):
        self.bytes += sum(p.nbytes for p in layer.parameters(recurse=False))
        return self.cast(layer, *args, **kwargs)


@torch.no_grad()
def figures(first: Path, second: Path) -> dict[str, float]:
    """Bytes beside those of the process: weights once loaded, at the peak of a step, unloaded, of another release."""
    before = resident()
    patcher = load_transformer(first, weight_dtype="bf16")
    found = {"weights": float(first.stat().st_size), "other weights": float(second.stat().st_size)}
    inputs = step_inputs(V3, 1, FRAMES, SIDES, torch.bfloat16)
    found["loaded"] = _touched(patcher) - before
    patched, sent = with_lora(patcher), Sent()
    patched.patch_model(CPU, lowvram_model_memory=int(RESIDENT * patched.model_size()))
    with patch.object(comfy.ops, "cast_bias_weight", sent):
        found["step"] = resident() + peak_above(partial(patched.model.diffusion_model, **inputs)) - before
    patched.unpatch_model(CPU)
    found |= {"sent": float(sent.bytes), "unloaded": _touched(patcher) - before}
    del patcher, patched, sent
    gc.collect()
    found["exchanged"] = _touched(load_transformer(second, weight_dtype="bf16")) - before
    return found


def _touched(patcher) -> float:
    """What lies in RAM, once every weight was read."""
    for weight in patcher.model.diffusion_model.state_dict().values():
        weight.float().sum()
    return resident()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = in_own_process(figures, *write_files(Path(folder)))
    size, other = found["weights"], found["other weights"]
    how = f"V3 with {V3.depth} layers, {size / 1e9:.2f} GB in bfloat16, a LoRA of rank {RANK} on every linear layer"
    rows = []
    for name, most, question in (
        ("loaded", 1.05, "Weights in RAM, once loaded"),
        ("step", 1.35, "… at the peak of a step, a tenth of them resident"),
        ("unloaded", 1.2, "… after the host has unloaded the model"),
    ):
        times = found[name] / size
        rows.append(Row(question, f"≤ {most} ×", f"{times:.2f} ×", times <= most, how))
    times = found["exchanged"] / other
    rows.append(
        Row(
            "… after another release took its place",
            "≤ 1.05 × its own",
            f"{times:.2f} ×",
            times <= 1.05,
            "V4, 8 layers",
        )
    )
    figure = f"{found['sent'] / size:.2f} × the weights, {found['sent'] / 1e9:.2f} GB"
    how += "; tokens in one part, the resident tenth cast as well"
    rows.append(Row("Sent for a step, a tenth resident", "", figure, None, how))
    report(__file__, rows)


if __name__ == "__main__":
    main()
