"""Spatial tiles for the Slice VAE: one slice, cut into overlapping windows, cross-faded where they meet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]


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

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of that many latents: the fewest that overlap enough, all of them whole."""
        room, step = max(0, length - self.side), self.side - self.overlap
        steps = -(-room // step)
        return [room * i // max(1, steps) for i in range(steps + 1)]

    def apply(self, network: Network, x: Tensor, in_ratio: int, out_ratio: int) -> Tensor:
        """`network` applied tile by tile to `x` `[B, C, T, H, W]`; each tile fades in and out where others overlap.

        One latent pixel is `in_ratio` pixels of `x` and `out_ratio` pixels of the result.
        """
        sides = [-(-side // in_ratio) for side in x.shape[3:]]
        tops, lefts = (self.starts(side) for side in sides)
        rows, columns = (self._shares(side, out_ratio) for side in sides)
        whole: Any = None
        for top, row in zip(tops, rows, strict=True):
            for left, column in zip(lefts, columns, strict=True):
                across, down = (slice(at * in_ratio, (at + self.side) * in_ratio) for at in (left, top))
                tile = network(x[..., down, across])
                if whole is None:
                    shape = [*tile.shape[:3], *(side * out_ratio for side in sides)]
                    whole = torch.zeros(shape, dtype=torch.float32, device=tile.device)
                height, width = tile.shape[3:]
                place = whole.narrow(3, top * out_ratio, height).narrow(4, left * out_ratio, width)
                place += tile * (row[:height, None] * column[:width]).to(tile.device)
        return whole.to(x.dtype)

    def _shares(self, length: int, ratio: int) -> Tensor:
        """How much each tile counts at each of its pixels, `[tiles, side]`; at every place of the side, 1 in all."""
        side, fade = self.side * ratio, max(1, self.overlap * ratio)
        edge = torch.minimum(torch.arange(side), torch.arange(side).flip(0)) + 0.5
        share = (edge / fade).clamp(max=1)
        starts = [start * ratio for start in self.starts(length)]
        whole = torch.zeros(starts[-1] + side)
        for start in starts:
            whole[start : start + side] += share
        return torch.stack([share / whole[start : start + side] for start in starts])


class OriginalTiling(Tiling):
    """As the original places and joins tiles: the last ones cut short, corners blended twice, which can show."""

    def apply(self, network: Network, x: Tensor, in_ratio: int, out_ratio: int) -> Tensor:
        """`network` applied tile by tile to `x` `[B, C, T, H, W]`, cross-faded first down, then to the right."""
        side, step = self.side * in_ratio, (self.side - self.overlap) * in_ratio
        keep, fade = (self.side - self.overlap) * out_ratio, self.overlap * out_ratio
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


RELEASE_TILING = Tiling(side=48, overlap=12)  # 384 pixels, a quarter of it overlapping, as the releases are configured


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
