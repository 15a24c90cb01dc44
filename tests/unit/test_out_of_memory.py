"""Out of memory in a network: smaller tiles where there are any, and nothing of what failed stays in memory."""

import gc
import itertools
import weakref

import comfy.model_management as mm
import pytest
import torch

from support.pack import part
from support.tiny_networks import random, sampled, tiny_transformer, tiny_vae

sd = part("easyanimate_models.sd")
decoding = part("nodes.decoding")
TINY = part("easyanimate_models.files.model_files").TINY


def fails(layer: torch.nn.Module, *calls: int) -> list[weakref.ref]:
    """Run out of memory in these calls of a layer; returns its inputs then, which must be freed by the next call."""
    inputs_then, count = [], itertools.count(1)

    def fail(_, inputs):
        assert not any(reference() is not None for reference in inputs_then)
        if next(count) in calls:
            inputs_then.append(weakref.ref(inputs[0]))
            raise mm.OOM_EXCEPTION("Allocation on device failed: this is a test.")

    layer.register_forward_pre_hook(fail)
    return inputs_then


@pytest.fixture
def no_collector():
    """Memory must be freed without the collector of cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def out_of_memory():
    return pytest.raises(mm.OOM_EXCEPTION, match="this is a test")


def test_a_network_out_of_memory_holds_nothing_and_works_again(no_collector):
    expected, model = sampled(tiny_transformer(), 2), tiny_transformer()
    inputs = fails(model.model.diffusion_model.transformer_blocks[3], 2)
    with out_of_memory():
        sampled(model, 2)
    assert [reference() for reference in inputs] == [None]
    assert torch.equal(sampled(model, 2), expected)


def test_a_text_encoder_out_of_memory_holds_nothing_and_works_again(no_collector):
    clip = sd.load_text_encoder(TINY)
    expected = clip.encode_from_tokens(clip.tokenize("a red ball"))
    inputs = fails(clip.cond_stage_model.t5xxl.transformer.encoder.block[1].layer[1].DenseReluDense.wo, 1)
    with out_of_memory():
        clip.encode_from_tokens(clip.tokenize("a red ball"))
    assert [reference() for reference in inputs] == [None]
    assert torch.equal(clip.encode_from_tokens(clip.tokenize("a red ball")), expected)


def decode(vae, tile_size: int) -> torch.Tensor:
    return decoding.EasyAnimateDecode.execute({"samples": random(1, 4, 4, 16, 24)}, vae, tile_size).args[0]


def encode(vae, tile_size: int) -> torch.Tensor:
    return decoding.EasyAnimateEncode.execute(random(16, 128, 192, 3).sigmoid(), vae, tile_size).args[0]["samples"]


@pytest.mark.parametrize(("work", "layer"), [(decode, "decoder.conv_out"), (encode, "encoder.conv_out")])
def test_the_vae_goes_on_in_smaller_tiles_and_frees_what_it_had(no_collector, work, layer):
    """192 pixels wide: whole, then in tiles of 96; tiles of 128, then of 64."""
    for tile_size, smaller in ((0, 96), (128, 64)):
        expected, vae = work(tiny_vae(), smaller), tiny_vae()
        inputs = fails(vae.first_stage_model.get_submodule(layer), 2)
        assert torch.equal(work(vae, tile_size), expected)
        assert [reference() for reference in inputs] == [None]


@pytest.mark.parametrize(("work", "layer"), [(decode, "decoder.conv_out"), (encode, "encoder.conv_out")])
def test_the_smallest_tiles_out_of_memory_are_the_end(no_collector, work, layer):
    vae = tiny_vae()
    inputs = fails(vae.first_stage_model.get_submodule(layer), 1, 2, 3)
    with out_of_memory():
        work(vae, 128)
    assert [reference() for reference in inputs] == [None, None]


@pytest.mark.parametrize("error", [mm.OOM_EXCEPTION("Allocation failed"), MemoryError()])
def test_a_file_that_does_not_fit_is_not_called_broken(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("comfy.utils.load_torch_file", fail)
    with pytest.raises(type(error)):
        sd.load_transformer(TINY)
