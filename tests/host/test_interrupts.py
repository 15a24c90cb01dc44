"""Cancel at every stage on a real server: it stops within a step or a slice, and the next run is as if nothing was."""

import json

import client
import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from conftest import part
from graphs import node
from safetensors.torch import save_file
from seeing import read_pictures
from troubled import cancelled, last_messages, report, small, troubled

read_checkpoint = part("easyanimate_models.files.checkpoint").read_checkpoint
STAGES = {  # stage -> the node's output that is troubled, the layer, at which of its calls, the node that is stopped
    "text encoding": ("clip", "t5xxl.transformer", 1, "prompt"),
    "sampling": ("model", "", 2, "sampler"),
    "encoding": ("vae", "encoder", 2, "encode"),
    "decoding": ("vae", "decoder", 2, "decode"),
    "overlapping": ("vae", "decoder", 3, "decode"),
    "smoothing": ("vae", "encoder", 1, "decode"),
}


def nodes_for(stage: str) -> dict:
    nodes = small()
    if stage == "encoding":
        nodes["pictures"] = node("EmptyImage", width=64, height=64, batch_size=24, color=0xC08040)
        nodes["encode"] = node("EasyAnimateEncode", images=["pictures", 0], vae=["vae", 0], tile_size=0)
        nodes["decode"]["inputs"]["latent"] = ["encode", 0]
        unused = ("model", "clip", "prompt", "empty", "sampler")
        return {name: made for name, made in nodes.items() if name not in unused}
    seams = {"overlapping": "overlap", "smoothing": "smooth"}
    nodes["decode"]["inputs"]["seams"] = seams.get(stage, "original")
    return nodes


def pictures(server, nodes: dict) -> torch.Tensor:
    return read_pictures(client.run(server, nodes))


@pytest.fixture(scope="module")
def untroubled(server):
    """What each stage's prompt makes when nothing happens."""
    made = {}

    def make(nodes: dict) -> torch.Tensor:
        key = json.dumps(nodes)
        if key not in made:
            made[key] = pictures(server, nodes)
        return made[key]

    return make


def test_cancel_while_a_file_is_read_stops_behind_it(server, untroubled):
    """The transformer alone is read anew: the host has kept the rest."""
    wanted, nodes = untroubled(small()), small()
    name, nodes["model"]["inputs"]["transformer"] = nodes["model"]["inputs"]["transformer"], ["name", 0]
    nodes = troubled(nodes, "name", "reading", "interrupt")
    nodes["trouble"]["inputs"]["thing"] = name
    with pytest.raises(client.WorkflowError, match="interrupted"):
        cancelled(server, nodes)
    assert last_messages(server)["execution_interrupted"]["node_id"] == "model"
    assert torch.equal(pictures(server, nodes), wanted)


def test_cancel_while_shards_are_read_stops_behind_the_one_that_is(tmp_path, monkeypatch):
    read, seen = comfy.utils.load_torch_file, []

    def cancelled_meanwhile(path, **kwargs):
        seen.append(path)
        mm.interrupt_current_processing()
        return read(path, **kwargs)

    weights = {f"{n}.safetensors": {f"layer{n}.weight": torch.ones(1)} for n in range(3)}
    for name, tensors in weights.items():
        save_file(tensors, tmp_path / name)
    listed = {key: name for name, tensors in weights.items() for key in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    monkeypatch.setattr("comfy.utils.load_torch_file", cancelled_meanwhile)
    with pytest.raises(mm.InterruptProcessingException):
        read_checkpoint(tmp_path, "text_encoder")
    assert len(seen) == 1
    monkeypatch.setattr("comfy.utils.load_torch_file", read)
    assert set(read_checkpoint(tmp_path, "text_encoder").tensors) == set(listed)


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_stops_within_a_step_and_leaves_nothing_behind(server, untroubled, stage):
    source, layer, call, stopped = STAGES[stage]
    wanted, nodes = untroubled(nodes_for(stage)), troubled(nodes_for(stage), source, layer, "interrupt", call)
    with pytest.raises(client.WorkflowError, match="interrupted"):
        cancelled(server, nodes)
    assert report(server)["calls"] == call
    assert last_messages(server)["execution_interrupted"]["node_id"] == stopped
    assert torch.equal(pictures(server, nodes), wanted)
