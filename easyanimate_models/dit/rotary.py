"""Rotary positions of video tokens: where a frame's patches lie in the grid that the network was trained on."""

from dataclasses import dataclass, replace

import torch
from comfy.ldm.flux.math import rope
from torch import Tensor

from ..host import rotates_by_a_kernel

THETA = 10000
COPIES = 0 if rotates_by_a_kernel() else 3  # of heads, as many as are turned at once


@dataclass(frozen=True)
class Span:
    """Positions along one axis: `count` of them from `start`, `step` apart."""

    start: float
    step: float
    count: int

    def changed(self, options: dict, axis: str) -> "Span":
        """The same under the host's `rope_options`: scaled from the first position on, then shifted."""
        scale, shift = options.get(f"scale_{axis}", 1.0), options.get(f"shift_{axis}", 0.0)
        return replace(self, start=self.start + shift, step=self.step * scale)

    def positions(self, device) -> Tensor:
        """`[count]`, float64."""
        return self.start + self.step * torch.arange(self.count, dtype=torch.float64, device=device)


def fitted(rows: int, columns: int, base_rows: int, base_columns: int) -> tuple[Span, Span]:
    """Rows and columns of a grid, shrunk or stretched to lie whole and centred in the base grid."""
    scale = min(base_rows / rows, base_columns / columns)
    height, width = round(scale * rows), round(scale * columns)
    top, left = round((base_rows - height) / 2), round((base_columns - width) / 2)
    return Span(top, height / rows, rows), Span(left, width / columns, columns)


def rotations(axes: tuple[Span, ...], dims: tuple[int, ...], device) -> Tensor:
    """What `apply_rope1` turns heads `[B, N, H, D]` by: `[1, N, 1, D / 2, 2, 2]`, float32.

    N is the product of all counts, the last axis changing fastest; `dims`, which add up to D, are the axes' shares.
    """
    grid = torch.meshgrid(*(axis.positions(device) for axis in axes), indexing="ij")
    turned = [rope(place.reshape(1, -1), dim, THETA) for place, dim in zip(grid, dims, strict=True)]
    return torch.cat(turned, dim=-3).unsqueeze(2)
