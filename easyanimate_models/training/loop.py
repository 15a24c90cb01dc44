"""The training loop: one network and its objective, on one device or many, with states that resume bit by bit.

Each step draws its data and noise from its own number alone. So a run that was stopped and resumed equals one that was
never stopped, and several processes, each with its shard of every batch, equal one.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import nn

from .checkpoints import Saver, require_same_settings, resume, write_settings
from .devices import make_accelerator
from .journal import Journal
from .learner import Learner, Metrics, Objective, ObjectiveModule
from .metrics import MeanMetrics
from .precision import autocast
from .run_lock import locked
from .sharding import is_sharded
from .training_plan import TrainingPlan

SAVE_EVERY = 60.0  # seconds
LOG_EVERY = 20  # steps

Network = TypeVar("Network", bound=nn.Module)
Callback = Callable[[int, Metrics], None]  # (steps taken, metrics of the last); what it raises stops the run, saved


class Sampler(Protocol):
    """Makes previews of a network in training and leaves no trace in it; see `samples`."""

    def is_due(self, steps: int) -> bool:
        """Whether a preview is due after so many steps and not there yet."""

    def preview(self, steps: int) -> Image.Image:
        """A picture of what the network makes after so many steps."""


def fit(
    folder: Path,
    network: Network,
    objective: Objective,
    plan: TrainingPlan,
    adversary: ObjectiveModule | None = None,
    callback: Callback | None = None,
    settings: dict | None = None,
    sampler: Sampler | None = None,
) -> Network:
    """Train `network` in place and return it with its averaged weights, which previews by `sampler` show too.

    An `adversary` (a discriminator) takes each step right after the network. `state.pt`, `log.csv` and `loss.png` lie
    in `folder`; calling again with the same folder resumes, and raises `ValueError` unless `plan` and the other
    `settings` of the run are still the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**(settings or {}), **asdict(plan)}
    require_same_settings(folder, settings)
    accelerator = make_accelerator(network)
    if sampler is not None and is_sharded(accelerator):
        raise ValueError("Samples need the whole network on one device; remove [samples], or train without FSDP.")
    learners = [Learner(ObjectiveModule(network, objective), plan, accelerator)]
    if adversary is not None:
        learners.append(Learner(adversary, plan, accelerator, prefix="adversary_"))
    is_main = accelerator.is_main_process
    with locked(folder, enabled=is_main):
        start = resume(folder, learners)
        if is_main:
            write_settings(folder, settings)
        with Journal(folder, start, enabled=is_main) as journal:
            _train(learners, plan, accelerator, journal, Saver(folder, learners, accelerator), callback, sampler)
    for learner in learners:
        learner.ema.copy_to_parameters()
    return network


def _train(
    learners: list[Learner], plan: TrainingPlan, accelerator, journal: Journal, saver: Saver, callback, sampler
) -> None:
    """The steps that are left, each: forward, backward, clip, step, EMA, log; then preview, callback, checkpoint."""
    _preview(
        sampler, learners[0], journal
    )  # of the step to resume at: the run may have been stopped before it was made
    since_last_row = MeanMetrics(accelerator.device)
    for step in journal.steps(plan.steps):
        metrics: Metrics = {}
        with saver.save_on_error(step, one_process_only=True):
            for learner in learners:
                torch.manual_seed(plan.seed * 1_000_003 + step)
                learner.set_learning_rate(plan.learning_rate_at(step))
                learner.optimizer.zero_grad(set_to_none=True)
                for i in range(plan.accumulate):
                    with nullcontext() if i == plan.accumulate - 1 else accelerator.no_sync(learner.module):
                        with autocast(plan.precision, accelerator.device):
                            loss, extra = learner.module(step * plan.accumulate + i)
                        accelerator.backward(loss / plan.accumulate)
                norm = float(accelerator.clip_grad_norm_(learner.parameters, plan.clip))
                if not math.isfinite(norm):
                    raise FloatingPointError(f"The gradient is not finite at step {step}; lower the learning rate.")
                learner.optimizer.step()
                learner.steps = step + 1
                learner.ema.update(plan.ema_decay_at(step))
                named = {"loss": loss, **extra, "gradient": norm}
                metrics |= {learner.prefix + name: value for name, value in named.items()}
        since_last_row.add(metrics)
        if step % LOG_EVERY == 0:
            rates = {learner.prefix + "rate": plan.learning_rate_at(step) for learner in learners}
            journal.write(step, since_last_row.read(accelerator) | rates)
        with saver.save_on_error(step + 1):
            _preview(sampler, learners[0], journal)
            if callback is not None:
                of_step = MeanMetrics(accelerator.device)
                of_step.add(metrics)
                callback(step + 1, of_step.read(accelerator))
        if step + 1 == plan.steps or saver.is_due(SAVE_EVERY):
            saver.save(step + 1)


def _preview(sampler: Sampler | None, learner: Learner, journal: Journal) -> None:
    """Make a preview with the averaged weights if one is due."""
    if sampler is None or not journal.enabled or not sampler.is_due(learner.steps):
        return
    with learner.ema.swapped_in():
        image = sampler.preview(learner.steps)
    journal.add_image(learner.steps, image)
