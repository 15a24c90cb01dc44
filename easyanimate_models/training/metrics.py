"""Metrics of several processes as their means, and a loss that is smoothed over steps."""

import torch
from torch import Tensor

from .learner import Metrics


class MeanMetrics:
    """The mean of each metric over all that is added until it is read; a nan (nothing was measured) doesn't count."""

    def __init__(self, device: torch.device):
        self.device = device
        self.totals: dict[str, Tensor] = {}  # [2]: the sum, and how many values are in it

    def add(self, metrics: Metrics) -> None:
        """Add metrics; nothing is copied from the device."""
        for name, value in metrics.items():
            number = torch.as_tensor(value, device=self.device).detach().float()
            counts = ~number.isnan()
            self.totals[name] = self.totals.get(name, 0) + torch.stack([number.where(counts, 0.0), counts.float()])

    def read(self, accelerator) -> dict[str, float]:
        """The means over all processes, each of which has to call this; without those of which nothing was measured.

        Then it begins anew.
        """
        totals, self.totals = self.totals, {}
        summed = accelerator.reduce(torch.stack(list(totals.values())), "sum")
        return {name: float(t / count) for name, (t, count) in zip(totals, summed.cpu(), strict=True) if count}


class Smoothed:
    """An exponential moving average of a loss, without the weight that a first value would have in it."""

    def __init__(self, decay: float = 0.98):
        self.decay, self.total, self.weight = decay, 0.0, 0.0

    def add(self, value: float) -> float:
        """The average with this value."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + (1 - self.decay)
        return self.total / self.weight
