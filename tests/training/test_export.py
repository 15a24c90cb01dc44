"""What training writes is there in full or not at all, and a full disk is explained."""

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from support.pack import part

atomic = part("easyanimate_models.files.atomic")
export = part("easyanimate_models.training.export")
checkpoints = part("easyanimate_models.training.checkpoints")
WEIGHTS = {"a": torch.ones(2, 3).T}  # not contiguous


def failing(message: str):
    """A `save_file` that stops in the middle."""

    def save_file(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError(message)

    return save_file


def test_a_component_folder_holds_its_config_and_weights(tmp_path):
    file = export.write_component(tmp_path / "transformer", {"_class_name": "x"}, WEIGHTS)
    assert torch.equal(load_file(file)["a"], WEIGHTS["a"])
    assert (tmp_path / "transformer" / "config.json").read_text() == '{\n  "_class_name": "x"\n}\n'
    assert len(list((tmp_path / "transformer").iterdir())) == 2


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    file = tmp_path / "lora.safetensors"
    atomic.write_safetensors(file, WEIGHTS)
    monkeypatch.setattr(atomic, "save_file", failing("I/O error: No space left on device (os error 28)"))
    with pytest.raises(OSError, match="disk that holds .*lora.safetensors is full; free some space"):
        atomic.write_safetensors(file, {"a": torch.zeros(1)})
    monkeypatch.setattr(atomic, "save_file", failing("something else"))
    with pytest.raises(SafetensorError, match="something else"):
        atomic.write_safetensors(file, {"a": torch.zeros(1)})
    assert torch.equal(load_file(file)["a"], WEIGHTS["a"])
    assert list(tmp_path.iterdir()) == [file]


def network_and_objective():
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2)
    return network, lambda step: (network(torch.ones(1, 2)).square().sum(), {})


def test_a_state_of_an_older_version_is_resumed(tmp_path):
    """It called the learners courses."""
    loop, plans = (part(f"easyanimate_models.training.{name}") for name in ("loop", "training_plan"))
    plan = plans.TrainingPlan(steps=4, learning_rate=1e-2, warmup=1, ema=0.9, clip=1.0, seed=3)

    def stop(step: int, _) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with torch.enable_grad():
        whole = loop.fit(tmp_path / "whole", *network_and_objective(), plan)
        with pytest.raises(KeyboardInterrupt):
            loop.fit(tmp_path / "stopped", *network_and_objective(), plan, callback=stop)
        file = tmp_path / "stopped" / checkpoints.STATE
        state = torch.load(file, weights_only=True)
        torch.save({"step": state["step"], "courses": state["learners"]}, file)
        resumed = loop.fit(tmp_path / "stopped", *network_and_objective(), plan)
    assert state["step"] == 2 and torch.equal(whole.weight, resumed.weight)
