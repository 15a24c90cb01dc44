"""The exponential moving average of weights in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """An exponential moving average of `parameters`."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        self.averages = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move the averages towards the parameters by `1 - decay`."""
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within this context the parameters hold their averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange the storages, so that nothing is copied; those of sharded weights belong to FSDP and stay."""
        for p, average in zip(self.parameters, self.averages, strict=True):
            if hasattr(p, "full_tensor"):
                weight = p.detach().clone()
                p.copy_(average)
                average.copy_(weight)
            else:
                p.data, average.data = average.data, p.data

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Replace the parameters by their averages."""
        for p, average in zip(self.parameters, self.averages, strict=True):
            p.copy_(average)
