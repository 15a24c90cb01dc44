"""The training loop: one objective, one optimizer, on one device or many; states that resume bit by bit.

Each step draws its data and noise from its own number alone, so that a run stopped at step n and resumed
equals one that was never stopped, and several processes, each with its share of every batch, equal one.
"""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ..files.packages import require_package
from . import checkpoints
from .journal import Journal
from .training_plan import Plan

SAVE_EVERY = 60.0  # seconds
LOG_EVERY = 20  # steps

Figures = dict[str, Any]  # numbers, or tensors of one
KINDS: tuple[Any, ...] = nn.Linear, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding
Network = TypeVar("Network", bound=nn.Module)
Objective = Callable[[int], tuple[Tensor, Figures]]
Watch = Callable[[int, Figures], None]  # (steps done, figures of the last); what it raises stops the run, saved


class Look(Protocol):
    """A look at what is learnt so far, which leaves no trace in it; see `samples`."""

    def due(self, done: int) -> bool:
        """Whether there should be a picture after so many steps that is not there yet."""

    def make(self, done: int) -> Image.Image:
        """The picture, of the network as it is now."""


class Lesson(nn.Module):
    """A network with what it should learn: called with the number of a batch, it gives the loss and figures.

    What is called is what accelerate wraps, so an objective may use any method of the network.
    """

    def __init__(self, network: nn.Module, objective: Objective):
        super().__init__()
        self.network = network
        self.objective = objective

    def forward(self, batch: int) -> tuple[Tensor, Figures]:
        return self.objective(batch)


class Course:
    """A lesson in training: its optimizer, and the average of its weights."""

    def __init__(self, lesson: Lesson, plan: Plan, accelerator):
        learning = [p for p in lesson.parameters() if p.requires_grad]
        if not learning:
            raise ValueError("Nothing is left to train: all weights are frozen; let one part of the network learn.")
        self.plan, self.accelerator = plan, accelerator
        self.lesson, self.optimizer = accelerator.prepare(lesson, _optimizer(learning, plan))
        self.parameters = [p for p in self.lesson.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]

    @property
    def torch_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer.optimizer

    def step(self, step: int) -> Figures:
        """Learn from the batches of a step; figures of the last of them."""
        plan = self.plan
        for group in self.torch_optimizer.param_groups:
            group["lr"] = plan.rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        for i in range(plan.accumulate):
            loss, figures = self._learn(step * plan.accumulate + i, last=i == plan.accumulate - 1)
        norm = self.accelerator.clip_grad_norm_(self.parameters, plan.clip)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"The gradient is not finite at step {step}; lower the learning rate.")
        self.optimizer.step()
        self._follow(min(plan.ema, (1 + step) / (10 + step)))
        return {"loss": loss, **figures, "rate": plan.rate(step), "gradient": norm}

    def _learn(self, batch: int, last: bool) -> tuple[Tensor, Figures]:
        apart = contextlib.nullcontext() if last else self.accelerator.no_sync(self.lesson)
        with apart:
            with _precision(self.plan, self.accelerator.device):
                loss, figures = self.lesson(batch)
            self.accelerator.backward(loss / self.plan.accumulate)
        return loss.detach(), figures

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextlib.contextmanager
    def averaged(self):
        """The averaged weights in place of the last ones, for as long as this lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """The storage, so that nothing is copied."""
        for p, a in zip(self.parameters, self.average, strict=True):
            p.data, a.data = a.data, p.data

    @torch.no_grad()
    def adopt_average(self) -> None:
        """The averaged weights in place of the last ones."""
        for p, a in zip(self.parameters, self.average, strict=True):
            p.copy_(a)


def fit(
    folder: Path,
    network: Network,
    objective: Objective,
    plan: Plan,
    adversary: Lesson | None = None,
    watch: Watch | None = None,
    told: dict | None = None,
    look: Look | None = None,
) -> Network:
    """Train `network` in place and return it with its averaged weights.

    `objective(batch)` returns the loss and named figures for the log. An `adversary` (a discriminator) learns after
    it in every step. The folder keeps `state.pt`, `log.csv` and `loss.png`; calling again with the same folder goes on
    where it stopped. `told` is what else must be the same then. Raises `ValueError` where it is not. What `look` sees
    are the averaged weights, those that would be returned now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints.require_same(folder, plan, told or {})
    accelerator = _accelerator(network)
    if look is not None and accelerator.distributed_type == require_package("accelerate").DistributedType.FSDP:
        raise ValueError("Samples need the whole network on a device; take [samples] out, or train without FSDP.")
    lessons = [Lesson(network, objective), *([adversary] if adversary else [])]
    courses = [Course(lesson, plan, accelerator) for lesson in lessons]
    start = checkpoints.resume(folder, courses)
    if accelerator.is_main_process:
        checkpoints.note(folder, plan, told or {})
    _Run(folder, courses, plan, accelerator, watch, look).go(start)
    for course in courses:
        course.adopt_average()
    return network


