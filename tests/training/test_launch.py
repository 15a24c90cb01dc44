"""`accelerate launch` on CPUs: as many processes as it is asked for, which learn what one does."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from support.pack import ROOT, part
from support.recorded import relative_error
from tools import comfyui

launch = part("easyanimate_models.training.launch")
recipes = part("easyanimate_models.training.recipe")
run = part("easyanimate_models.training.recipe_run")
journal = part("easyanimate_models.training.journal")
toys = part("easyanimate_models.training.toy.toy_clips")

pytestmark = pytest.mark.usefixtures("gradients")

RECIPE = """folder = "{folder}"
clips = "clips"
checkpointing = false
[data]
side = {side}
frames = 8
batch = 2
[plan]
steps = {steps}
learning_rate = 1e-3
warmup = 1
ema = 0.9
clip = 1.0
seed = 0
precision = "fp32"
"""
KINDS = {
    "lora": '[models]\ntransformer = "built-in"\nvae = "built-in"\ntext_encoder = "built-in"\n'
    "[lora]\nrank = 2\nalpha = 2\n",
    "vae": '[models]\nvae = "built-in"\n'
    "[vae]\nperceptual = 0.0\nadversary = 0.5\nadversary_from = 1\ncritic_width = 8\nstills = 0.5\n",
}
STEPS, SIDES = {"lora": 50, "vae": 4}, {"lora": 32, "vae": 64}
COMMANDS = {
    "accelerate": ["python", "/venv/bin/accelerate", "launch"],
    "accelerate-launch": ["/venv/bin/accelerate-launch"],
    "exe": ["C:\\venv\\accelerate.exe", "launch"],
    "module": ["python", "-m", "accelerate.commands.launch"],
    "script": ["python", "/site-packages/accelerate/commands/launch.py"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_does(kind, tmp_path):
    """`accelerate launch --cpu --num_processes 2`, as it is, on a recipe."""
    toys.write_toys(tmp_path / "clips", count=3)
    for name in ("one", "two"):
        text = f'kind = "{kind}"\n' + RECIPE.format(folder=name, steps=STEPS[kind], side=SIDES[kind]) + KINDS[kind]
        (tmp_path / f"{name}.toml").write_text(text)
    run.run_recipe(recipes.read_recipe(tmp_path / "one.toml"))
    paths = os.pathsep.join([str(comfyui.HOST), str(ROOT)])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*command, "-m", "easyanimate_models.training", str(tmp_path / "two.toml")],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Training in 2 processes." in done.stderr
    one, two = (journal.read_log(tmp_path / name / "log.csv") for name in ("one", "two"))
    assert [row["step"] for row in two] == [row["step"] for row in one] == [str(step) for step in range(STEPS[kind])]
    compared = 1 if kind == "vae" else STEPS[kind]  # critics amplify rounding from step to step
    for row, expected in zip(two[:compared], one, strict=False):
        for name in ("loss", "gradient"):
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=1e-4)
    assert relative_error(weights_in(tmp_path / "two"), weights_in(tmp_path / "one")) < 1e-4


def weights_in(folder: Path) -> torch.Tensor:
    """All weights of the file that a run made."""
    (file,) = folder.rglob("*.safetensors")
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(file).items())])


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_the_launchers_arguments_are_found_however_it_was_started(command, monkeypatch):
    arguments = ["--cpu", "--num_processes", "3", "-m", "easyanimate_models.training", "launch.toml"]
    commands = [["python", "shell.py"], [*command, *arguments], ["init"]]
    parents = [SimpleNamespace(cmdline=lambda words=words: words) for words in commands]
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parents=lambda: parents))
    assert launch._launcher_arguments() == arguments


@pytest.fixture
def launched(monkeypatch):
    """As `accelerate launch` starts its one process; a function that says with which arguments it did."""
    for name in launch.STARTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")

    def by(*arguments: str) -> None:
        monkeypatch.setattr(launch, "_launcher_arguments", lambda: [*arguments, "-m", "module"])

    return by


def test_processes_are_started_where_accelerate_started_one_of_several(launched, monkeypatch, tmp_path):
    launched("--cpu", "--num_processes", "3")
    assert launch.missing_processes() == 3
    launched("--cpu")
    assert launch.missing_processes() == 0
    settings = tmp_path / "settings.yaml"
    lines = "compute_environment: LOCAL_MACHINE", "distributed_type: MULTI_CPU", "num_processes: 4", "use_cpu: true"
    settings.write_text("\n".join(lines))
    launched("--config_file", str(settings))
    assert launch.missing_processes() == 4
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert launch.missing_processes() == 0


def test_what_accelerate_can_not_start_is_refused_in_a_sentence(launched, monkeypatch):
    launched("--cpu", "--num_processes", "4", "--num_machines", "2", "--machine_rank", "0")
    with pytest.raises(ValueError, match="not 4 on 2 machines; use python -m torch.distributed.run"):
        launch.missing_processes()
    launched("--num_processes", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not launch.runs_on_gpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    with pytest.raises(ValueError, match="can't start 2 processes on one GPU; set --num_processes to 1, or add --cpu"):
        launch.missing_processes()
