"""Tiles as the original places and joins them: the last ones cut short, corners blended twice."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from support.pack import part

tiling = part("easyanimate_models.vae.tiling")


@dataclass(frozen=True)
class WeightedTile(tiling.Tile):
    """A tile with a weight for every pixel of the result."""

    weights: Tensor = None

    def weighted(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return x * self.weights[:height, :width]


@dataclass(frozen=True)
class OriginalTiling(tiling.Tiling):
    """The original blends tiles in place, first down, then to the right. What that does to each is a weight.

    With `corner`, as from V4 on, a last tile covers the end of the frame and fades in from its upper left corner.
    """

    corner: bool = False

    def tiles(self, height: int, width: int, ratio: int) -> Iterator[tiling.Tile]:
        if max(height, width) <= self.side:
            yield from tiling.whole_frame(height, width)
            return
        step, keep = self.side - self.overlap, (self.side - self.overlap) * ratio
        corners = [[(top, left) for left in range(0, width, step)] for top in range(0, height, step)]
        count, numbers = sum(map(len, corners)), itertools.count()
        sizes = {n: [ratio * min(self.side, n - at) for at in range(0, n, step)] for n in (height, width)}
        joined = [[_alone(next(numbers), count, h, w) for w in sizes[width]] for h in sizes[height]]
        self._join(joined, ratio)
        whole = torch.zeros(count, height * ratio, width * ratio)
        for row, blended in zip(corners, joined, strict=True):
            for (top, left), weights in zip(row, blended, strict=True):
                part_of = weights[:, :keep, :keep]
                rows, columns = part_of.shape[1:]
                whole[:, top * ratio : top * ratio + rows, left * ratio : left * ratio + columns] = part_of
        places = [place for row in corners for place in row]
        if self.corner:
            places.append((max(0, height - self.side), max(0, width - self.side)))
            whole = _with_corner(whole, *(min(self.side, n) * ratio for n in (height, width)))
        for weights, (top, left) in zip(whole, places, strict=True):
            rows, columns = (slice(at * ratio, (at + self.side) * ratio) for at in (top, left))
            yield WeightedTile(top, left, self.side, torch.empty(0), torch.empty(0), weights[rows, columns])

    def _join(self, rows: list[list[Tensor]], ratio: int) -> None:
        for i, row in enumerate(rows):
            for j, tile in enumerate(row):
                if i:
                    _cross_fade(rows[i - 1][j], tile, self.overlap * ratio, dim=1)
                if j:
                    _cross_fade(row[j - 1], tile, self.overlap * ratio, dim=2)


def _with_corner(whole: Tensor, height: int, width: int) -> Tensor:
    """Weights `[tiles, H, W]` with those of one more tile, which covers the last `height` rows and `width` columns."""
    last = torch.zeros_like(whole[:1])
    rise = torch.minimum(torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width))
    last[:, -height:, -width:] = rise
    return torch.cat([whole * (1 - last), last])


def _alone(number: int, count: int, *size: int) -> Tensor:
    """A tile that is nothing but itself, `[count, H, W]`."""
    weights = torch.zeros(count, *size)
    weights[number] = 1
    return weights


def _cross_fade(before: Tensor, after: Tensor, extent: int, dim: int) -> None:
    """The first `extent` lines of `after` rise from the last of `before`, linearly, in place."""
    extent = min(extent, before.shape[dim], after.shape[dim])
    if extent == 0:
        return
    shape = [1, 1, 1]
    shape[dim] = extent
    rise = (torch.arange(extent, dtype=torch.float32) / extent).view(shape)
    old = before.narrow(dim, before.shape[dim] - extent, extent)
    new = after.narrow(dim, 0, extent)
    other = [min(a, b) for a, b in zip(old.shape, new.shape, strict=True)]
    old, new = old[:, : other[1], : other[2]], new[:, : other[1], : other[2]]
    new.copy_(old * (1 - rise) + new * rise)
