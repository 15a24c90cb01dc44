"""Low-rank adapters (LoRA) on a transformer: each adapted weight becomes `W + alpha / rank * up @ down`."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..dit.motion_dit import MotionDiT


class LowRank(nn.Module):
    """What is added to a weight `[out, in]`; nothing when training starts. Alpha equals the rank."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, weight.shape[1]))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def add_low_rank(network: MotionDiT, rank: int) -> None:
    """Adapt every linear layer of the blocks of `network`; only the adapters will learn."""
    network.requires_grad_(False)
    for module in network.transformer_blocks.modules():
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))
            module.parametrizations.weight.original.requires_grad_(False)


def low_rank_tensors(network: MotionDiT) -> dict[str, Tensor]:
    """The adapters as a LoRA file of the release: `lora_unet__...`, flattened names, with alpha."""
    tensors = {}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            adapter, flat = module.parametrizations.weight[0], f"lora_unet__{name.replace('.', '_')}"
            tensors[f"{flat}.lora_down.weight"] = adapter.down.detach().clone()
            tensors[f"{flat}.lora_up.weight"] = adapter.up.detach().clone()
            tensors[f"{flat}.alpha"] = torch.tensor(float(len(adapter.down)))
    return tensors
