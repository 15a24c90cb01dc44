"""What the training loop costs beside the bare steps, and what recomputing blocks saves."""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from easyanimate_models.supported_models import EasyAnimateV3
from easyanimate_models.training import loop
from easyanimate_models.training.denoiser.diffusion import prediction_of
from easyanimate_models.training.denoiser.objective import Batch, ObjectiveSettings, denoising_objective
from easyanimate_models.training.toy.tiny import DIT
from easyanimate_models.training.training_plan import TrainingPlan

from .measure import Row, in_own_process, peak_above, report, seconds
from .networks import TEXT_TOKENS, V3, transformer

STEPS, REPETITIONS, BATCH = 40, 5, 32  # the batch of recipes/transformer_tiny.toml
DEEP = replace(V3, in_channels=4, depth=12, width=288, heads=4, skips=None, clip_tokens=False)
PLAN = TrainingPlan(STEPS, 1e-5, 1, 0.99, 1.0, seed=0)


def batches(config, count: int, frames: int, side: int):
    """Always the same batch: drawing one is not what is measured."""
    latents = torch.randn(count, 4, frames, side, side)
    text = torch.randn(count, TEXT_TOKENS, config.caption_channels), torch.ones(count, TEXT_TOKENS)
    return lambda step, rng: Batch(latents, *text)


class Bare:
    """Forward, backward and optimizer, nothing else."""

    def __init__(self, network, objective):
        self.objective, self.optimizer = objective, torch.optim.AdamW(network.parameters(), lr=1e-5)

    def step(self, step: int) -> None:
        loss, _ = self.objective(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def objective(network, draw_batch, checkpointing: bool = False):
    settings = ObjectiveSettings(checkpointing=checkpointing)
    return denoising_objective(network, draw_batch, prediction_of(EasyAnimateV3), settings, 0)


def learner():
    """A tiny network and its objective."""
    network = transformer(DIT).train().requires_grad_(True)
    return network, objective(network, batches(DIT, BATCH, 6, 8))


def overhead() -> float:
    """Time that a run of the loop takes beyond as many bare steps, which are made in turn with its own."""
    (network, objective), bare, took = learner(), Bare(*learner()), []

    def callback(done: int, _) -> None:
        took.append(seconds(lambda: bare.step(done)))

    with tempfile.TemporaryDirectory() as folder:
        both = seconds(lambda: loop.fit(Path(folder), network, objective, PLAN, callback=callback))
    return both / sum(took) - 2


def overhead_row() -> Row:
    """The loop with its clipping, averages, log and state, against bare steps."""
    more = statistics.median([overhead() for _ in range(REPETITIONS + 1)][1:])
    how = (
        f"{STEPS} steps of the tiny model, batch {BATCH}, float32, in turn with as many bare ones; with clipping, "
        "averages, log, curve and saved state"
    )
    return Row("Training: what the loop adds to bare steps", "≤ 5 %", f"{more:.1%}", more <= 0.05, how)


def activations(checkpointing: bool) -> int:
    """Bytes above weights and gradients in a step."""
    network = transformer(DEEP).train().requires_grad_(True)
    loss = objective(network, batches(DEEP, 1, 8, 16), checkpointing)
    loss(0)[0].backward()  # gradients are there from now on
    return peak_above(lambda: loss(0)[0].backward())


def checkpointing_row() -> Row:
    """Activations stored for the gradient, with and without recomputing blocks."""
    stored, recomputed = (in_own_process(activations, on) for on in (False, True))
    gain = stored / recomputed
    figure = f"{gain:.1f} × ({stored / 1e6:.0f} against {recomputed / 1e6:.0f} MB)"
    how = "12 blocks of a quarter of V3's width, 512 tokens, float32; above weights and gradients"
    return Row("Training: activations without recomputing blocks, against with it", "≥ 3 ×", figure, gain >= 3, how)


def main() -> None:
    report(__file__, [overhead_row(), checkpointing_row()])


if __name__ == "__main__":
    main()
