"""A run that is stopped, killed, shared out or begun with other settings does what it should."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from support.pack import TESTS, part

loop = part("easyanimate_models.training.loop")
learner = part("easyanimate_models.training.learner")
journal = part("easyanimate_models.training.journal")
Hooks = part("easyanimate_models.training.hooks").Hooks
run_lock = part("easyanimate_models.training.run_lock")
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
Batches = part("easyanimate_models.training.clips.batches").BatchSchedule
PLAN = TrainingPlan(steps=60, learning_rate=1e-2, warmup=5, ema=0.9, clip=1.0, seed=3)

pytestmark = pytest.mark.usefixtures("gradients")


def toy(folder: Path, *options: str, processes: int = 1) -> subprocess.Popen:
    """`support.toy_run` in a process of its own, or in several."""
    command = [sys.executable]
    if processes > 1:
        port = 29500 + os.getpid() % 1000
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    command += ["-m", "support.toy_run", str(folder), *options]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=TESTS, env=variables, stderr=subprocess.PIPE)


def done(process: subprocess.Popen) -> None:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()[-2000:]


def curve(folder: Path) -> list[tuple[int, float]]:
    """The loss of each step, or what was measured of held-out clips at the end."""
    return [(int(row["step"]), float(row["loss"] or row["validation"])) for row in journal.read_log(folder / "log.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    done(toy(folder))
    return folder


def test_the_loss_falls_and_is_written_down(whole):
    losses = [loss for _, loss in curve(whole)]
    assert losses[-1] < 0.5 * losses[0]
    assert (whole / "loss.png").stat().st_size > 1000
    assert any((whole / "tensorboard").iterdir())
    with (whole / "log.csv").open() as file:
        assert {"step", "loss", "rate", "gradient"} <= set(next(csv.reader(file)))


def test_a_run_that_was_killed_goes_on_as_if_it_was_not(whole, tmp_path):
    process = toy(tmp_path, "--slow")
    until = time.monotonic() + 120
    while not (tmp_path / "state.pt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] < PLAN.steps
    done(toy(tmp_path))
    assert curve(tmp_path) == curve(whole)
    ours, theirs = (torch.load(f / "result.pt", weights_only=True) for f in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_learn_what_one_does(whole, tmp_path):
    done(toy(tmp_path, processes=2))
    assert [step for step, _ in curve(tmp_path)] == [step for step, _ in curve(whole)]
    for (_, ours), (_, theirs) in zip(curve(tmp_path), curve(whole), strict=True):
        assert abs(ours - theirs) <= 1e-4 * max(1.0, theirs)
    require_same_measurements(tmp_path, whole)


def test_two_processes_go_on_where_one_stopped(whole, tmp_path):
    stopped = toy(tmp_path, "--stop-at", "30")
    stopped.communicate()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 30
    done(toy(tmp_path, processes=2))
    for (_, ours), (_, theirs) in zip(curve(tmp_path), curve(whole), strict=True):
        assert abs(ours - theirs) <= 1e-4 * max(1.0, theirs)


def require_same_measurements(ours: Path, theirs: Path) -> None:
    """What was measured and saved on the way, by the averaged weights."""
    for mine, other in zip(*(journal.read_log(folder / "log.csv") for folder in (ours, theirs)), strict=True):
        assert bool(mine["validation"]) == bool(other["validation"]) == (int(mine["step"]) % 20 == 0)
        if mine["validation"]:
            assert float(mine["validation"]) == pytest.approx(float(other["validation"]), rel=1e-4)
    for name in ("x.safetensors", "x_step00025.safetensors", "x_step00050.safetensors"):
        saved, expected = (load_file(folder / name) for folder in (ours, theirs))
        assert all(torch.allclose(saved[key], expected[key], atol=1e-4) for key in expected)


def test_weights_that_are_shared_out_learn_the_same(whole, tmp_path):
    """Stopped on two processes with a half of the weights each, and gone on with in the same way."""
    toy(tmp_path, "--sharded", "--stop-at", "30", processes=2).communicate(timeout=300)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 30
    done(toy(tmp_path, "--sharded", processes=2))
    for (_, ours), (_, theirs) in zip(curve(tmp_path), curve(whole), strict=True):
        assert abs(ours - theirs) <= 1e-4 * max(1.0, theirs)
    ours, theirs = (torch.load(f / "result.pt", weights_only=True) for f in (tmp_path, whole))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)
    require_same_measurements(tmp_path, whole)


def layer() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 2)


def objective(network: nn.Linear):
    return lambda step: (network(torch.ones(1, 2)).square().sum(), {})


def test_a_state_that_can_not_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    network = layer()
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    save, written = torch.save, []

    def full_disk(state, path):
        if state["step"] > 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(state["step"])
        save(state, path)

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="free some disk space and run it again"):
        loop.fit(tmp_path, network, objective(network), PLAN)
    assert written == [1, 2]
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    assert not list(tmp_path.glob("*.part"))


def test_what_a_watcher_raises_stops_the_run_with_its_state(tmp_path):
    class Cancelled(Exception):
        pass

    def watch(step, figures):
        assert figures["loss"] >= 0
        if step == 7:
            raise Cancelled

    network = layer()
    with pytest.raises(Cancelled):
        loop.fit(tmp_path, network, objective(network), PLAN, callback=watch)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 7


def test_what_stops_a_step_leaves_the_state_before_it(tmp_path):
    """The host interrupts between any two layers."""
    network, other = layer(), layer()

    def stopped(step: int):
        if step == 9:
            raise KeyboardInterrupt
        return objective(network)(step)

    with pytest.raises(KeyboardInterrupt):
        loop.fit(tmp_path / "alone", network, stopped, PLAN)
    assert torch.load(tmp_path / "alone" / "state.pt", weights_only=True)["step"] == 9
    network = layer()
    with pytest.raises(KeyboardInterrupt):  # one has learnt, the other has not: that is no state to go on from
        loop.fit(tmp_path / "both", other, objective(other), PLAN, adversary=learner.ObjectiveModule(network, stopped))
    assert not (tmp_path / "both" / "state.pt").exists()


def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    network = layer()
    loop.fit(tmp_path, network, objective(network), PLAN, settings={"rank": 4})
    with pytest.raises(ValueError, match="started with learning_rate = 0.01, but now it is 0.02; restore"):
        loop.fit(tmp_path, network, objective(network), replace(PLAN, learning_rate=0.02), settings={"rank": 4})
    with pytest.raises(ValueError, match="started with rank = 4, but now it is 8"):
        loop.fit(tmp_path, network, objective(network), PLAN, settings={"rank": 8})


def test_the_batches_of_a_step_add_up(tmp_path):
    """Two batches of one are one batch of two."""
    rows = torch.randn(2 * PLAN.steps, 2, generator=torch.Generator().manual_seed(0))
    both, apart = layer(), layer()
    loop.fit(tmp_path / "a", both, lambda i: (both(rows[2 * i : 2 * i + 2]).square().mean(), {}), PLAN)
    plan = replace(PLAN, accumulate=2)
    loop.fit(tmp_path / "b", apart, lambda i: (apart(rows[i : i + 1]).square().mean(), {}), plan)
    assert torch.allclose(both.weight, apart.weight, atol=1e-6)


def test_an_adversary_learns_beside(tmp_path):
    network, other = layer(), layer()
    before = other.weight.detach().clone()
    loop.fit(tmp_path, network, objective(network), PLAN, adversary=learner.ObjectiveModule(other, objective(other)))
    assert not torch.equal(other.weight, before)
    assert "adversary_loss" in (tmp_path / "log.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"schedule": "square"}, "must be one of cosine, linear, constant"),
        ({"precision": "fp8"}, "must be one of fp32, bf16, auto"),
        ({"optimizer": "sgd"}, "must be one of adamw, adamw8bit"),
    ],
)
def test_a_plan_says_what_is_wrong(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **wrong)


def test_nothing_to_train_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="all weights are frozen"):
        loop.fit(tmp_path, layer().requires_grad_(False), lambda step: (torch.zeros(1), {}), PLAN)


def test_samples_are_refused_where_weights_are_shared_out(tmp_path, monkeypatch):
    sharing_out = SimpleNamespace(distributed_type=accelerate.DistributedType.FSDP)
    monkeypatch.setattr(loop, "make_accelerator", lambda _: sharing_out)
    with pytest.raises(ValueError, match=r"remove \[samples\], or train without FSDP"):
        loop.fit(tmp_path, nn.Linear(1, 1), lambda _: None, PLAN, hooks=Hooks(sampler=object()))


def test_a_package_that_is_missing_is_named_with_its_command(monkeypatch, tmp_path):
    extras = part("easyanimate_models.files.packages")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(extras.MissingPackageError, match="pip install accelerate"):
        loop.fit(tmp_path, layer(), lambda step: (torch.zeros(1), {}), PLAN)


def test_every_item_is_seen_once_an_epoch_and_batches_keep_to_a_bucket():
    batches = Batches({"a": 6, "b": 4}, 2, seed=1)
    assert batches.per_epoch == 5
    for epoch in range(3):
        drawn = [batches(epoch * 5 + i) for i in range(5)]
        for bucket, count in (("a", 6), ("b", 4)):
            assert sorted(i for b, items in drawn if b == bucket for i in items) == list(range(count))
    assert batches(7) == Batches({"a": 6, "b": 4}, 2, seed=1)(7)
    assert [Batches({"a": 6}, 2, seed=s)(0) for s in range(9)].count(batches(0)) < 9


def test_a_last_short_batch_is_filled_from_its_bucket():
    batches = Batches({"a": 3}, 2, seed=1)
    rows = [batches(i)[1] for i in range(2)]
    assert all(len(row) == 2 for row in rows) and set(sum(rows, [])) == {0, 1, 2}


def test_the_settings_of_a_run_lie_beside_it(whole):
    assert json.loads((whole / "plan.json").read_text())["steps"] == PLAN.steps


def test_every_step_has_a_row_and_what_was_not_measured_no_entry(tmp_path):
    network = layer()
    plan = replace(PLAN, steps=6)
    losses = [float(step % 4 + 1) for step in range(plan.steps)]
    strong = [float("nan") if step % 3 else 6.0 for step in range(plan.steps)]

    def wavy(step: int):
        return network.weight.sum() * 0 + losses[step], {"strong": strong[step], "never": torch.tensor(float("nan"))}

    loop.fit(tmp_path, network, wavy, plan)
    rows = journal.read_log(tmp_path / "log.csv")
    assert [int(row["step"]) for row in rows] == list(range(plan.steps))
    assert [float(row["loss"]) for row in rows] == losses
    assert [row["strong"] for row in rows] == ["6", "", "", "6", "", ""] and "never" not in rows[0]
    rates = [float(row["rate"]) for row in rows]
    assert rates == pytest.approx([plan.learning_rate_at(step) for step in range(plan.steps)], rel=1e-4)


def test_a_second_run_in_the_folder_of_one_that_is_training_is_refused(tmp_path):
    with run_lock.locked(tmp_path):  # as the first holds it while it trains
        second = toy(tmp_path)
        _, error = second.communicate(timeout=300)
    assert second.returncode == 1 and b"Another run is training in" in error
    done(toy(tmp_path))  # once it has ended
    steps = [step for step, _ in curve(tmp_path)]
    assert steps == list(range(PLAN.steps + 1))


def test_metrics_of_two_processes_are_their_means(tmp_path):
    done(toy(tmp_path, processes=2))
    rows = journal.read_log(tmp_path / "log.csv")
    assert all(float(row["process"]) == 0.5 and float(row["strong"]) == 1.0 for row in rows[:-1])
