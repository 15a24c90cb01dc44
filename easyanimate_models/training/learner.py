"""What is trained: a network and its objective, with an optimizer and averaged weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .ema import EMA
from .optimizers import make_optimizer
from .sharding import is_sharded
from .training_plan import TrainingPlan

Metrics = dict[str, Any]  # numbers, or tensors of one
Objective = Callable[[int], tuple[Tensor, Metrics]]  # number of a batch -> its loss and metrics


class ObjectiveModule(nn.Module):
    """A network and its objective as one module: the number of a batch in, its loss and metrics out.

    This is the module that accelerate wraps, so an objective may call any method of the network.
    """

    def __init__(self, network: nn.Module, objective: Objective):
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, batch: int, objective: Objective | None = None) -> tuple[Tensor, Metrics]:
        """Another `objective` than that of training is for validation."""
        return (objective or self.objective)(batch)


class Learner:
    """An objective module in training: its optimizer, the EMA of its weights, and the number of steps taken.

    `prefix` goes before the names of its metrics. Raises `ValueError` when all weights are frozen.
    """

    def __init__(self, module: ObjectiveModule, plan: TrainingPlan, accelerator, prefix: str = ""):
        trainable = [p for p in module.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError(
                "There is nothing to train, because all weights are frozen; train at least one part of the network."
            )
        optimizer = make_optimizer(trainable, plan, is_sharded(accelerator))
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.ema = EMA(self.parameters)
        self.prefix = prefix
        self.steps = 0

    @property
    def torch_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that accelerate's own is wrapped around."""
        return self.optimizer.optimizer

    @property
    def rate(self) -> float:
        """The learning rate of the last step; Prodigy multiplies the plan's by what it finds."""
        group = self.torch_optimizer.param_groups[0]
        return float(group["lr"] * group.get("d", 1.0))

    def set_learning_rate(self, rate: float) -> None:
        for group in self.torch_optimizer.param_groups:
            group["lr"] = rate
