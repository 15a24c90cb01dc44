"""Spatial tiles: a frame cut into overlapping windows that fade into each other where they meet."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A window of a frame, in latent pixels, and how much it counts in the result; all tiles together count 1.

    `row_weights` and `column_weights` are per pixel of the result; None for a frame that is one tile.
    """

    top: int
    left: int
    side: int
    row_weights: Tensor | None = None
    column_weights: Tensor | None = None

    def window(self, x: Tensor, ratio: int) -> Tensor:
        """What the tile covers of `x` `[..., H, W]`, where one latent pixel is `ratio` pixels."""
        rows, columns = (slice(start * ratio, (start + self.side) * ratio) for start in (self.top, self.left))
        return x[..., rows, columns]

    def weighted(self, x: Tensor) -> Tensor:
        """A result of the tile `[..., H, W]`, as much of it as counts."""
        if self.row_weights is None or self.column_weights is None:
            return x
        height, width = x.shape[-2:]
        return x * (self.row_weights[:height, None] * self.column_weights[:width]).to(x.device)


@dataclass(frozen=True)
class Tiling:
    """Side and overlap of a tile, in latent pixels."""

    side: int
    overlap: int

    def __post_init__(self):
        if not 0 <= self.overlap < self.side:
            raise ValueError(f"Tiles of {self.side} latents can't overlap by {self.overlap}; make the overlap smaller.")

    def tiles(self, height: int, width: int, ratio: int) -> Iterator[Tile]:
        """The tiles of a latent frame of this size; one latent pixel is `ratio` pixels of the result."""
        if max(height, width) <= self.side:
            yield from whole_frame(height, width)
            return
        rows, columns = (zip(self.starts(n), self._weights(n, ratio), strict=True) for n in (height, width))
        lefts = list(columns)
        for top, row_weights in rows:
            for left, column_weights in lefts:
                yield Tile(top, left, self.side, row_weights, column_weights)

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of that many latents: the fewest that overlap enough, all of them whole."""
        room, step = max(0, length - self.side), self.side - self.overlap
        steps = -(-room // step)
        return [room * i // max(1, steps) for i in range(steps + 1)]

    def _weights(self, length: int, ratio: int) -> Tensor:
        """How much each tile counts at each of its pixels, `[tiles, side]`; at every place of the side, 1 in all."""
        side, fade = self.side * ratio, max(1, self.overlap * ratio)
        edge = torch.minimum(torch.arange(side), torch.arange(side).flip(0)) + 0.5
        rise = (edge / fade).clamp(max=1)
        starts = [start * ratio for start in self.starts(length)]
        total = torch.zeros(starts[-1] + side)
        for start in starts:
            total[start : start + side] += rise
        return torch.stack([rise / total[start : start + side] for start in starts])


RELEASE_TILING = Tiling(side=48, overlap=12)  # 384 pixels, a quarter of it overlapping, as the releases are configured


def whole_frame(height: int, width: int) -> list[Tile]:
    """A latent frame of this size as one tile."""
    return [Tile(0, 0, max(height, width))]
