"""Layers of the PixArt-style image transformer: attention, feed-forward, adaLN-single, projections, positions."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

FREQUENCIES = 256
DROPPED = -10000.0  # bias of a masked token, as trained


class Attention(nn.Module):
    """Multi-head attention of `x` over `context`, by default over itself."""

    def __init__(self, width: int, heads: int, qkv_bias: bool, dtype, device, operations):
        super().__init__()
        self.heads = heads
        kw = {"dtype": dtype, "device": device}
        self.to_q = operations.Linear(width, width, bias=qkv_bias, **kw)
        self.to_k = operations.Linear(width, width, bias=qkv_bias, **kw)
        self.to_v = operations.Linear(width, width, bias=qkv_bias, **kw)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **kw)])

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, options=None) -> Tensor:
        return self.attend(x, self.keys_values(x if context is None else context), mask, options)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What of `context` [B, L, C] is attended over, [B, L, D] each."""
        return self.to_k(context), self.to_v(context)

    def attend(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None = None, options=None) -> Tensor:
        """Attention of `x`, all tokens or some, over `keys_values`."""
        q = self.to_q(x)
        h = optimized_attention(q, *keys_values, self.heads, mask=mask, transformer_options=options or {})
        del q
        return self.to_out[0](h)


class _Gelu(nn.Module):
    def __init__(self, width: int, inner: int, dtype, device, operations):
        super().__init__()
        self.proj = operations.Linear(width, inner, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        h = self.proj(x)
        if torch.is_grad_enabled():
            return F.gelu(h, approximate="tanh")
        return torch.ops.aten.gelu_(h, approximate="tanh")  # in place: one tensor of the inner width less


class _Geglu(nn.Module):
    def __init__(self, width: int, inner: int, dtype, device, operations):
        super().__init__()
        self.proj = operations.Linear(width, 2 * inner, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return F.gelu(gate).mul_(x)  # in place: one tensor of the inner width less


class FeedForward(nn.Module):
    """By default four times as wide inside; the spatial block uses GELU, the motion module GEGLU."""

    def __init__(self, width: int, gated: bool, dtype, device, operations, *, inner: int | None = None):
        super().__init__()
        inner = inner or 4 * width
        activation = (_Geglu if gated else _Gelu)(width, inner, dtype, device, operations)
        out = operations.Linear(inner, width, dtype=dtype, device=device)
        self.net = nn.ModuleList([activation, nn.Identity(), out])  # names of the checkpoint: net.0.proj, net.2

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class TwoLayer(nn.Module):
    """linear, activation, linear: the embedders and the caption and CLIP projections."""

    def __init__(self, inputs: int, outputs: int, activation: nn.Module, dtype, device, operations):
        super().__init__()
        self.linear_1 = operations.Linear(inputs, outputs, dtype=dtype, device=device)
        self.activation = activation
        self.linear_2 = operations.Linear(outputs, outputs, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.activation(self.linear_1(x)))


class TimeAndSizeEmbedding(nn.Module):
    """Timestep, and for models of sample size 128 also resolution and aspect ratio, as one vector."""

    def __init__(self, width: int, with_size: bool, dtype, device, operations):
        super().__init__()
        leaf = (dtype, device, operations)
        self.timestep_embedder = TwoLayer(FREQUENCIES, width, nn.SiLU(), *leaf)
        self.resolution_embedder = TwoLayer(FREQUENCIES, width // 3, nn.SiLU(), *leaf) if with_size else None
        self.aspect_ratio_embedder = TwoLayer(FREQUENCIES, width // 3, nn.SiLU(), *leaf) if with_size else None

    def forward(self, timesteps: Tensor, size: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
        embedded = self.timestep_embedder(sinusoid(timesteps).to(dtype))
        if self.resolution_embedder is None or self.aspect_ratio_embedder is None:
            return embedded
        resolution, aspect_ratio = size  # (B, 2) in pixels, (B,)
        parts = [self.resolution_embedder(sinusoid(side).to(dtype)) for side in resolution.unbind(1)]
        parts.append(self.aspect_ratio_embedder(sinusoid(aspect_ratio).to(dtype)))
        return embedded + torch.cat(parts, dim=1)


class AdaLNSingle(nn.Module):
    """One projection gives shift, scale and gate to every block; each block adds its own table (PixArt-alpha)."""

    def __init__(self, width: int, with_size: bool, dtype, device, operations):
        super().__init__()
        self.emb = TimeAndSizeEmbedding(width, with_size, dtype, device, operations)
        self.linear = operations.Linear(width, 6 * width, dtype=dtype, device=device)

    def forward(self, timesteps: Tensor, size: tuple[Tensor, Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedded = self.emb(timesteps, size, dtype)
        return self.linear(F.silu(embedded)), embedded  # (B, 6*D), (B, D)


class PatchEmbed(nn.Module):
    """Each frame's 2x2 patches as tokens, with 2-D sin-cos positions rescaled to the trained grid."""

    def __init__(self, in_channels: int, width: int, patch: int, sample_size: int, dtype, device, operations):
        super().__init__()
        self.base = sample_size // patch
        self.scale = max(sample_size // 64, 1)
        self.proj = operations.Conv2d(in_channels, width, patch, stride=patch, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)  # (B*F, D, H, W)
        positions = sincos_positions(x.shape[1], x.shape[2], x.shape[3], self.base, self.scale, x.device)
        x = x.flatten(2).transpose(1, 2).contiguous()  # or all that follows would be laid out like an image
        return x.add_(positions.to(x.dtype))  # (B*F, H*W, D)


def sinusoid(values: Tensor, channels: int = FREQUENCIES) -> Tensor:
    """Timesteps or sizes `[B]` as `[B, channels]`, cosines first, float32."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_positions(width: int, rows: int, columns: int, base: int, scale: float, device) -> Tensor:
    """2-D positions `[rows * columns, width]`: the column in the first half, the row in the second, float32.

    Indices are rescaled so that any grid spans what `base` tokens spanned in training.
    """
    quarter = width // 4
    omega = torch.arange(quarter, dtype=torch.float64, device=device) / quarter
    omega = 10000**-omega

    def axis(count: int) -> Tensor:
        position = torch.arange(count, dtype=torch.float64, device=device) * (base / count) / scale
        angles = position[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    column = axis(columns).expand(rows, -1, -1)
    row = axis(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([column, row], dim=-1).reshape(rows * columns, width).float()


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """What adaLN does to a normed `x`."""
    return (x * (1 + scale)).add_(shift)


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask `[B, L]` (1 keep, 0 drop) as an additive bias `[B, 1, 1, L]`."""
    return ((1 - mask.to(dtype)) * DROPPED)[:, None, None, :]


def zero(*layers: Any) -> None:
    """Make layers give nothing, as training from scratch begins."""
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
