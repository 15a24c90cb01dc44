"""3x3x3 convolutions with four products for two frames instead of six: Winograd's minimal filtering along time.

On a CPU products are what a VAE's time goes into. It is `F(2, 3)` of Lavin and Gray (arXiv 1509.09308), whose factors
are halves and ones, so that results are as exact as those of a plain convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3  # frames that a result is made of
FEWEST_CHANNELS, FEWEST_PIXELS = 16, 1024  # with less, preparing takes longer than what is saved
CHUNK = 2_000_000  # numbers of which sums are made at once


def saves_products(conv: nn.Conv3d, x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve_in_pairs` gives what `conv` gives of `x` `[1, C, T, H, W]`, sooner; it learns nothing."""
    zeros = int(conv.padding[0])
    plain = conv.stride == conv.dilation == (1, 1, 1) and conv.groups == 1 and weight.shape[2] == KERNEL
    channels_last = len(x) == 1 and x.stride(1) == 1
    pairs = (x.shape[2] + 2 * zeros - KERNEL + 1) // 2
    large = min(weight.shape[:2]) >= FEWEST_CHANNELS and pairs * x[0, 0, 0].numel() >= FEWEST_PIXELS
    return plain and channels_last and pairs > zeros and large and not torch.is_grad_enabled()


def convolve_in_pairs(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int, int]) -> Tensor:
    """`conv3d` without strides, two frames of the result at a time."""
    zeros, *sides = padding
    frames = x.shape[2] + 2 * zeros - KERNEL + 1
    out = _empty_result(x, weight, frames, sides)
    filters = _transformed(weight)
    at_once = max(1, CHUNK // x[:, :, 0].numel())
    for start in range(0, frames // 2, at_once):
        end = min(start + at_once, frames // 2)
        inputs = [_every_other_frame(x, 2 * start - zeros + i, end - start) for i in range(4)]
        _fill_pairs(out[:, :, 2 * start : 2 * end], inputs, filters, bias, sides)
    if frames % 2:
        rest = F.pad(x[:, :, frames - 1 - zeros :], (0, 0, 0, 0, 0, zeros))
        out[:, :, -1:] = torch.mkldnn_convolution(rest, weight, bias, (0, *sides), (1, 1, 1), (1, 1, 1), 1)
    return out


def _fill_pairs(
    out: Tensor, inputs: list[Tensor], filters: tuple[Tensor, ...], bias: Tensor | None, sides: list[int]
) -> None:
    """Fill `out`, pair by pair, from the four frames that each pair depends on, in `inputs` by their order."""
    first, second, third, fourth = inputs
    even, odd = out[:, :, ::2], out[:, :, 1::2]
    total = _convolve_frames(second + third, filters[1], bias, sides)
    difference = _convolve_frames(third - second, filters[2], None, sides)
    torch.add(total, difference, out=even)
    torch.sub(total, difference, out=odd)
    del total, difference
    even += _convolve_frames(first - third, filters[0], None, sides)
    odd += _convolve_frames(fourth - second, filters[3], None, sides)


def _transformed(weight: Tensor) -> tuple[Tensor, ...]:
    """The four filters over height and width that the three are made into."""
    first, middle, last = weight.unbind(2)
    ends, middle = (first + last) / 2, middle / 2
    filters = first, ends + middle, ends - middle, last
    return tuple(filter.contiguous(memory_format=torch.channels_last) for filter in filters)


def _every_other_frame(x: Tensor, start: int, count: int) -> Tensor:
    """`count` frames of `x`, every other one from `start`, and zeros before its first and behind its last frame."""
    before, behind = start < 0, start + 2 * (count - 1) >= x.shape[2]
    frames = x[:, :, start + 2 * before : max(start + 2 * (count - behind) - 1, 0) : 2]
    if not (before or behind):
        return frames
    zero = torch.zeros_like(x[:, :, :1])
    return torch.cat([zero] * before + [frames] * (frames.shape[2] > 0) + [zero] * behind, dim=2)


def _convolve_frames(x: Tensor, weight: Tensor, bias: Tensor | None, sides: list[int]) -> Tensor:
    """Each frame of one clip by itself."""
    return F.conv2d(x[0].transpose(0, 1), weight, bias, padding=sides).transpose(0, 1)[None]


def _empty_result(x: Tensor, weight: Tensor, frames: int, sides: list[int]) -> Tensor:
    sizes = (n + 2 * side - k + 1 for n, side, k in zip(x.shape[3:], sides, weight.shape[3:], strict=True))
    shape = (1, len(weight), frames, *sizes)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)
