"""What all training runs of a denoiser have in common."""

from dataclasses import dataclass
from pathlib import Path

from ..samples import NO_MONITOR, Monitor
from ..training_plan import TrainingPlan
from .objective import DEFAULT_OBJECTIVE, ObjectiveSettings


@dataclass(frozen=True)
class DenoiserRun:
    """A run of `fit`: its folder, plan and objective, and who follows it."""

    folder: Path
    plan: TrainingPlan
    objective: ObjectiveSettings = DEFAULT_OBJECTIVE
    monitor: Monitor = NO_MONITOR
