"""Out of memory at every stage on a server: the host's way out is taken, and what was done before is kept."""

import pytest
import torch

from support.faults import last_messages, memory, report, with_fault
from support.prompts import text_to_frames
from support.stand_in_releases import TEXT_LAYERS, loaders_for
from support.videos import read_pictures
from tools.workflows import client
from tools.workflows.author import node

TIPS = "This error means you ran out of memory on your GPU"  # the host's own words


def pictures(server, nodes: dict) -> torch.Tensor:
    return read_pictures(client.run(server, nodes))


RELEASES = {"V3": 8, "V4": 16, "V5.1": 9}  # and frames
DECODE_FAILS = {"V3": 1, "V4": 2, "V5.1": 2}  # in which call: where features of those before are kept, not the first
ENCODE_FAILS = {"V3": 1, "V4": 1, "V5.1": 2}
every_release = pytest.mark.parametrize("release", RELEASES)


def frames(release: str = "V3", **changed) -> dict:
    """Frames of 128 pixels."""
    nodes = text_to_frames(length=RELEASES[release], **loaders_for(release)) | changed
    nodes["empty"]["inputs"] |= {"width": 128, "height": 128}
    return nodes


def encoding(kind: str, release: str) -> dict:
    pixels = node("EmptyImage", width=128, height=128, batch_size=RELEASES[release], color=0xC08040)
    nodes = frames(release, pictures=pixels)
    tile = {"tile_size": 0} if kind == "EasyAnimateEncode" else {}
    name = "images" if kind == "EasyAnimateEncode" else "pixels"
    nodes["encode"] = node(kind, **{name: ["pictures", 0]}, vae=["vae", 0], **tile)
    nodes["decode"]["inputs"]["latent"] = ["encode", 0]
    return {name: nodes[name] for name in ("vae", "pictures", "encode", "decode", "save")}


@pytest.mark.parametrize(
    ("release", "source", "layer", "stopped"),
    [
        ("V3", "model", "transformer_blocks.2", "EasyAnimateSampler"),
        ("V4", "model", "blocks.2", "EasyAnimateSampler"),
        ("V5.1", "model", "transformer_blocks.2", "EasyAnimateSampler"),
        *((release, "clip", layer, "EasyAnimateEncodePrompt") for release, layer in TEXT_LAYERS.items()),
    ],
)
def test_where_there_is_no_way_out_the_host_says_so_and_the_next_run_works(
    server, stand_in_releases, release, source, layer, stopped
):
    nodes = with_fault(frames(release), source, layer, "memory")
    with pytest.raises(client.WorkflowError, match=f"(?s){stopped}: .*{TIPS}"):
        client.run(server, nodes)
    after = memory(server)
    assert (after["held"], after["loaded"]) == (False, 0)
    assert torch.equal(pictures(server, nodes), pictures(server, frames(release)))


STOCK_DECODE = node("VAEDecode", samples=["sampler", 0], vae=["vae", 0])


@every_release
@pytest.mark.parametrize("decode", [{}, {"decode": STOCK_DECODE}], ids=["ours", "stock"])
def test_decode_goes_on_in_tiles(server, stand_in_releases, release, decode):
    nodes = with_fault(frames(release, **decode), "vae", "decoder", "memory", DECODE_FAILS[release])
    pixels = pictures(server, nodes)
    assert report(server)["calls"] > 2
    tiled = frames(release, decode=node("EasyAnimateDecode", latent=["sampler", 0], vae=["vae", 0], tile_size=64))
    assert torch.equal(pixels, pictures(server, tiled))


@every_release
@pytest.mark.parametrize("kind", ["EasyAnimateEncode", "VAEEncode"])
def test_encode_goes_on_in_tiles(server, stand_in_releases, release, kind):
    nodes = with_fault(encoding(kind, release), "vae", "encoder", "memory", ENCODE_FAILS[release])
    pixels = pictures(server, nodes)
    assert report(server)["calls"] > 2
    tiled = encoding("EasyAnimateEncode", release)
    tiled["encode"]["inputs"]["tile_size"] = 64
    assert torch.equal(pixels, pictures(server, tiled))


def test_what_was_sampled_outlives_a_decode_that_fails(server):
    nodes = with_fault(frames(), "vae", "decoder", "memory", times=2)
    with pytest.raises(client.WorkflowError, match=f"(?s)EasyAnimateDecode: .*{TIPS}"):
        client.run(server, nodes)
    assert memory(server)["loaded"] == 0
    progress = []
    pixels = read_pictures(client.run(server, nodes, lambda *event: progress.append(event[0])))
    assert "sampler" in last_messages(server)["execution_cached"]["nodes"]
    assert set(progress) == {"EasyAnimateDecode"}
    assert torch.equal(pixels, pictures(server, frames()))
