"""The training loop: one network and its objective, on one device or many, with states that resume bit by bit.

Each step draws its data and noise from its own number alone. So a run that was stopped and resumed equals one that was
never stopped, and several processes, each with its shard of every batch, equal one.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import comfy.model_management as mm
import torch
from torch import nn

from ..host import training
from .checkpoints import Saver, require_same_settings, resume, write_settings
from .devices import make_accelerator
from .export import Exporter
from .hooks import NO_HOOKS, Hooks, Validation
from .interrupts import Interrupts
from .journal import VALIDATION, Journal
from .learner import Learner, Metrics, Objective, ObjectiveModule
from .metrics import MeanMetrics
from .precision import autocast
from .run_lock import locked
from .sharding import is_sharded
from .training_plan import TrainingPlan

SAVE_EVERY = 60.0  # seconds
HALF_TAKEN = -1  # in place of a number of steps, while weights and averages are at different ones
STOPS = (KeyboardInterrupt, SystemExit, mm.InterruptProcessingException)  # by someone, not by a fault

Network = TypeVar("Network", bound=nn.Module)
Callback = Callable[[int, Metrics], None]  # (steps taken, metrics of the last); what it raises stops the run, saved


def fit(
    folder: Path,
    network: Network,
    objective: Objective,
    plan: TrainingPlan,
    adversary: ObjectiveModule | None = None,
    callback: Callback | None = None,
    settings: dict | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Network:
    """Train `network` in place and return it with its averaged weights, which previews and files show too.

    An `adversary` (a discriminator) takes each step right after the network. `state.pt`, `log.csv` and `loss.png` lie
    in `folder`; calling again with the same folder resumes, and raises `ValueError` unless `plan` and the other
    `settings` of the run are still the same, but for how long it trains.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**(settings or {}), **asdict(plan)}
    require_same_settings(folder, settings)
    accelerator = make_accelerator(network)
    if hooks.sampler is not None and is_sharded(accelerator):
        raise ValueError("Samples need the whole network on one device; remove [samples], or train without FSDP.")
    learners = [Learner(ObjectiveModule(network, objective), plan, accelerator)]
    if adversary is not None:
        learners.append(Learner(adversary, plan, accelerator, prefix="adversary_"))
    is_main = accelerator.is_main_process
    with locked(folder, enabled=is_main):
        start = resume(folder, learners)
        if is_main:
            write_settings(folder, settings)
        with Journal(folder, start, enabled=is_main) as journal, Interrupts(accelerator) as interrupts:
            run = _Run(learners, plan, accelerator, journal, Saver(folder, learners, accelerator), hooks)
            with training():
                run.train(callback, interrupts)
        for learner in learners:
            learner.ema.copy_to_parameters()
        if hooks.exporter is not None:
            hooks.exporter.save(learners[0].steps, is_main)
    return network


