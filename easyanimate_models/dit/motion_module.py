"""The motion module (paper section 3.1): attention over time, plugged into every block of an image transformer.

V1 attends over frames within cells of two by two positions, V2 at each position. V3 calls its own hybrid: even
blocks attend over frames at each position, twice; in odd blocks the second attention is global, over all frames
and positions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .layers import Attention, FeedForward
from .step_plan import plan_of

NORM_GROUPS = 32
CELL = 2  # side of a grid cell, in tokens

Grid = tuple[int, int, int]  # frames, rows, columns of tokens
Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MotionConfig:
    """One kind of motion module: the attention kinds in order, and the heads of each."""

    attentions: tuple[str, ...]  # names in KINDS
    heads: int


class TemporalAttention(Attention):
    """Across frames, at a fixed position. The encoding of the frame number is added first."""

    def add_to(self, x: Tensor, norm: Layer, grid: Grid, options=None) -> Tensor:
        """`x` [B*F, N, D] and what attention makes of it, normed; `x` itself may change."""
        positions = frame_positions(grid[0], x)[:, None]

        def added(part: Tensor) -> Tensor:
            h = rearrange(norm(part) + positions, "b f n d -> (b n) f d").contiguous()  # one product in each linear
            return part + rearrange(self(h, options=options), "(b n) f d -> b f n d", b=len(part))

        return plan_of(options).update(x.unflatten(0, (-1, grid[0])), added, dim=2).flatten(0, 1)


class GlobalAttention(Attention):
    """Across all frames and positions. The encoding of the frame number is added first."""

    def add_to(self, x: Tensor, norm: Layer, grid: Grid, options=None) -> Tensor:
        """`x` [B*F, N, D] and what attention makes of it, normed; `x` itself may change."""
        plan, positions = plan_of(options), frame_positions(grid[0], x)[None, :, None]
        x = x.unflatten(0, (-1, grid[0]))

        def encoded(part: Tensor, positions: Tensor) -> Tensor:
            return (norm(part) + positions).flatten(1, 2)

        def keys_values(part: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
            k, v = self.keys_values(encoded(part, positions))
            return k.view_as(part), v.view_as(part)

        k, v = plan.make(x, keys_values, positions)
        whole = k.flatten(1, 2), v.flatten(1, 2)

        def added(part: Tensor, positions: Tensor) -> Tensor:
            return part + self.attend(encoded(part, positions), whole, options=options).view_as(part)

        return plan.update(x, added, positions).flatten(0, 1)


class GridAttention(Attention):
    """Across frames, within cells of 2x2 positions. The encoding of the frame number is added first.

    Where rows or columns are odd, the last cells are cut in half. (The original only takes even ones.)
    """

    def add_to(self, x: Tensor, norm: Layer, grid: Grid, options=None) -> Tensor:
        """`x` [B*F, N, D] and what attention makes of it, normed; `x` itself may change."""
        frames, rows, _ = grid
        positions = frame_positions(frames, x)[:, None, None]

        def added(part: Tensor) -> Tensor:
            return part + self._over_cells(norm(part) + positions, options)

        x = x.unflatten(1, (rows, -1)).unflatten(0, (-1, frames))
        return plan_of(options).update(x, added, dim=2, unit=CELL).flatten(2, 3).flatten(0, 1)

    def _over_cells(self, x: Tensor, options) -> Tensor:
        """`x` [B, F, H, W, D] in whole cells, and half ones at the edges."""
        bands = [[self._cells(part, options) for part in _even_and_rest(band, 3)] for band in _even_and_rest(x, 2)]
        return torch.cat([torch.cat(band, dim=3) for band in bands], dim=2)

    def _cells(self, x: Tensor, options) -> Tensor:
        """`x` [B, F, H, W, D] of whole cells, or of halves along one edge."""
        batch, frames, rows, columns = x.shape[:4]
        p, q = min(CELL, rows), min(CELL, columns)
        x = rearrange(x, "b f (h p) (w q) d -> (b h w) (f p q) d", p=p, q=q)
        x = self(x, options=options)
        sizes = {"b": batch, "f": frames, "h": rows // p, "p": p, "q": q}
        return rearrange(x, "(b h w) (f p q) d -> b f (h p) (w q) d", **sizes)


KINDS = {"temporal": TemporalAttention, "global": GlobalAttention, "grid": GridAttention}


class MotionBlock(nn.Module):
    """The attentions in order, then a feed-forward, each on the normed input beside a residual."""

    def __init__(self, width: int, config: MotionConfig, dtype, device, operations):
        super().__init__()
        leaf = {"dtype": dtype, "device": device}
        kinds = [KINDS[name] for name in config.attentions]
        self.attention_blocks: Any = nn.ModuleList(
            kind(width, config.heads, False, dtype, device, operations) for kind in kinds
        )
        self.norms = nn.ModuleList(operations.LayerNorm(width, eps=1e-5, **leaf) for _ in kinds)
        self.ff = FeedForward(width, True, dtype, device, operations)
        self.ff_norm = operations.LayerNorm(width, eps=1e-5, **leaf)

    def forward(self, x: Tensor, grid: Grid, options=None) -> Tensor:
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            x = attention.add_to(x, norm, grid, options)
        return plan_of(options).update(x, lambda part: part + self.ff(self.ff_norm(part)), dim=0)


class TemporalTransformer(nn.Module):
    """Group norm per frame, linear in, motion block, linear out (zero when training starts), residual."""

    def __init__(self, width: int, config: MotionConfig, dtype, device, operations):
        super().__init__()
        leaf = {"dtype": dtype, "device": device}
        self.norm = operations.GroupNorm(NORM_GROUPS, width, eps=1e-6, **leaf)
        self.proj_in = operations.Linear(width, width, **leaf)
        self.transformer_blocks = nn.ModuleList([MotionBlock(width, config, dtype, device, operations)])
        self.proj_out = operations.Linear(width, width, **leaf)

    def forward(self, x: Tensor, grid: Grid, options=None) -> Tensor:
        plan = plan_of(options)
        (h,) = plan.make(x, lambda part: (self.proj_in(self._normed(part)),), dim=0)
        for block in self.transformer_blocks:
            h = block(h, grid, options)
        return plan.update(x, lambda part, h: part + self.proj_out(h), h, dim=0)

    def _normed(self, x: Tensor) -> Tensor:
        """`x` [B*F, N, D]; as a picture of one row with its channels last, which a CPU norms without copies."""
        return self.norm(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)


class MotionModule(nn.Module):
    """Tokens `[B*F, N, D]` in and out, which may change in place; the extra level is the checkpoint's."""

    def __init__(self, width: int, config: MotionConfig, dtype, device, operations):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(width, config, dtype, device, operations)

    def forward(self, x: Tensor, grid: Grid, options=None) -> Tensor:
        return self.temporal_transformer(x, grid, options)


def _even_and_rest(x: Tensor, dim: int) -> list[Tensor]:
    """The even part along `dim`, then the last line of an odd one."""
    even = x.shape[dim] // CELL * CELL
    parts = x.split([even, x.shape[dim] - even], dim=dim)
    return [part for part in parts if part.shape[dim]]


def frame_positions(frames: int, like: Tensor) -> Tensor:
    """Sinusoids of the frame number, `[frames, D]`: even channels sine, odd cosine."""
    width = like.shape[-1]
    position = torch.arange(frames, device=like.device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10000.0) / width))
    angles = position * rate
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(like.dtype)
