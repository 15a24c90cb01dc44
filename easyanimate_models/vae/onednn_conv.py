"""3-D convolutions by oneDNN on a CPU, where torch would not take it, or where it is wrong."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .winograd import convolve_in_pairs, saves_products

OVERLOOKED = range(2_048, 20_481)  # channels x frames x rows of a single input; with fewer there is nothing to win


@cache
def for_single_clips(operations: Any) -> Any:
    """The host's `operations` with the Conv3d of `onednn_conv3d`."""
    return type(operations.__name__, (operations,), {"Conv3d": onednn_conv3d(operations.Conv3d)})


@cache
def onednn_conv3d(conv3d: Any) -> Any:
    """A `conv3d` that saves products, asks oneDNN by name where torch would overlook it, and goes round its mistake.

    For small single inputs torch takes a loop instead, up to 14 times as slow (`use_mkldnn` in its Convolution.cpp).
    """

    class Conv3d(conv3d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args, **kwargs) -> Tensor:
            if is_misread(x, weight):
                frames, *sides = self.padding
                x = F.pad(x, (0, 0, 0, 0, frames, frames))
                return F.conv3d(x, weight, bias, self.stride, (0, *sides), self.dilation, self.groups)
            if args or kwargs or not is_plain(x):
                return super()._conv_forward(x, weight, bias, *args, **kwargs)
            if saves_products(self, x, weight):
                return convolve_in_pairs(x, weight, bias, self.padding)
            if not is_overlooked(x):
                return super()._conv_forward(x, weight, bias)
            how = self.padding, self.stride, self.dilation, self.groups
            return torch.mkldnn_convolution(x, weight, bias, *how)

    return Conv3d


def is_overlooked(x: Tensor) -> bool:
    """Whether torch would convolve `x` `[B, C, T, H, W]` without oneDNN, which is there."""
    small = len(x) == 1 and x.shape[1:4].numel() in OVERLOOKED
    return small and is_plain(x)


def is_plain(x: Tensor) -> bool:
    """Whether oneDNN is there for `x`, and it is in float32 on a CPU."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def is_misread(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN would read beyond `x` `[B, C, T, H, W]`: fewer frames in bfloat16 than the kernel is deep.

    Seen with oneDNN of torch 2.14 and AVX-512: what lies in memory behind one frame gets into the result, behind two
    into the gradient of the weight. It does not where the zeros around them are in memory too.
    """
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return x.device.type == "cpu" and autocast == torch.bfloat16 and x.shape[2] < weight.shape[2]
