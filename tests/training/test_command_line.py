"""`python -m easyanimate_models.training` and `dev.py train`: what is given wrongly is answered in a sentence."""

import os
import subprocess
import sys

import pytest

from support.pack import ROOT
from tools import comfyui, modules


def train(*arguments: str) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(comfyui.HOST), str(ROOT)])
    command = [sys.executable, "-m", "easyanimate_models.training", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Usage: python -m easyanimate_models.training RECIPE.toml, or RUN_FOLDER"),
        (("Lora",), "Lora is neither a recipe nor a folder; give the path of a recipe"),
        (("missing.toml",), "missing.toml can't be read as a recipe"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(arguments, sentence):
    done = train(*arguments)
    assert done.returncode == 1 and sentence in done.stderr and "Traceback" not in done.stderr
    assert ("lora_tiny.toml" in done.stderr) == ("Lora" in arguments)


@pytest.mark.parametrize("name", ["Lora", "lora.toml", "./new", "runs/new"])
def test_names_stay_as_they_are_and_paths_are_relative_to_where_the_command_is_given(name, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(modules, "run_module", lambda name, arguments, *_: started.append(arguments))
    monkeypatch.chdir(tmp_path)
    modules.train([name, "restore"])
    assert started == [["Lora" if name == "Lora" else str(tmp_path / name), "restore"]]
