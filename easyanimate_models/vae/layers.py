"""Building blocks of the video VAEs: 3-D residual blocks, attention, down- and upsampling.

`LayerFactory` says what they are made of. What happens at the ends of a slice in time is the business of its `time`
object, which may keep features for the next slice in the `cache` that is handed through every `forward`: a dict that
belongs to one tile of one video, so that nothing stays on the modules.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache as memoised
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from einops import rearrange
from torch import Tensor, nn

EPS = 1e-6
KERNEL = 3  # of the convolutions, in time
Cache = dict[nn.Module, Tensor]  # by the convolution that left it


class SliceTime:
    """V3: every 3x3x3 convolution pads time with a zero frame on either side, inside the slice that it is given."""

    zeros = 1

    def convolve(self, conv: nn.Module, x: Tensor, cache: Cache) -> Tensor:
        """`conv` over a slice; nothing is kept for the next."""
        return conv(x)

    def double(self, x: Tensor, first: bool) -> Tensor:
        """Twice the frames; a single frame stays single. `first` says that no slice came before."""
        return x if x.shape[2] == 1 else F.interpolate(x, scale_factor=(2, 1, 1), mode="trilinear")


class WindowTime:
    """V2: causal; every 3x3x3 convolution sees the first frame of the window twice more, and nothing after the last."""

    zeros = 0

    def convolve(self, conv: nn.Module, x: Tensor, cache: Cache) -> Tensor:
        """`conv` over a window, two copies of its first frame in front; nothing is kept for the next."""
        return convolved_after(None, conv, x)

    def double(self, x: Tensor, first: bool) -> Tensor:
        """Twice the frames, all but the first of every window."""
        if x.shape[2] == 1:
            return x
        rest = F.interpolate(x[:, :, 1:], scale_factor=(2, 1, 1), mode="trilinear")
        return torch.cat([x[:, :, :1], rest], dim=2)


def convolved_after(cached: Tensor | None, conv: Any, x: Tensor) -> Tensor:
    """`conv` over the frames `cached` and then `x`, without a copy of both: only of what is seen beside `cached`.

    Without any, the first frame of `x` is seen twice more.
    """
    if cached is None and x.shape[2] == 1:
        return conv(x)  # a `StillConv3d`
    before = [x[:, :, :1]] * (KERNEL - 1) if cached is None else [cached]
    frames, stride = sum(part.shape[2] for part in before), conv.stride[0]
    rest = -frames % stride  # where in `x` the first window begins that sees nothing of `before`
    if x.shape[2] < rest + KERNEL:
        return conv(torch.cat([*before, x], dim=2))
    edge = conv(torch.cat([*before, x[:, :, : rest + KERNEL - stride]], dim=2))
    return torch.cat([edge, conv(x[:, :, rest:])], dim=2)


class CausalTime:
    """V5 and V5.1: causal over the whole video; every convolution keeps the last frames of what it saw for the next.

    The first slice is one frame, which stays one and is seen twice more; each later frame is doubled.
    """

    zeros = 0

    def convolve(self, conv: Any, x: Tensor, cache: Cache) -> Tensor:
        """`conv` over a slice, what it left of the slice before in front."""
        cached, length = cache.get(conv), KERNEL - conv.stride[0]
        convolved = convolved_after(cached, conv, x)
        last = x if x.shape[2] >= length else torch.cat([x if cached is None else cached, x], dim=2)
        cache[conv] = last[:, :, -length:].clone()  # the whole of `x` would stay alive with a view
        return convolved

    def double(self, x: Tensor, first: bool) -> Tensor:
        """Every frame twice, but for the first of the video."""
        return x if first else F.interpolate(x, scale_factor=(2, 1, 1), mode="nearest")


class PairTime(CausalTime):
    """V4's decoder: the same over pairs of latents, the first pair too; a video of one latent goes by V3's rule."""

    def convolve(self, conv: Any, x: Tensor, cache: Cache) -> Tensor:
        """`conv` over a pair; over a still image, between two frames of zeros."""
        if conv not in cache and x.shape[2] == 1:
            return conv(F.pad(x, (0, 0, 0, 0, SliceTime.zeros, SliceTime.zeros)))
        return super().convolve(conv, x, cache)

    def double(self, x: Tensor, first: bool) -> Tensor:
        """Twice the frames, which fade inside the pair; a still image stays one frame."""
        return x if first and x.shape[2] == 1 else F.interpolate(x, scale_factor=(2, 1, 1), mode="trilinear")


@dataclass(frozen=True)
class LayerFactory:
    """Layers of one network: their time rule, group norms over whole slices or single frames, dtype, device, ops."""

    time: Any
    norm_groups: int
    norm_kind: str  # of NORMS
    attention_kind: str | None  # of ATTENTIONS; None for no attention
    dtype: torch.dtype | None
    device: Any
    operations: Any

    def norm(self, channels: int) -> Any:
        """A group norm."""
        kind = NORMS[self.norm_kind](self.operations.GroupNorm)
        return kind(self.norm_groups, channels, eps=EPS, dtype=self.dtype, device=self.device)

    def conv(self, in_channels: int, out_channels: int) -> Any:
        """3x3x3; to be called by `time.convolve`."""
        return self._conv3d(in_channels, out_channels, 3, padding=(self.time.zeros, 1, 1))

    def pointwise(self, in_channels: int, out_channels: int) -> Any:
        """1x1x1."""
        return self._conv3d(in_channels, out_channels, 1)

    def halving(self, channels: int, time_stride: int) -> Any:
        """3x3x3 with a stride, over what is padded at the right and the bottom; to be called by `time.convolve`."""
        return self._conv3d(channels, channels, 3, stride=(time_stride, 2, 2), padding=(self.time.zeros, 0, 0))

    def doubling(self, channels: int) -> Any:
        """3x3x3 over twice the height and width; to be called by `time.convolve`."""
        conv3d = doubling_conv3d(still_conv3d(self.operations.Conv3d))
        return conv3d(channels, channels, 3, padding=(self.time.zeros, 0, 0), dtype=self.dtype, device=self.device)

    def linear(self, channels: int) -> Any:
        """As many channels out as in."""
        return self.operations.Linear(channels, channels, dtype=self.dtype, device=self.device)

    def attention(self, channels: int) -> Any:
        """What mixes positions at the smallest size, if anything does."""
        return None if self.attention_kind is None else ATTENTIONS[self.attention_kind](channels, self)

    def _conv3d(self, *args, **kwargs) -> Any:
        return still_conv3d(self.operations.Conv3d)(*args, dtype=self.dtype, device=self.device, **kwargs)


class ResidualBlock(nn.Module):
    """norm, silu, conv, twice, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, make: LayerFactory):
        super().__init__()
        self.time = make.time
        self.norm1 = make.norm(in_channels)
        self.conv1 = make.conv(in_channels, out_channels)
        self.norm2 = make.norm(out_channels)
        self.conv2 = make.conv(out_channels, out_channels)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else make.pointwise(in_channels, out_channels)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        h = self.time.convolve(self.conv1, F.silu(self.norm1(x), inplace=True), cache)
        h = F.silu(self.norm2(h), inplace=True)
        h = self.time.convolve(self.conv2, h, cache)
        return h.add_(self.shortcut(x))


