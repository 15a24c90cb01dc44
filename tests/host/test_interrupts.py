"""Cancel at every stage on a real server: it stops within a step or a slice, and the next run is not affected."""

import json

import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from safetensors.torch import save_file

from support.faults import last_messages, report, run_and_cancel, with_fault
from support.pack import part
from support.prompts import text_to_frames
from support.stand_in_releases import TEXT_LAYERS, loaders_for
from support.videos import read_pictures
from tools.workflows import client
from tools.workflows.author import node

read_checkpoint = part("easyanimate_models.files.checkpoint").read_checkpoint
STAGES = {  # stage -> the node whose output has the fault, the layer, which of its calls, the node that stops
    "text encoding": ("clip", None, 1, "prompt"),
    "sampling": ("model", "", 2, "sampler"),
    "encoding": ("vae", "encoder", 2, "encode"),
    "decoding": ("vae", "decoder", 2, "decode"),
    "encoding in tiles": ("vae", "encoder", 3, "encode"),
    "decoding in tiles": ("vae", "decoder", 5, "decode"),
    "overlapping": ("vae", "decoder", 3, "decode"),
    "smoothing": ("vae", "encoder", 1, "decode"),
}
SEAMS = {"overlapping": "overlap", "smoothing": "smooth"}  # which V4 and V5.1 have none of
CASES = [
    (release, stage) for release in ("V3", "V4", "V5.1") for stage in STAGES if release == "V3" or stage not in SEAMS
]
TILE = 64  # pixels; frames of one and a half of them have two tiles


def nodes_for(release: str, stage: str) -> dict:
    nodes = text_to_frames(**loaders_for(release))
    tiled = stage.endswith("in tiles")
    width, tile_size = (TILE * 3 // 2, TILE) if tiled else (TILE, 0)
    nodes["decode"]["inputs"] |= {"seams": SEAMS.get(stage, "original"), "tile_size": tile_size}
    nodes["empty"]["inputs"]["width"] = width
    if not stage.startswith("encoding"):
        return nodes
    nodes["first"] = node("EmptyImage", width=width, height=TILE, batch_size=8, color=0xC08040)
    nodes["rest"] = node("EmptyImage", width=width, height=TILE, batch_size=16, color=0x4080C0)
    nodes["pictures"] = node("ImageBatch", image1=["first", 0], image2=["rest", 0])
    nodes["encode"] = node("EasyAnimateEncode", images=["pictures", 0], vae=["vae", 0], tile_size=tile_size)
    nodes["decode"]["inputs"]["latent"] = ["encode", 0]
    unused = ("model", "clip", "prompt", "empty", "sampler")
    return {name: each for name, each in nodes.items() if name not in unused}


def pictures(server, nodes: dict) -> torch.Tensor:
    return read_pictures(client.run(server, nodes))


@pytest.fixture(scope="module")
def without_fault(server):
    """What each stage's prompt makes when nothing happens."""
    cache = {}

    def make(nodes: dict) -> torch.Tensor:
        key = json.dumps(nodes)
        if key not in cache:
            cache[key] = pictures(server, nodes)
        return cache[key]

    return make


def test_cancel_while_a_file_is_read_stops_behind_it(server, without_fault):
    """Only the transformer is read again: the host has cached the rest."""
    expected, nodes = without_fault(text_to_frames()), text_to_frames()
    name, nodes["model"]["inputs"]["transformer"] = nodes["model"]["inputs"]["transformer"], ["name", 0]
    nodes = with_fault(nodes, "name", "reading", "interrupt")
    nodes["fault"]["inputs"]["target"] = name
    with pytest.raises(client.WorkflowError, match="interrupted"):
        run_and_cancel(server, nodes)
    assert last_messages(server)["execution_interrupted"]["node_id"] == "model"
    assert torch.equal(pictures(server, nodes), expected)


def test_cancel_while_shards_are_read_stops_behind_the_one_that_is(tmp_path, monkeypatch):
    read, paths = comfy.utils.load_torch_file, []

    def read_and_interrupt(path, **kwargs):
        paths.append(path)
        mm.interrupt_current_processing()
        return read(path, **kwargs)

    weights = {f"{n}.safetensors": {f"layer{n}.weight": torch.ones(1)} for n in range(3)}
    for name, tensors in weights.items():
        save_file(tensors, tmp_path / name)
    listed = {key: name for name, tensors in weights.items() for key in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    monkeypatch.setattr("comfy.utils.load_torch_file", read_and_interrupt)
    with pytest.raises(mm.InterruptProcessingException):
        read_checkpoint(tmp_path, "text_encoder")
    assert len(paths) == 1
    monkeypatch.setattr("comfy.utils.load_torch_file", read)
    assert set(read_checkpoint(tmp_path, "text_encoder").tensors) == set(listed)


@pytest.mark.parametrize(("release", "stage"), CASES)
def test_cancel_stops_within_a_step_and_leaves_nothing_behind(server, stand_in_releases, without_fault, release, stage):
    source, layer, call, stopped = STAGES[stage]
    expected = without_fault(nodes_for(release, stage))
    layer = TEXT_LAYERS[release] if layer is None else layer
    nodes = with_fault(nodes_for(release, stage), source, layer, "interrupt", call)
    with pytest.raises(client.WorkflowError, match="interrupted"):
        run_and_cancel(server, nodes)
    assert report(server)["calls"] == call
    assert last_messages(server)["execution_interrupted"]["node_id"] == stopped
    assert torch.equal(pictures(server, nodes), expected)
