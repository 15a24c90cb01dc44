"""What the HunyuanDiT of V4 makes of its conditions: timestep vector, text with learned padding, start image."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.hydit.poolers import AttentionPool
from comfy.ldm.modules.attention import optimized_attention
from comfy.ops import cast_to_input
from torch import Tensor, nn

from .layers import FREQUENCIES, sincos_positions, sinusoid

POOL_HEADS = 8
SIZE_NUMBERS = 6  # height and width of the source, of the video, and where the crop begins


@dataclass(frozen=True)
class ResamplerConfig:
    """How many tokens CLIP's become, how wide CLIP's are, and whether a layer projects them first."""

    queries: int
    channels: int
    projected: bool


class SiluMLP(nn.Module):
    """linear, SiLU, linear."""

    def __init__(self, inputs: int, inner: int, outputs: int, dtype, device, operations):
        super().__init__()
        self.linear_1 = operations.Linear(inputs, inner, dtype=dtype, device=device)
        self.linear_2 = operations.Linear(inner, outputs, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class TimestepTextSizeStyle(nn.Module):
    """Timestep, pooled text, size and style as one vector."""

    def __init__(self, width: int, pool: tuple[int, int, int], dtype, device, operations):
        """`pool` is the length and the width of the text that is pooled, and the width that it is pooled to."""
        super().__init__()
        leaf = (dtype, device, operations)
        length, channels, pooled = pool
        self.length = length
        self.pooler = AttentionPool(length, channels, POOL_HEADS, pooled, *leaf)
        self.style_embedder = operations.Embedding(1, width, dtype=dtype, device=device)
        self.timestep_embedder = SiluMLP(FREQUENCIES, width, width, *leaf)
        self.extra_embedder = SiluMLP(pooled + SIZE_NUMBERS * FREQUENCIES + width, 4 * width, width, *leaf)

    def initialize_weights(self) -> None:
        """Before training from scratch, as HunyuanDiT does."""
        nn.init.normal_(self.pooler.positional_embedding, std=self.pooler.embed_dim**-0.5)
        for mlp in (self.timestep_embedder, self.extra_embedder):
            nn.init.normal_(mlp.linear_1.weight, std=0.02)
            nn.init.normal_(mlp.linear_2.weight, std=0.02)

    def forward(self, timesteps: Tensor, text: Tensor, sizes: Tensor, style: Tensor) -> Tensor:
        """`timesteps` [B], `text` [B, L, C], `sizes` [B, 6] in pixels, `style` [B] -> [B, D]."""
        text = F.pad(text, (0, 0, 0, max(self.length - text.shape[1], 0)))
        embedded = sinusoid(sizes.flatten()).view(len(sizes), -1).to(text)
        extra = [self.pooler(text), embedded, self.style_embedder(style, out_dtype=text.dtype)]
        return self.timestep_embedder(sinusoid(timesteps).to(text)) + self.extra_embedder(torch.cat(extra, dim=1))


class _PackedAttention(nn.Module):
    """Attention whose query, key and value projections are one matrix, named as in PyTorch."""

    def __init__(self, width: int, heads: int, dtype, device, operations):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width, dtype=dtype, device=device))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width, dtype=dtype, device=device))
        self.out_proj = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, options) -> Tensor:
        weights = cast_to_input(self.in_proj_weight, query).chunk(3)
        biases = cast_to_input(self.in_proj_bias, query).chunk(3)
        q, k, v = map(F.linear, (query, key, value), weights, biases)
        return self.out_proj(optimized_attention(q, k, v, self.heads, transformer_options=options))


class Resampler(nn.Module):
    """CLIP tokens `[B, L, C]` as a fixed number of tokens `[B, queries, width]`, by learned queries (Qwen-VL)."""

    def __init__(self, config: ResamplerConfig, width: int, heads: int, dtype, device, operations):
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        self.query = nn.Parameter(torch.empty(config.queries, width, **kw))
        self.pos_embed = nn.Parameter(torch.empty(config.queries, width, **kw))
        self.kv_proj: Any = nn.Identity()
        if config.projected:
            self.kv_proj = operations.Linear(config.channels, width, bias=False, **kw)
        self.attn = _PackedAttention(width, heads, dtype, device, operations)
        self.ln_q = operations.LayerNorm(width, eps=1e-5, **kw)
        self.ln_kv = operations.LayerNorm(width, eps=1e-5, **kw)

    def initialize_weights(self) -> None:
        """Before training from scratch, as Qwen-VL does: queries at the positions of a square."""
        rows, width = math.isqrt(len(self.query)), self.query.shape[1]
        with torch.no_grad():
            self.pos_embed.copy_(sincos_positions(width, rows, rows, rows, 1.0, self.pos_embed.device))
        nn.init.normal_(self.query, std=0.02)
        nn.init.xavier_uniform_(self.attn.in_proj_weight)
        nn.init.zeros_(self.attn.in_proj_bias)
        for layer in (self.attn.out_proj, self.kv_proj):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor, options) -> Tensor:
        positions, value = cast_to_input(self.pos_embed, x), self.ln_kv(self.kv_proj(x))
        query = self.ln_q(cast_to_input(self.query, x)) + positions
        key = value + _resized_square(positions, x.shape[1])
        return self.attn(query.expand(len(x), -1, -1), key, value, options)


def _resized_square(table: Tensor, rows: int) -> Tensor:
    """A table `[N, D]` of a square's positions as one of `rows` positions, a square too."""
    if len(table) == rows:
        return table
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    image = table.float().view(1, old, old, -1).movedim(-1, 1)
    image = F.interpolate(image, (new, new), mode="bicubic", align_corners=False)
    return image.movedim(1, -1).flatten(0, 2).to(table.dtype)


def with_learned_padding(tokens: Tensor, mask: Tensor | None, padding: Tensor) -> Tensor:
    """Tokens `[B, L, D]` with rows of `padding` [trained length, D] where `mask` [B, L] is 0, and where they end early.

    Longer texts are several of the trained length, one after the other.
    """
    mask = tokens.new_ones(tokens.shape[:2]) if mask is None else mask
    missing = max(len(padding) - tokens.shape[1], 0)
    tokens, mask = F.pad(tokens, (0, 0, 0, missing)), F.pad(mask, (0, missing))
    rows = cast_to_input(padding, tokens).repeat(-(-tokens.shape[1] // len(padding)), 1)
    return torch.where(mask[..., None].bool(), tokens, rows[: tokens.shape[1]])
