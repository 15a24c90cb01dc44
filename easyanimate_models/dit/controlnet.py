"""PixArt's ControlNet (PixArt-delta, arXiv 2401.05252, section 4): trained copies of the first blocks, beside them."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .motion_dit import BlockInputs, MotionDiTBlock


@dataclass(frozen=True)
class ControlNetConfig:
    """`depth` copies of the base's blocks; width and heads are those of the base."""

    width: int
    depth: int
    heads: int


class ControlBlock(nn.Module):
    """A copied image block and the projection of its output, zero when training starts, for the base."""

    def __init__(self, width: int, heads: int, first: bool, dtype, device, operations):
        super().__init__()
        linear = {"dtype": dtype, "device": device}
        self.before_proj = operations.Linear(width, width, **linear) if first else None
        self.copied_block = MotionDiTBlock(width, heads, None, dtype, device, operations)
        self.after_proj = operations.Linear(width, width, **linear)


class ControlNet(nn.Module):
    """From the hint and the base's first hidden state to what is added between the base's blocks."""

    def __init__(self, config: ControlNetConfig, dtype=None, device=None, operations=None):
        super().__init__()
        self.config = config
        self.dtype = dtype
        leaf = (dtype, device, operations)
        blocks = (ControlBlock(config.width, config.heads, i == 0, *leaf) for i in range(config.depth))
        self.controlnet: Any = nn.ModuleList(blocks)

    def forward(self, hidden: Tensor, hint: Tensor, inputs: BlockInputs, options) -> list[Tensor]:
        """`hidden` [B, F*N, D] after the base's first block, `hint` [B, F*N, D] as the base embeds it.

        Entry i is added to the output of the base's block i.
        """
        state = hidden + self.controlnet[0].before_proj(hint)
        residuals = []
        for block in self.controlnet:
            state = block.copied_block(state, inputs, options)
            residuals.append(block.after_proj(state))
        return residuals
