"""Optimizers by name: each learns, resumes bit by bit, and says what it can't do; learning rates over the steps."""

import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from support.pack import part

loop = part("easyanimate_models.training.loop")
journal = part("easyanimate_models.training.journal")
optimizers = part("easyanimate_models.training.optimizers")
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
MissingPackageError = part("easyanimate_models.files.packages").MissingPackageError
STEPS = 30
RATES = {  # all but the one that needs a GPU's package
    "adamw": 1e-2,
    "prodigy": 1.0,
    "adafactor": 1e-2,
    "lion": 3e-3,
    "muon": 1e-2,
}

pytestmark = pytest.mark.usefixtures("gradients")


def plan(**changed):
    settings = {"steps": STEPS, "learning_rate": 1e-2, "warmup": 3, "ema": 0.5, "clip": 1.0, "seed": 3} | changed
    return TrainingPlan(**settings)


def trained(folder, plan, stop_at: int | None = None) -> torch.Tensor:
    """The weights of a small network after a run, which may be stopped at a step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 4))
    rows = torch.randn(8, 4)

    def stop(done: int, _) -> None:
        if done == stop_at:
            raise InterruptedError

    def objective(_) -> tuple[torch.Tensor, dict]:
        return (network(rows) - rows.flip(1)).square().mean(), {}

    loop.fit(folder, network, objective, plan, callback=stop)
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("name", RATES)
def test_an_optimizer_learns_and_resumes_bit_by_bit(name, tmp_path):
    settings = plan(optimizer=name, learning_rate=RATES[name], weight_decay=0.1)
    whole = trained(tmp_path / "whole", settings)
    losses = [float(row["loss"]) for row in journal.read_log(tmp_path / "whole" / "log.csv")]
    assert losses[-1] < losses[0] < 10
    with pytest.raises(InterruptedError):
        trained(tmp_path / "stopped", settings, stop_at=11)
    assert torch.equal(trained(tmp_path / "stopped", settings), whole)


def test_prodigy_finds_its_rate_and_the_log_says_which(tmp_path):
    trained(tmp_path, plan(optimizer="prodigy", learning_rate=1.0, schedule="constant", steps=60))
    rates = [float(row["rate"]) for row in journal.read_log(tmp_path / "log.csv")]
    assert rates[0] < 1e-5 and rates[-1] > 100 * rates[0]


def test_eight_bit_adamw_is_given_the_plan(monkeypatch):
    """The package itself is 40 MB."""
    made = SimpleNamespace(AdamW8bit=lambda parameters, **settings: settings)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=made))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", made)
    given = optimizers.make_optimizer([], plan(optimizer="adamw8bit", betas=(0.8, 0.9)), is_sharded=False)
    assert given == {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.01}


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("adamw8bit", "bitsandbytes", "bitsandbytes"),
        ("prodigy", "prodigyopt", "prodigyopt"),
        ("lion", "lion_pytorch", "lion-pytorch"),
    ],
)
def test_a_missing_package_is_named_with_its_command(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=f"`python -m pip install {package}`"):
        optimizers.make_optimizer([], plan(optimizer=name, learning_rate=1.0), is_sharded=False)


@pytest.mark.parametrize("name", ["adamw8bit", "prodigy", "adafactor", "muon"])
def test_what_needs_whole_weights_is_refused_where_they_are_sharded(name):
    with pytest.raises(ValueError, match=f"{name} can't train sharded weights; use one of adamw, lion, or train with"):
        optimizers.make_optimizer([], plan(optimizer=name, learning_rate=1.0), is_sharded=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": "prodigy", "learning_rate": 1e-4}, "prodigy finds the rate by itself and .*; set it to 1"),
        ({"optimizer": "adafactor", "betas": (0.9, 0.99)}, "but adafactor has no such setting; remove it"),
        ({"optimizer": "lion", "epsilon": 1e-8}, "epsilon is 1e-08, but lion has no such setting; remove it"),
        ({"betas": (0.9, 1.0)}, "both must be from 0 to below 1"),
        ({"clip": -1.0}, "clip is -1.0; it must be 0 or more"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; it must be 0 or more"),
        ({"warmup": -1}, "warmup is -1; it must be 0 or more"),
    ],
)
def test_settings_that_do_not_suit_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        plan(**changed)


def test_runs_of_before_have_the_settings_that_they_had():
    settings = asdict(plan())
    assert (settings["betas"], settings["epsilon"], settings["weight_decay"]) == ((0.9, 0.99), 1e-8, 0.01)


def test_gradients_are_clipped_or_not(tmp_path):
    small, free = (trained(tmp_path / str(clip), plan(clip=clip, optimizer="adafactor")) for clip in (1e-12, 0.0))
    assert torch.isfinite(free).all() and not torch.equal(small, free)


@pytest.mark.parametrize(
    ("schedule", "name"),
    [("linear", "linear"), ("constant_with_warmup", "constant_with_warmup"), ("constant", "constant_with_warmup")],
)
def test_learning_rates_are_those_of_transformers(schedule, name):
    """Theirs are 0 at step 0; ours begin one step later, as a step at rate 0 teaches nothing."""
    from transformers import get_scheduler

    steps, warmup = 20, 5
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    ours = plan(steps=steps, warmup=warmup, learning_rate=0.1, schedule=schedule)
    for step in range(steps):
        if step >= warmup:
            assert ours.learning_rate_at(step) == pytest.approx(theirs.get_last_lr()[0])
        else:
            assert ours.learning_rate_at(step) == pytest.approx(0.1 * (step + 1) / warmup)
        optimizer.step()
        theirs.step()


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adamw():
    matrix, vector = nn.Parameter(torch.zeros(8, 4)), nn.Parameter(torch.zeros(4))
    optimizer = optimizers.make_optimizer([matrix, vector], plan(optimizer="muon", weight_decay=0.0), is_sharded=False)
    matrix.grad, vector.grad = torch.randn(8, 4), torch.tensor([1.0, -2.0, 3.0, -4.0])
    optimizer.step()
    singular = torch.linalg.svdvals(matrix.detach()) / (1e-2 * 0.2 * 8**0.5)
    assert ((singular > 0.6) & (singular < 1.3)).all()
    assert torch.allclose(vector.detach(), -1e-2 * vector.grad.sign(), rtol=1e-3)


def test_muon_says_which_torch_it_needs(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match="muon needs torch 2.9 or newer, and this is .*; update ComfyUI's torch"):
        optimizers.make_optimizer([], plan(optimizer="muon"), is_sharded=False)
