"""A plain training loop: one objective, one optimizer, checkpoints that resume bit by bit.

Each step draws its data and noise from its own number alone, so that a run stopped at step n and resumed
equals one that was never stopped.
"""

import csv
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

SAVE_EVERY = 60.0  # seconds
LOG_EVERY = 20  # steps

Objective = Callable[[int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage learns; `learning_rate` falls along a half cosine after the warm-up."""

    steps: int
    learning_rate: float
    warmup: int
    ema: float
    clip: float
    seed: int


def fit(folder: Path, module: nn.Module, objective: Objective, plan: Plan) -> nn.Module:
    """Train `module` in place and return it with its averaged weights.

    `objective(step)` returns the loss and named figures for the log. The folder keeps `state.pt`, `log.csv`
    and `loss.png`; calling again with the same folder goes on where it stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = [p.detach().clone() for p in parameters]
    start = _resume(folder, module, optimizer, average)
    last_save = time.monotonic()
    with tqdm(total=plan.steps, initial=start, desc=folder.name, mininterval=5) as bar:
        for step in range(start, plan.steps):
            torch.manual_seed(plan.seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, plan)
            loss, figures = objective(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, plan.clip)
            if not math.isfinite(float(norm)):
                raise FloatingPointError(f"{folder.name}: the gradient is not finite at step {step}; lower the rate.")
            optimizer.step()
            _follow(average, parameters, min(plan.ema, (1 + step) / (10 + step)))
            bar.update()
            if step % LOG_EVERY == 0:
                figures = {"loss": float(loss.detach()), **figures}
                bar.set_postfix({k: f"{v:.4f}" for k, v in figures.items()})
                _log(folder / "log.csv", step, figures)
            done = step + 1 == plan.steps
            if done or time.monotonic() - last_save > SAVE_EVERY:
                _save(folder, module, optimizer, average, step + 1)
                last_save = time.monotonic()
    plot_loss(folder)
    with torch.no_grad():
        for p, a in zip(parameters, average, strict=True):
            p.copy_(a)
    return module


def initialise(module: nn.Module) -> nn.Module:
    """Random weights for a network built from the host's operations, which leave theirs empty."""
    for part in module.modules():
        for kind in (nn.Linear, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding):
            if isinstance(part, kind):
                kind.reset_parameters(part)
    return module


def _learning_rate(step: int, plan: Plan) -> float:
    warm = min(1.0, (step + 1) / max(1, plan.warmup))
    return plan.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


@torch.no_grad()
def _follow(average: Iterable[Tensor], parameters: Iterable[Tensor], decay: float) -> None:
    torch._foreach_lerp_(list(average), [p.detach() for p in parameters], 1 - decay)


def _save(folder: Path, module: nn.Module, optimizer, average: list[Tensor], step: int) -> None:
    state = {"step": step, "module": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
    partial = folder / "state.pt.part"
    torch.save(state, partial)
    partial.replace(folder / "state.pt")


def _resume(folder: Path, module: nn.Module, optimizer, average: list[Tensor]) -> int:
    path = folder / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    for a, b in zip(average, state["average"], strict=True):
        a.copy_(b)
    logging.info("%s: resumed at step %d", folder.name, state["step"])
    return state["step"]


def _log(path: Path, step: int, figures: dict[str, float]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", *figures])
        writer.writerow([step, *(f"{v:.6g}" for v in figures.values())])


def plot_loss(folder: Path) -> None:
    """`loss.png` from `log.csv`."""
    from matplotlib.figure import Figure

    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows], linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=folder.name)
    axes.grid(alpha=0.3)
    figure.savefig(folder / "loss.png", dpi=110)
