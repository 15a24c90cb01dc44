"""One small clip at a time on a CPU, for which torch would take its slowest 3-D convolution."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

OVERLOOKED = range(2_048, 20_481)  # channels x frames x rows of a single input; with fewer there is nothing to win


@cache
def for_single_clips(operations: Any) -> Any:
    """The host's `operations`, whose Conv3d asks oneDNN by name where torch would overlook it.

    For small single inputs torch takes a loop instead, up to 14 times as slow (`use_mkldnn` in its Convolution.cpp).
    """

    class Conv3d(operations.Conv3d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args, **kwargs) -> Tensor:
            if args or kwargs or not is_overlooked(x):
                return super()._conv_forward(x, weight, bias, *args, **kwargs)
            how = self.padding, self.stride, self.dilation, self.groups
            return torch.mkldnn_convolution(x, weight, bias, *how)

    return type(operations.__name__, (operations,), {"Conv3d": Conv3d})


def is_overlooked(x: Tensor) -> bool:
    """Whether torch would convolve `x` `[B, C, T, H, W]` without oneDNN, which is there."""
    small = len(x) == 1 and x.shape[1:4].numel() in OVERLOOKED
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return small and plain and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
