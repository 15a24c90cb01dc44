"""Spatial tiles for the Slice VAE: one slice, cut into overlapping windows, cross-faded where they meet."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Side and overlap of a tile, in latent pixels."""

    side: int
    overlap: int

    def __post_init__(self):
        if not 0 <= self.overlap < self.side:
            raise ValueError(f"Tiles of {self.side} latents can't overlap by {self.overlap}; make the overlap smaller.")

    def fits(self, height: int, width: int) -> bool:
        """Whether a latent of this size is one tile anyway."""
        return height <= self.side and width <= self.side


RELEASE_TILING = Tiling(side=48, overlap=12)  # 384 pixels, a quarter of it overlapping, as the releases are configured


def tiled(network: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, in_ratio: int, out_ratio: int) -> Tensor:
    """`network` applied tile by tile to `x` `[B, C, T, H, W]`.

    One latent pixel is `in_ratio` pixels of `x` and `out_ratio` pixels of the result.
    """
    side, step = tiling.side * in_ratio, (tiling.side - tiling.overlap) * in_ratio
    keep, fade = (tiling.side - tiling.overlap) * out_ratio, tiling.overlap * out_ratio
    above: list[Tensor] = []
    rows = []
    for top in range(0, x.shape[3], step):
        row: list[Tensor] = []
        for column, left in enumerate(range(0, x.shape[4], step)):
            tile = network(x[:, :, :, top : top + side, left : left + side])
            if above:
                _cross_fade(above[column], tile, fade, dim=3)
            if row:
                _cross_fade(row[-1], tile, fade, dim=4)
            row.append(tile)
        rows.append(torch.cat([tile[:, :, :, :keep, :keep] for tile in row], dim=4))
        above = row
    return torch.cat(rows, dim=3)


def _cross_fade(before: Tensor, after: Tensor, extent: int, dim: int) -> None:
    """The first `extent` lines of `after` rise from the last of `before`, linearly, in place."""
    extent = min(extent, before.shape[dim], after.shape[dim])
    if extent == 0:
        return
    shape = [1] * after.ndim
    shape[dim] = extent
    rise = (torch.arange(extent, dtype=torch.float32, device=after.device) / extent).to(after.dtype).view(shape)
    old = before.narrow(dim, before.shape[dim] - extent, extent)
    new = after.narrow(dim, 0, extent)
    new.copy_(old * (1 - rise) + new * rise)
