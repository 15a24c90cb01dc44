"""Low-rank adapters (LoRA) on a MODEL of the host: each adapted weight becomes `W + alpha / rank * up @ down`.

They use the host's own hook for weights, so the model may be in any precision that the host runs it in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...lora import T5
from ...text_encoders.bert_mt5 import BertMT5Tokenizer
from ..sharding import full_tensor

DENOISER, TEXT_ENCODERS = "diffusion_model.", "text_encoders."
TEXT_ROOTS = (T5, BertMT5Tokenizer.lora_root)  # of the layers of text encoders, which the original leaves out


@dataclass(frozen=True)
class LoraSettings:
    """Rank and alpha, and whether motion modules and the text encoder are adapted too.

    `start` is the path of a LoRA to start from, whose rank and alpha then count.
    """

    rank: int
    alpha: float
    motion: bool = True
    text: bool = False
    start: str = ""

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; set it to 1 or more, such as 16.")
        if not self.alpha > 0:
            raise ValueError(f"alpha is {self.alpha}; set it above 0.")


class LowRank(nn.Module):
    """The adapter of a weight `[out, in]`; it adds nothing at first. The host multiplies the sum by a `scale`."""

    def __init__(self, shape: torch.Size, settings: LoraSettings, scale: Tensor | None = None):
        super().__init__()
        self.alpha = float(settings.alpha)
        self.scale = None if scale is None else scale.detach().clone()
        self.down = nn.Parameter(torch.empty(settings.rank, shape[1]))
        self.up = nn.Parameter(torch.zeros(shape[0], settings.rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        change = self.alpha / len(self.down) * (self.up @ self.down)
        change = change if self.scale is None else change / self.scale.to(change)
        return weight + change.to(device=weight.device, dtype=weight.dtype)


def add_adapters(model, settings: LoraSettings):
    """A copy of the host's MODEL whose linear layers have adapters, and the adapters by the names of their layers."""
    patcher, adapters, release = model.clone(), nn.ModuleDict(), model.model.model_config
    for name, module in model.model.diffusion_model.named_modules():
        is_adapted = name.startswith(release.adapted) and (settings.motion or not release.is_motion_weight(name))
        if is_adapted and isinstance(module, nn.Linear):
            adapter = LowRank(module.weight.shape, settings, getattr(module, "scale_weight", None))
            adapters[name.replace(".", "/")] = adapter
            patcher.add_weight_wrapper(f"{DENOISER}{name}.weight", adapter)
    return patcher, adapters


def original_names(adapters: nn.ModuleDict) -> dict[str, Tensor]:
    """The adapters as EasyAnimate's own trainer writes them: `lora_unet__`, `lora_te_`, flattened names, with alpha."""

    def name_of(layer: str) -> str:
        root = next((root for root in TEXT_ROOTS if layer.startswith(root)), "")
        return ("lora_te_" if root else "lora_unet__") + layer.removeprefix(root).replace(".", "_")

    return _tensors(adapters, name_of)


def host_names(adapters: nn.ModuleDict) -> dict[str, Tensor]:
    """The adapters as ComfyUI names their layers, which every stock LoRA loader reads."""
    return _tensors(adapters, lambda layer: (TEXT_ENCODERS if layer.startswith(TEXT_ROOTS) else DENOISER) + layer)


NAMINGS: dict[str, Callable[[nn.ModuleDict], dict[str, Tensor]]] = {"comfyui": host_names, "original": original_names}


def _tensors(adapters: nn.ModuleDict, name_of: Callable[[str], str]) -> dict[str, Tensor]:
    tensors = {}
    items: Iterable[tuple[str, Any]] = adapters.items()
    for path, adapter in items:
        name = name_of(path.replace("/", "."))
        tensors[f"{name}.lora_down.weight"] = full_tensor(adapter.down).half().contiguous()
        tensors[f"{name}.lora_up.weight"] = full_tensor(adapter.up).half().contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(adapter.alpha)
    return tensors
