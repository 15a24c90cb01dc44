"""Building blocks of the video VAEs: 3-D residual blocks, attention over a slice, down- and upsampling.

What happens at the ends of a slice in time is the business of a `time` object, `SliceTime` or `WindowTime`.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

EPS = 1e-6


class SliceTime:
    """V3: every 3x3x3 convolution pads time with a zero frame on either side, inside the slice that it is given."""

    zeros = 1

    def extend(self, x: Tensor) -> Tensor:
        """What a convolution sees beyond the zeros."""
        return x

    def double(self, x: Tensor) -> Tensor:
        """Twice the frames; a single frame stays single."""
        return x if x.shape[2] == 1 else F.interpolate(x, scale_factor=(2, 1, 1), mode="trilinear")


class WindowTime:
    """V2: causal; every 3x3x3 convolution sees the first frame of the window twice more, and nothing after the last."""

    zeros = 0

    def extend(self, x: Tensor) -> Tensor:
        """Two copies of the first frame in front."""
        return torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)

    def double(self, x: Tensor) -> Tensor:
        """Twice the frames, all but the first."""
        if x.shape[2] == 1:
            return x
        rest = F.interpolate(x[:, :, 1:], scale_factor=(2, 1, 1), mode="trilinear")
        return torch.cat([x[:, :, :1], rest], dim=2)


class ResidualBlock(nn.Module):
    """norm, silu, conv, twice, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.time = ops["time"]
        self.norm1 = operations.GroupNorm(groups, in_channels, eps=EPS, **kw)
        self.conv1 = conv3d(in_channels, out_channels, **ops)
        self.norm2 = operations.GroupNorm(groups, out_channels, eps=EPS, **kw)
        self.conv2 = conv3d(out_channels, out_channels, **ops)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else operations.Conv3d(in_channels, out_channels, 1, **kw)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.time.extend(F.silu(self.norm1(x))))
        h = self.conv2(self.time.extend(F.silu(self.norm2(h))))
        return h + self.shortcut(x)


class SliceAttention(nn.Module):
    """One attention head over all frames and positions of what it is given."""

    def __init__(self, channels: int, groups: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.group_norm = operations.GroupNorm(groups, channels, eps=EPS, **kw)
        self.to_q = operations.Linear(channels, channels, **kw)
        self.to_k = operations.Linear(channels, channels, **kw)
        self.to_v = operations.Linear(channels, channels, **kw)
        self.to_out = operations.Linear(channels, channels, **kw)

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, F*H*W, C)
        h = optimized_attention(self.to_q(h), self.to_k(h), self.to_v(h), heads=1)
        return x + self.to_out(h).transpose(1, 2).reshape(x.shape)


class MidBlock(nn.Module):
    """Residual blocks with attention between them, at the smallest size."""

    def __init__(self, channels: int, layers: int, groups: int, **ops):
        super().__init__()
        self.convs = nn.ModuleList(ResidualBlock(channels, channels, groups, **ops) for _ in range(layers))
        self.attentions = nn.ModuleList(SliceAttention(channels, groups, **ops) for _ in range(layers - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs[0](x)
        for attention, conv in zip(self.attentions, self.convs[1:], strict=True):
            x = conv(attention(x))
        return x


class Downsampler(nn.Module):
    """Half the height and width, and half the frames when `time_stride` is 2."""

    def __init__(self, channels: int, time_stride: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.time = ops["time"]
        stride, padding = (time_stride, 2, 2), (self.time.zeros, 0, 0)
        self.conv = operations.Conv3d(channels, channels, 3, stride=stride, padding=padding, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.time.extend(F.pad(x, (0, 1, 0, 1))))


class Upsampler(nn.Module):
    """Twice the height and width, and twice the frames when `time_factor` is 2."""

    def __init__(self, channels: int, time_factor: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.time = ops["time"]
        self.time_factor = time_factor
        self.conv = doubling_conv3d(operations.Conv3d)(channels, channels, 3, padding=(self.time.zeros, 0, 0), **kw)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.time.extend(x))
        return x if self.time_factor == 1 else self.time.double(x)


@cache
def doubling_conv3d(conv3d: Any) -> type[nn.Conv3d]:
    """The host's `conv3d` over an image whose pixels are doubled (nearest), without making that image.

    Of the nine spatial weights, those that fall on the same pixel are added up: each of the four places in a doubled
    pixel is a convolution with four, so that less than half of the work is left.
    """

    class DoublingConv3d(conv3d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args, **kwargs) -> Tensor:
            height, width = x.shape[3:]
            x = F.pad(x, (1, 1, 1, 1))
            out: Any = None
            for row, upper in enumerate(_folded(weight, 3)):
                for column, folded in enumerate(_folded(upper, 4)):
                    seen = x[:, :, :, row : row + height + 1, column : column + width + 1]
                    y = super()._conv_forward(seen, folded, bias, *args, **kwargs)
                    out = _doubled_like(y) if out is None else out
                    out[:, :, :, row::2, column::2] = y
            return out

    return DoublingConv3d


def _folded(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Three weights along `dim` as the two that the first, and the second, half of a doubled pixel sees."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)


def _doubled_like(y: Tensor) -> Tensor:
    """Room for twice the height and width of `y`, in its memory layout."""
    b, c, t, h, w = y.shape
    last = y.is_contiguous(memory_format=torch.channels_last_3d)
    layout = torch.channels_last_3d if last else torch.contiguous_format
    return torch.empty((b, c, t, 2 * h, 2 * w), dtype=y.dtype, device=y.device, memory_format=layout)


def _residual_blocks(in_channels: int, out_channels: int, layers: int, groups: int, **ops) -> nn.ModuleList:
    widths = [in_channels] + [out_channels] * layers
    return nn.ModuleList(ResidualBlock(a, b, groups, **ops) for a, b in zip(widths, widths[1:], strict=False))


class DownBlock(nn.Module):
    """Residual blocks, then a downsampler (none in the last block)."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, time_stride: int | None, groups: int, **ops):
        super().__init__()
        self.convs = _residual_blocks(in_channels, out_channels, layers, groups, **ops)
        self.downsampler = Downsampler(out_channels, time_stride, **ops) if time_stride else None

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return x if self.downsampler is None else self.downsampler(x)


class UpBlock(nn.Module):
    """Residual blocks, then an upsampler (none in the last block)."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, time_factor: int | None, groups: int, **ops):
        super().__init__()
        self.convs = _residual_blocks(in_channels, out_channels, layers, groups, **ops)
        self.upsampler = Upsampler(out_channels, time_factor, **ops) if time_factor else None

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return x if self.upsampler is None else self.upsampler(x)


def conv3d(in_channels: int, out_channels: int, **ops) -> nn.Module:
    """3x3x3; to be called on what `time.extend` gives."""
    kw, operations = leaf(ops)
    return operations.Conv3d(in_channels, out_channels, 3, padding=(ops["time"].zeros, 1, 1), **kw)


def leaf(ops: dict) -> tuple[dict[str, Any], Any]:
    """`dtype, device, operations` as (keyword arguments of a leaf, the host's operations)."""
    return {"dtype": ops["dtype"], "device": ops["device"]}, ops["operations"]
