"""The settings of the optimization: how many steps, how fast, in which precision."""

import math
from dataclasses import dataclass

from ..files.messages import shorten

SCHEDULES = ("cosine", "constant")
PRECISIONS = ("fp32", "bf16", "auto")
OPTIMIZERS = ("adamw", "adamw8bit")


@dataclass(frozen=True)
class TrainingPlan:
    """`learning_rate` rises linearly for `warmup` steps, then stays or falls along half a cosine.

    A step takes `accumulate` batches. `ema` is the decay of the averaged weights, `clip` the largest gradient norm.
    Every `save_every` steps what has been learnt so far is saved in a file of its own; 0 is for at the end only.

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
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    epsilon: float = 1e-8
    precision: str = "fp32"
    optimizer: str = "adamw"
    accumulate: int = 1
    save_every: int = 0

    def __post_init__(self):
        for name in ("steps", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")
        if self.save_every < 0:
            raise ValueError(f"save_every is {self.save_every}; it must be 0 or more.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0.")
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {shorten(getattr(self, name))}; it must be one of {', '.join(known)}.")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return self.learning_rate * warm
        return self.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))

    def ema_decay_at(self, step: int) -> float:
        """The decay of the averaged weights at a step: low at first, so that they soon forget the initial ones."""
        return min(self.ema, (1 + step) / (10 + step))
