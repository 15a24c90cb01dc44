"""Cancel at every stage on a real server: it stops within a step or a slice, and the next run is as if nothing was."""

import json

import client
import pytest
import torch
from graphs import node
from seeing import read_pictures
from troubled import cancelled, last_messages, report, small, troubled

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


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_stops_within_a_step_and_leaves_nothing_behind(server, untroubled, stage):
    source, layer, call, stopped = STAGES[stage]
    wanted, nodes = untroubled(nodes_for(stage)), troubled(nodes_for(stage), source, layer, "interrupt", call)
    with pytest.raises(client.WorkflowError, match="interrupted"):
        cancelled(server, nodes)
    assert report(server)["calls"] == call
    assert last_messages(server)["execution_interrupted"]["node_id"] == stopped
    assert torch.equal(pictures(server, nodes), wanted)