class _Run:
    """A run at work: its steps, and what goes along with them."""

    def __init__(
        self, learners: list[Learner], plan: TrainingPlan, accelerator, journal: Journal, saver: Saver, hooks: Hooks
    ):
        self.learners, self.plan, self.accelerator = learners, plan, accelerator
        self.journal, self.saver, self.hooks = journal, saver, hooks

    def train(self, callback: Callback | None, interrupts: Interrupts) -> None:
        """The steps that are left, each: forward, backward, clip, step, EMA, log; then preview, callback, checkpoint.

        Whatever stops it, the state is saved; stopped by someone, what has been learnt so far as well.
        """
        self._say_if_done()
        self._preview()  # of the step to resume at: the run may have been stopped before it was made
        for step in self.journal.steps(self.plan.steps):
            with self._saved_when_stopped(step, one_process_only=True):
                validated = self._validate(step)
                metrics = {**self._step(step), **validated}
            figures = self._mean(metrics)
            rates = {learner.prefix + "rate": learner.rate for learner in self.learners}
            self.journal.write(step, figures | rates)
            with self._saved_when_stopped(step + 1):
                self._preview()
                self._export_if_due(step + 1)
                if callback is not None:
                    callback(step + 1, figures)
                interrupts.raise_pending()
            if step + 1 == self.plan.steps or self.saver.is_due(SAVE_EVERY):
                self.saver.save(step + 1)
        self._validate_result()

    def _step(self, step: int) -> Metrics:
        """One step of all learners; their metrics."""
        plan, accelerator = self.plan, self.accelerator
        metrics: Metrics = {}
        for learner in self.learners:
            torch.manual_seed(plan.seed * 1_000_003 + step)
            learner.set_learning_rate(plan.learning_rate_at(step))
            learner.optimizer.zero_grad(set_to_none=True)
            for i in range(plan.accumulate):
                with nullcontext() if i == plan.accumulate - 1 else accelerator.no_sync(learner.module):
                    with autocast(plan.precision, accelerator.device):
                        loss, extra = learner.module(step * plan.accumulate + i)
                    accelerator.backward(loss / plan.accumulate)
            norm = float(accelerator.clip_grad_norm_(learner.parameters, plan.clip or math.inf))
            if not math.isfinite(norm):
                raise FloatingPointError(f"The gradient is not finite at step {step}; lower the learning rate.")
            learner.steps = HALF_TAKEN
            learner.optimizer.step()
            learner.ema.update(plan.ema_decay_at(step))
            learner.steps = step + 1
            named = {"loss": loss, **extra, "gradient": norm}
            metrics |= {learner.prefix + name: value for name, value in named.items()}
        return metrics

    def _mean(self, metrics: Metrics) -> dict[str, float]:
        means = MeanMetrics(self.accelerator.device)
        means.add(metrics)
        return means.read(self.accelerator)

    def _validate(self, step: int) -> Metrics:
        """The loss of the averaged weights on clips that are held out, if it is due before a step."""
        validation = self.hooks.validation
        if validation is None or step % validation.every:
            return {}
        return self._measure(validation)

    def _validate_result(self) -> None:
        if (validation := self.hooks.validation) is not None:
            self.journal.write(self.learners[0].steps, self._mean(self._measure(validation)))

    def _measure(self, validation: Validation) -> Metrics:
        learner, means = self.learners[0], MeanMetrics(self.accelerator.device)
        with learner.ema.swapped_in(), torch.no_grad(), autocast(self.plan.precision, self.accelerator.device):
            for objective in validation.objectives:
                for batch in range(validation.batches):
                    loss, metrics = learner.module(batch, objective)
                    chosen = {f"{VALIDATION}_{name}": metrics[name] for name in validation.metrics}
                    means.add({VALIDATION: loss, **chosen})
        return means.read(self.accelerator)

    @contextmanager
    def _saved_when_stopped(self, steps: int, one_process_only: bool = False) -> Iterator[None]:
        """Whatever ends this context early, the state after `steps` steps is saved; see `Saver.save_on_error`."""
        try:
            with self.saver.save_on_error(steps, one_process_only):
                yield
        except STOPS:
            if self.saver.saved == steps:
                self._say_what_is_left(steps)
            raise

    def _say_if_done(self) -> None:
        taken, asked = self.learners[0].steps, self.plan.steps
        if taken > asked:
            self._say(f"{taken} steps were taken already, more than the {asked} asked for; this is what they made.")

    def _say_what_is_left(self, steps: int) -> None:
        exporter, left = self.hooks.exporter, ""
        if exporter is not None and exporter.when_stopped and steps:
            left = f"{self._export(exporter, steps)} holds what was learnt so far; "
        self._say(f"Stopped after {steps} steps: {left}run it again to go on from there.")

    def _export_if_due(self, steps: int) -> None:
        exporter, every = self.hooks.exporter, self.plan.save_every
        if exporter is not None and every and steps % every == 0 and steps < self.plan.steps:
            self._say(f"Saved {self._export(exporter, steps)}.")

    def _export(self, exporter: Exporter, steps: int) -> Path:
        """Save the averaged weights so far."""
        with self.learners[0].ema.swapped_in():
            return exporter.save_step(steps, self.journal.enabled)

    def _preview(self) -> None:
        """Make a preview with the averaged weights if one is due."""
        sampler, learner = self.hooks.sampler, self.learners[0]
        if sampler is None or not self.journal.enabled or not sampler.is_due(learner.steps):
            return
        with learner.ema.swapped_in():
            image = sampler.preview(learner.steps)
        self.journal.add_image(learner.steps, image)

    def _say(self, sentence: str) -> None:
        if self.journal.enabled:
            logging.info("%s", sentence)
            self.hooks.say(sentence)
