"""The settings of the optimization: how many steps, how fast, in which precision."""

import math
from dataclasses import dataclass

from ..files.messages import shorten
from .optimizers import OPTIMIZERS

COSINE, LINEAR = "cosine", "linear"
SCHEDULES = (COSINE, LINEAR, "constant", "constant_with_warmup")  # the last two are the same: `warmup` may be 0
PRECISIONS = ("fp32", "bf16", "auto")
LEAST_SHARE = 0.02  # of the learning rate, at the end of a cosine


@dataclass(frozen=True)
class TrainingPlan:
    """`learning_rate` rises linearly for `warmup` steps, then stays, or falls along half a cosine or a line.

    A step takes `accumulate` batches. `ema` is the decay of the averaged weights, `clip` the largest gradient norm, 0
    for any. `betas` and `epsilon` are by default those of the `optimizer`, which may have none. Every `save_every`
    steps what has been learnt so far is saved in a file of its own; 0 is for at the end only.

    In bf16 the network runs under autocast while its weights stay in float32; `auto` is bf16 where the device is fast
    in it.
    """

    steps: int
    learning_rate: float
    warmup: int
    ema: float
    clip: float
    seed: int
    schedule: str = "cosine"
    betas: tuple[float, float] | None = None
    weight_decay: float = 0.01
    epsilon: float | None = None
    precision: str = "fp32"
    optimizer: str = "adamw"
    accumulate: int = 1
    save_every: int = 0

    def __post_init__(self):
        least = {"steps": 1, "accumulate": 1, **dict.fromkeys(("warmup", "clip", "weight_decay", "save_every"), 0)}
        for name, minimum in least.items():
            if not getattr(self, name) >= minimum:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {minimum} or more.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {shorten(getattr(self, name))}; it must be one of {', '.join(known)}.")
        self._suit_optimizer()

    def _suit_optimizer(self) -> None:
        """Take the optimizer's own defaults; raise `ValueError` for what it has no use for."""
        kind = OPTIMIZERS[self.optimizer]
        if self.learning_rate < kind.least_rate:
            raise ValueError(
                f"learning_rate is {self.learning_rate}, but {self.optimizer} finds the rate by itself and multiplies "
                "it by this; set it to 1."
            )
        for name, own in (("betas", kind.betas), ("epsilon", kind.epsilon)):
            given = getattr(self, name)
            if own is None and given is not None:
                raise ValueError(f"{name} is {given}, but {self.optimizer} has no such setting; remove it.")
            object.__setattr__(self, name, own if given is None else given)
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}; both must be from 0 to below 1.")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == COSINE:
            half = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            return self.learning_rate * warm * (LEAST_SHARE + (1 - LEAST_SHARE) * half)
        if self.schedule == LINEAR:
            warm = min(warm, (self.steps - step) / max(1, self.steps - self.warmup))
        return self.learning_rate * warm

    def ema_decay_at(self, step: int) -> float:
        """The decay of the averaged weights at a step: low at first, so that they soon forget the initial ones."""
        return min(self.ema, (1 + step) / (10 + step))
