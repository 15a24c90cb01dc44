"""What all training runs of a denoiser have in common."""

from dataclasses import dataclass
from pathlib import Path

from ..clips.holding_out import ValidationSettings
from ..samples import NO_MONITOR, Monitor
from ..training_plan import TrainingPlan
from .objective import DEFAULT_OBJECTIVE, ObjectiveSettings


@dataclass(frozen=True)
class Output:
    """Where the result of a run is saved: a file, or a component folder. `naming` is for the layers of a LoRA."""

    path: Path
    naming: str = "original"


@dataclass(frozen=True)
class DenoiserRun:
    """A run of `fit`: its folder, plan and objective, who follows it, what it leaves, and its validation."""

    folder: Path
    plan: TrainingPlan
    objective: ObjectiveSettings = DEFAULT_OBJECTIVE
    monitor: Monitor = NO_MONITOR
    output: Output | None = None
    validation: ValidationSettings = ValidationSettings()
