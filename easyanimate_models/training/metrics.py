"""Metrics of several steps and processes as their means."""

import torch
from torch import Tensor

from .learner import Metrics


class MeanMetrics:
    """The mean of each metric over the steps since they were last read; a nan (nothing was measured) doesn't count."""

    def __init__(self, device: torch.device):
        self.device = device
        self.totals: dict[str, Tensor] = {}  # [2]: the sum, and how many values are in it

    def add(self, metrics: Metrics) -> None:
        """Add the metrics of a step; nothing is copied from the device."""
        for name, value in metrics.items():
            number = torch.as_tensor(value, device=self.device).detach().float()
            counts = ~number.isnan()
            self.totals[name] = self.totals.get(name, 0) + torch.stack([number.where(counts, 0.0), counts.float()])

    def read(self, accelerator) -> dict[str, float]:
        """The means over all processes, each of which has to call this; then it begins anew."""
        totals, self.totals = self.totals, {}
        summed = accelerator.reduce(torch.stack(list(totals.values())), "sum")
        return {name: float(total / count) for name, (total, count) in zip(totals, summed.cpu(), strict=True)}
