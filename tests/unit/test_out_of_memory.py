"""Out of memory at every stage: the host's way out is taken, what is done is kept, what failed is let go."""

import gc
import weakref

import client
import comfy.model_management as mm
import pytest
import torch
from conftest import part
from graphs import node
from seeing import read_pictures
from test_long_video import sampled
from tiny_networks import random, tiny_transformer, tiny_vae
from troubled import last_messages, memory, report, small, troubled

sd = part("easyanimate_models.sd")
decoding = part("nodes.decoding")
TINY = part("easyanimate_models.files.model_files").TINY
TIPS = "This error means you ran out of memory on your GPU"  # the host's own words


def fails(layer: torch.nn.Module, *calls: int) -> list[weakref.ref]:
    """Runs out of memory in these calls of a layer; notes what it was given then, and that it is gone by the next."""
    held, seen = [], [0]

    def watch(_, inputs):
        seen[0] += 1
        assert not any(given() is not None for given in held)
        if seen[0] in calls:
            held.append(weakref.ref(inputs[0]))
            raise mm.OOM_EXCEPTION("Allocation on device failed: this is a test.")

    layer.register_forward_pre_hook(watch)
    return held


@pytest.fixture
def no_collector():
    """What is let go must be so without looking for cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def out_of_memory():
    return pytest.raises(mm.OOM_EXCEPTION, match="this is a test")


def test_a_network_out_of_memory_holds_nothing_and_works_again(no_collector):
    wanted, model = sampled(tiny_transformer(), 2), tiny_transformer()
    held = fails(model.model.diffusion_model.transformer_blocks[3], 2)
    with out_of_memory():
        sampled(model, 2)
    assert [given() for given in held] == [None]
    assert torch.equal(sampled(model, 2), wanted)


def test_a_text_encoder_out_of_memory_holds_nothing_and_works_again(no_collector):
    clip = sd.load_text_encoder(TINY)
    wanted = clip.encode_from_tokens(clip.tokenize("a red ball"))
    held = fails(clip.cond_stage_model.t5xxl.transformer.encoder.block[1].layer[1].DenseReluDense.wo, 1)
    with out_of_memory():
        clip.encode_from_tokens(clip.tokenize("a red ball"))
    assert [given() for given in held] == [None]
    assert torch.equal(clip.encode_from_tokens(clip.tokenize("a red ball")), wanted)


def decode(vae, tile_size: int) -> torch.Tensor:
    return decoding.EasyAnimateDecode.execute({"samples": random(1, 4, 4, 16, 24)}, vae, tile_size).args[0]


def encode(vae, tile_size: int) -> torch.Tensor:
    return decoding.EasyAnimateEncode.execute(random(16, 128, 192, 3).sigmoid(), vae, tile_size).args[0]["samples"]


@pytest.mark.parametrize(("work", "layer"), [(decode, "decoder.conv_out"), (encode, "encoder.conv_out")])
def test_the_vae_goes_on_in_smaller_tiles_and_frees_what_it_had(no_collector, work, layer):
    """192 pixels wide: whole, then in tiles of 96; those asked for of 128, then of 64."""
    for asked, smaller in ((0, 96), (128, 64)):
        wanted, vae = work(tiny_vae(), smaller), tiny_vae()
        held = fails(vae.first_stage_model.get_submodule(layer), 2)
        assert torch.equal(work(vae, asked), wanted)
        assert [given() for given in held] == [None]


@pytest.mark.parametrize(("work", "layer"), [(decode, "decoder.conv_out"), (encode, "encoder.conv_out")])
def test_the_smallest_tiles_out_of_memory_are_the_end(no_collector, work, layer):
    vae = tiny_vae()
    held = fails(vae.first_stage_model.get_submodule(layer), 1, 2, 3)
    with out_of_memory():
        work(vae, 128)
    assert [given() for given in held] == [None, None]


@pytest.mark.parametrize("error", [mm.OOM_EXCEPTION("Allocation failed"), MemoryError()])
def test_a_file_that_does_not_fit_is_not_called_broken(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("comfy.utils.load_torch_file", fail)
    with pytest.raises(type(error)):
        sd.load_transformer(TINY)


def pictures(server, nodes: dict) -> torch.Tensor:
    return read_pictures(client.run(server, nodes))


def frames(**changed) -> dict:
    """Eight frames of 128 pixels."""
    nodes = small(length=8) | changed
    nodes["empty"]["inputs"] |= {"width": 128, "height": 128}
    return nodes


def encoding(kind: str) -> dict:
    nodes = frames(pictures=node("EmptyImage", width=128, height=128, batch_size=8, color=0xC08040))
    tile = {"tile_size": 0} if kind == "EasyAnimateEncode" else {}
    name = "images" if kind == "EasyAnimateEncode" else "pixels"
    nodes["encode"] = node(kind, **{name: ["pictures", 0]}, vae=["vae", 0], **tile)
    nodes["decode"]["inputs"]["latent"] = ["encode", 0]
    return {name: nodes[name] for name in ("vae", "pictures", "encode", "decode", "save")}


@pytest.mark.parametrize(
    ("source", "layer", "stopped"),
    [("model", "transformer_blocks.2", "EasyAnimateSampler"), ("clip", "t5xxl.transformer", "EasyAnimateEncodePrompt")],
)
def test_where_there_is_no_way_out_the_host_says_so_and_the_next_run_works(server, source, layer, stopped):
    nodes = troubled(frames(), source, layer, "memory")
    with pytest.raises(client.WorkflowError, match=f"(?s){stopped}: .*{TIPS}"):
        client.run(server, nodes)
    after = memory(server)
    assert (after["held"], after["loaded"]) == (False, 0)
    assert torch.equal(pictures(server, nodes), pictures(server, frames()))


STOCK_DECODE = node("VAEDecode", samples=["sampler", 0], vae=["vae", 0])


@pytest.mark.parametrize("decode", [{}, {"decode": STOCK_DECODE}], ids=["ours", "stock"])
def test_decode_goes_on_in_tiles(server, decode):
    nodes = troubled(frames(**decode), "vae", "decoder", "memory")
    made = pictures(server, nodes)
    assert report(server)["calls"] > 2
    tiled = frames(decode=node("EasyAnimateDecode", latent=["sampler", 0], vae=["vae", 0], tile_size=64))
    assert torch.equal(made, pictures(server, tiled))


@pytest.mark.parametrize("kind", ["EasyAnimateEncode", "VAEEncode"])
def test_encode_goes_on_in_tiles(server, kind):
    made = pictures(server, troubled(encoding(kind), "vae", "encoder", "memory"))
    assert report(server)["calls"] > 2
    tiled = encoding("EasyAnimateEncode")
    tiled["encode"]["inputs"]["tile_size"] = 64
    assert torch.equal(made, pictures(server, tiled))


def test_what_was_sampled_outlives_a_decode_that_fails(server):
    nodes = troubled(frames(), "vae", "decoder", "memory", times=2)
    with pytest.raises(client.WorkflowError, match=f"(?s)EasyAnimateDecode: .*{TIPS}"):
        client.run(server, nodes)
    assert memory(server)["loaded"] == 0
    progress = []
    made = read_pictures(client.run(server, nodes, lambda *event: progress.append(event[0])))
    assert "sampler" in last_messages(server)["execution_cached"]["nodes"]
    assert set(progress) == {"EasyAnimateDecode"}
    assert torch.equal(made, pictures(server, frames()))