class _Run:
    """From one step to the last, with what is kept of it."""

    def __init__(
        self,
        folder: Path,
        courses: list[Course],
        plan: Plan,
        accelerator,
        watch: Watch | None,
        look: Look | None,
    ):
        self.folder, self.courses, self.plan, self.accelerator = folder, courses, plan, accelerator
        self.watch, self.look = watch, look
        self.journal: Journal | None = None  # of the main process
        self.last_save = time.monotonic()

    def go(self, start: int) -> None:
        main = self.accelerator.is_main_process
        self.journal = Journal(self.folder, start) if main else None
        self._show(start)
        with tqdm(total=self.plan.steps, initial=start, desc=self.folder.name, mininterval=5, disable=not main) as bar:
            for step in range(start, self.plan.steps):
                figures = self._unless_stopped(step)
                bar.update()
                if step % LOG_EVERY == 0 or self.watch is not None:
                    figures = self._told(figures)
                if step % LOG_EVERY == 0 and self.journal is not None:
                    bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})
                    self.journal.write(step, figures)
                self._keep(step + 1, figures)
        if self.journal is not None:
            self.journal.close()

    def _unless_stopped(self, step: int) -> Figures:
        """A step; the host may stop it anywhere, and what was learnt before is kept."""
        learnt: list[Course] = []
        try:
            return self._step(step, learnt)
        except FloatingPointError:
            raise
        except BaseException:
            if not learnt and self.accelerator.num_processes == 1:
                self._save(step)
            raise

    def _step(self, step: int, learnt: list[Course]) -> Figures:
        figures: Figures = {}
        for i, course in enumerate(self.courses):
            torch.manual_seed(self.plan.seed * 1_000_003 + step)
            found = course.step(step)
            learnt.append(course)
            figures |= found if i == 0 else {f"adversary_{name}": value for name, value in found.items()}
        return figures

    def _told(self, figures: Figures) -> Figures:
        """As numbers, the loss as the mean of all processes."""
        loss = self.accelerator.reduce(figures["loss"].float(), "mean")
        return {name: float(value) for name, value in {**figures, "loss": loss}.items()}

    def _keep(self, done: int, figures: Figures) -> None:
        try:
            self._show(done)
            if self.watch is not None:
                self.watch(done, figures)
        except BaseException:
            self._save(done)
            raise
        if done == self.plan.steps or self._is_due():
            self._save(done)

    def _show(self, done: int) -> None:
        """A picture where one is due; also of the step that a run goes on at, which was stopped before it was made."""
        if self.journal is None or self.look is None or not self.look.due(done):
            return
        with self.courses[0].averaged():
            picture = self.look.make(done)
        self.journal.picture(done, picture)

    def _is_due(self) -> bool:
        """Whether it is time to save, for all processes alike."""
        due = torch.tensor(float(time.monotonic() - self.last_save > SAVE_EVERY), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            due = self.accelerator.reduce(due, "sum")
        return bool(due)

    def _save(self, done: int) -> None:
        checkpoints.save(self.folder, self.courses, done, self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()
        self.last_save = time.monotonic()


def share(batch: int) -> slice:
    """Which items of a batch this process takes; raises `ValueError` when they can't be shared out evenly."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return slice(0, batch)
    processes, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    if batch % processes:
        raise ValueError(f"A batch of {batch} can't be shared among {processes} processes; make it a multiple of that.")
    return slice(batch * rank // processes, batch * (rank + 1) // processes)


def initialise(module: Network) -> Network:
    """Random weights for a network built from the host's operations, which leave theirs empty."""
    for part in module.modules():
        for kind in KINDS:
            if isinstance(part, kind):
                kind.reset_parameters(part)
    return module


def _accelerator(network: nn.Module):
    """For the device that the network is on; in a node the default is the CPU even where there is a GPU."""
    accelerate = require_package("accelerate")
    kinds = {torch.get_default_device().type, *(p.device.type for p in network.parameters())}
    on_cpu = kinds == {"cpu"}
    sparse = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(cpu=on_cpu, kwargs_handlers=[sparse])


def _optimizer(parameters: list[nn.Parameter], plan: Plan) -> torch.optim.Optimizer:
    kind = require_package("bitsandbytes").optim.AdamW8bit if plan.optimizer == "adamw8bit" else torch.optim.AdamW
    settings: dict[str, Any] = {"betas": plan.betas, "eps": plan.epsilon, "weight_decay": plan.weight_decay}
    return kind(parameters, lr=plan.learning_rate, **settings)


def _precision(plan: Plan, device: torch.device):
    wanted = plan.precision == "bf16" or plan.precision == "auto" and has_fast_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; a CPU without AVX-512 would take fifty times as long."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