class SliceAttention(nn.Module):
    """One attention head over all frames and positions of what it is given."""

    def __init__(self, channels: int, make: LayerFactory):
        super().__init__()
        self.group_norm = make.norm(channels)
        self.to_q = make.linear(channels)
        self.to_k = make.linear(channels)
        self.to_v = make.linear(channels)
        self.to_out = make.linear(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, F*H*W, C)
        h = optimized_attention(self.to_q(h), self.to_k(h), self.to_v(h), heads=1)
        return x + self.to_out(h).transpose(1, 2).reshape(x.shape)


class FrameAttention(SliceAttention):
    """One attention head over the positions of each frame."""

    def forward(self, x: Tensor) -> Tensor:
        frames = super().forward(rearrange(x, "b c f h w -> (b f) c 1 h w"))
        return rearrange(frames, "(b f) c 1 h w -> b c f h w", b=len(x))


ATTENTIONS = {"slice": SliceAttention, "frame": FrameAttention}


@memoised
def frame_norm(group_norm: Any) -> type[nn.GroupNorm]:
    """The host's `group_norm` over the positions of each frame, instead of those of the whole slice."""

    class FrameGroupNorm(group_norm):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] == 1:  # as a batch of frames it would lose its memory layout
                return super().forward(x)
            frames = super().forward(rearrange(x, "b c f h w -> (b f) c h w"))
            return rearrange(frames, "(b f) c h w -> b c f h w", b=len(x))

    return FrameGroupNorm


