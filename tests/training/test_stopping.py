"""A run leaves usable files: when it is stopped, every so many steps, and at an end that was moved."""

import signal
from dataclasses import replace
from pathlib import Path

import comfy.model_management as mm
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from support.pack import part

loop = part("easyanimate_models.training.loop")
export = part("easyanimate_models.training.export")
Hooks = part("easyanimate_models.training.hooks").Hooks
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
PLAN = TrainingPlan(steps=8, learning_rate=1e-2, warmup=2, ema=0.9, clip=1.0, seed=3)

pytestmark = pytest.mark.usefixtures("gradients")


class Run:
    """A layer that learns; `says` are the sentences for its user."""

    def __init__(self, folder: Path):
        self.folder, self.says = folder, []

    def __call__(self, plan=PLAN, stop_at: int | None = None, signalled_at: int | None = None):
        torch.manual_seed(0)
        layer = nn.Linear(2, 2)

        def objective(step: int):
            if step == signalled_at:
                signal.raise_signal(signal.SIGINT)
            return layer(torch.randn(1, 2)).square().sum(), {}

        def callback(done: int, _) -> None:
            if done == stop_at:
                raise mm.InterruptProcessingException

        def write(path, tensors, _):
            save_file(tensors, path)

        exporter = export.Exporter(
            self.folder / "x.safetensors", lambda: {n: p.detach().clone() for n, p in layer.named_parameters()}, write
        )
        return loop.fit(
            self.folder, layer, objective, plan, callback=callback, hooks=Hooks(exporter=exporter, say=self.says.append)
        )

    def files(self) -> list[str]:
        return sorted(file.name for file in self.folder.glob("*.safetensors"))


def averages(folder: Path) -> list[torch.Tensor]:
    return torch.load(folder / "state.pt", weights_only=True)["learners"][0]["average"]


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path)


def test_cancel_leaves_what_was_learnt_and_says_where(run, tmp_path):
    with pytest.raises(mm.InterruptProcessingException):
        run(stop_at=5)
    assert run.files() == ["x_step00005.safetensors"]
    saved = load_file(tmp_path / "x_step00005.safetensors")
    assert [saved[name].tolist() for name in ("weight", "bias")] == [a.tolist() for a in averages(tmp_path)]
    assert run.says == [
        f"Stopped after 5 steps: {tmp_path / 'x_step00005.safetensors'} holds what was learnt so far; run it again to "
        "go on from there."
    ]
    run()
    whole = Run(tmp_path / "whole")
    whole()
    ours, theirs = (load_file(folder / "x.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ctrl_c_ends_the_run_after_the_step_at_hand(run, tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(signalled_at=3)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4
    assert run.files() == ["x_step00004.safetensors"]


def test_files_on_the_way_lie_over_no_others(run, tmp_path):
    plan = replace(PLAN, save_every=3)
    run(plan)
    names = ["x.safetensors", "x_step00003.safetensors", "x_step00006.safetensors"]
    assert run.files() == names
    (tmp_path / "state.pt").unlink()
    run(plan)  # as one that was killed does some steps again
    assert run.files() == names
    (tmp_path / "state.pt").unlink()
    other = tmp_path / "x_step00003.safetensors"
    save_file({"weight": torch.ones(1)}, other)
    run(plan)
    assert run.files() == [*names[:2], "x_step00003_2.safetensors", names[2]]
    assert load_file(other)["weight"].shape == (1,)


def test_more_steps_go_on_and_fewer_end_at_once(run, tmp_path):
    constant = replace(PLAN, schedule="constant")
    run(replace(constant, steps=5))
    run(constant)
    whole = Run(tmp_path / "whole")
    whole(constant)
    ours, theirs = (load_file(folder / "x.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (tmp_path / "x.safetensors").unlink()
    run(replace(constant, steps=2))
    assert run.says == ["8 steps were taken already, more than the 2 asked for; this is what they made."]
    again = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(again[name], theirs[name]) for name in theirs)


def test_a_rate_that_falls_goes_on_towards_the_new_end(run, tmp_path):
    run(replace(PLAN, steps=5))
    run(PLAN)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == PLAN.steps
    rates = [PLAN.learning_rate_at(step) for step in range(5, PLAN.steps)]
    assert rates == sorted(rates, reverse=True) and min(rates) > 0


@pytest.mark.parametrize("wrong", [{"save_every": -1}])
def test_nonsense_is_named(wrong):
    with pytest.raises(ValueError, match="save_every is -1; it must be 0 or more"):
        replace(PLAN, **wrong)
