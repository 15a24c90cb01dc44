"""The optimizers that a plan can name, each from the package that is known for it."""

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..files.packages import require_package

Betas = tuple[float, float]
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.99), 1e-8


@dataclass(frozen=True)
class Optimizer:
    """Where an optimizer comes from, and its own defaults: `betas` and `epsilon` are None where it has no such setting.

    A `module` with a dot before it is one beside this.

    One that `needs_whole_weights` can't be used where these are sharded. `fixed` settings are always given to it.
    """

    module: str
    name: str
    betas: Betas | None = ADAM_BETAS
    epsilon: float | None = ADAM_EPSILON
    needs_whole_weights: bool = False
    least_rate: float = 0.0  # below it, the learning rate was meant for another optimizer
    fixed: dict[str, Any] = field(default_factory=dict)

    def require(self) -> Any:
        """Its class. Raises `MissingPackageError`."""
        if package := self.module.partition(".")[0]:
            require_package(package)
        return getattr(importlib.import_module(self.module, __package__), self.name)


OPTIMIZERS = {
    "adamw": Optimizer("torch.optim", "AdamW"),
    "adamw8bit": Optimizer("bitsandbytes.optim", "AdamW8bit", needs_whole_weights=True),
    "prodigy": Optimizer(
        "prodigyopt",
        "Prodigy",
        betas=(0.9, 0.999),
        needs_whole_weights=True,
        least_rate=0.1,
        fixed={"use_bias_correction": True, "safeguard_warmup": True},  # as its authors advise for diffusion
    ),
    "adafactor": Optimizer(
        "transformers.optimization",
        "Adafactor",
        betas=None,
        epsilon=None,
        needs_whole_weights=True,
        fixed={"scale_parameter": False, "relative_step": False},  # the rate is the plan's
    ),
    "lion": Optimizer("lion_pytorch", "Lion", epsilon=None),
    "muon": Optimizer(".muon", "Muon", needs_whole_weights=True),
}


def make_optimizer(parameters: list[nn.Parameter], plan, is_sharded: bool) -> torch.optim.Optimizer:
    """The optimizer of a plan. Raises `MissingPackageError`, and `ValueError` where it can't train sharded weights."""
    kind = OPTIMIZERS[plan.optimizer]
    if is_sharded and kind.needs_whole_weights:
        able = ", ".join(name for name, each in OPTIMIZERS.items() if not each.needs_whole_weights)
        raise ValueError(f"{plan.optimizer} can't train sharded weights; use one of {able}, or train without FSDP.")
    settings = {"betas": plan.betas, "eps": plan.epsilon, "weight_decay": plan.weight_decay}
    given = {name: value for name, value in settings.items() if value is not None}
    return kind.require()(parameters, lr=plan.learning_rate, **given, **kind.fixed)