NORMS: dict[str, Any] = {"slice": lambda group_norm: group_norm, "frame": frame_norm}


class MidBlock(nn.Module):
    """Residual blocks with attention between them, at the smallest size."""

    def __init__(self, channels: int, layers: int, make: LayerFactory):
        super().__init__()
        self.convs = nn.ModuleList(ResidualBlock(channels, channels, make) for _ in range(layers))
        attentions = (make.attention(channels) for _ in range(layers - 1))
        self.attentions = nn.ModuleList(attention for attention in attentions if attention is not None)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        for i, conv in enumerate(self.convs):
            if i and self.attentions:
                x = self.attentions[i - 1](x)
            x = conv(x, cache)
        return x


class Downsampler(nn.Module):
    """Half the height and width, and half the frames when `time_stride` is 2."""

    def __init__(self, channels: int, time_stride: int, make: LayerFactory):
        super().__init__()
        self.time = make.time
        self.conv = make.halving(channels, time_stride)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        return self.time.convolve(self.conv, F.pad(x, (0, 1, 0, 1)), cache)


class Upsampler(nn.Module):
    """Twice the height and width, and twice the frames when `time_factor` is 2."""

    def __init__(self, channels: int, time_factor: int, make: LayerFactory):
        super().__init__()
        self.time = make.time
        self.time_factor = time_factor
        self.conv = make.doubling(channels)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        first = self.conv not in cache
        x = self.time.convolve(self.conv, x, cache)
        return x if self.time_factor == 1 else self.time.double(x, first)


@memoised
def still_conv3d(conv3d: Any) -> Any:
    """The host's `conv3d` that, without zeros around time, sees a single frame as often as its kernel is deep.

    That is a convolution with the sum of its weights over time, so that the copies are neither made nor worked on.
    """

    class StillConv3d(conv3d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args, **kwargs) -> Tensor:
            if x.shape[2] == 1 < weight.shape[2] and not self.padding[0]:
                weight = weight.sum(2, keepdim=True)
            return super()._conv_forward(x, weight, bias, *args, **kwargs)

    return StillConv3d


@memoised
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
                    window = x[:, :, :, row : row + height + 1, column : column + width + 1]
                    y = super()._conv_forward(window, folded, bias, *args, **kwargs)
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


def _residual_blocks(in_channels: int, out_channels: int, layers: int, make: LayerFactory) -> nn.ModuleList:
    widths = [in_channels] + [out_channels] * layers
    return nn.ModuleList(ResidualBlock(a, b, make) for a, b in zip(widths, widths[1:], strict=False))


class DownBlock(nn.Module):
    """Residual blocks, then a downsampler (none in the last block)."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, time_stride: int | None, make: LayerFactory):
        super().__init__()
        self.convs = _residual_blocks(in_channels, out_channels, layers, make)
        self.downsampler = Downsampler(out_channels, time_stride, make) if time_stride else None

    def __iter__(self) -> Iterator[nn.Module]:
        """Its layers, to be called one after the other: a `forward` would hold its input to the end."""
        yield from self.convs if self.downsampler is None else [*self.convs, self.downsampler]


class UpBlock(nn.Module):
    """Residual blocks, then an upsampler (none in the last block)."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, time_factor: int | None, make: LayerFactory):
        super().__init__()
        self.convs = _residual_blocks(in_channels, out_channels, layers, make)
        self.upsampler = Upsampler(out_channels, time_factor, make) if time_factor else None

    def __iter__(self) -> Iterator[nn.Module]:
        """Its layers, as those of `DownBlock`."""
        yield from self.convs if self.upsampler is None else [*self.convs, self.upsampler]
