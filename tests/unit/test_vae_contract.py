"""The VAE's contract: tiles outside, slices inside, a cache per tile; norms, attention, scale as its config says."""

from dataclasses import replace

import comfy.ops
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from support.pack import part
from support.tiny_networks import VAE, random, randomise, tiny_vae

layers = part("easyanimate_models.vae.layers")
slice_vae = part("easyanimate_models.vae.slice_vae")
slicing = part("easyanimate_models.vae.slicing")
tiling = part("easyanimate_models.vae.tiling")
sd = part("easyanimate_models.sd")
supported_models = part("easyanimate_models.supported_models")
TILES = tiling.Tiling(4, 1)


class CountingTime(layers.SliceTime):
    """Leaves a count of slices in the cache, as a cached VAE leaves features."""

    def convolve(self, conv, x, cache):
        cache[conv] = cache.get(conv, 0) + 1
        return super().convolve(conv, x, cache)


class CountingVAE(slice_vae.SliceVAE):
    """Notes the cache of every slice."""

    time = CountingTime()
    caches: list = []

    def decode_slice(self, z, first=0, count=None, cache=None):
        pixels = super().decode_slice(z, first, count, cache)
        self.caches.append((id(cache), cache[self.decoder.conv_out]))
        return pixels

    def moments(self, x, cache=None):
        moments = super().moments(x, cache)
        self.caches.append((id(cache), cache[self.encoder.conv_out]))
        return moments


@pytest.fixture
def counting():
    vae = CountingVAE(VAE)
    randomise(vae)
    CountingVAE.caches = []
    return vae.eval()


def test_each_tile_has_a_cache_of_its_own_from_its_first_slice_to_its_last(counting):
    counting.decode(random(1, 4, 6, 6, 4), tiling=TILES)  # two tiles of three slices
    assert [count for _, count in counting.caches] == [1, 2, 3, 1, 2, 3]
    counting.caches.clear()
    counting.encode(random(1, 3, 24, 48, 32), tiling=TILES)
    assert [count for _, count in counting.caches] == [1, 2, 3, 1, 2, 3]


def test_two_videos_never_share_a_cache(counting):
    counting.decode(random(1, 4, 2, 4, 4))
    counting.decode(random(1, 4, 2, 4, 4))
    assert [count for _, count in counting.caches] == [1, 1]


@pytest.mark.parametrize("latents", [1, 2, 5, 6, 7])
def test_weights_of_slices_add_up_to_one_at_every_frame(latents):
    for slices in (slicing.plan_decode(latents), slicing.plan_overlapping_decode(latents)):
        weights = slicing.frame_weights(slices)
        total = weights.before[:]
        for s, row in zip(slices, weights.slices, strict=True):
            for frame, weight in zip(range(s.frame_start, s.frame_stop), row, strict=True):
                total[frame] += weight
        assert total == pytest.approx([1.0] * slices[-1].frame_stop)
        assert weights.before == [0.0] * slices[-1].frame_stop


def test_half_shares_leave_half_of_what_was_there():
    slices = [replace(s, share=0.5) for s in slicing.plan_decode(4)]
    weights = slicing.frame_weights(slices)
    assert weights.before == [0.5] * 16 and weights.slices == [[0.5] * 8] * 2


def test_norms_over_frames_are_group_norms_of_each_frame():
    norm = layers.frame_norm(comfy.ops.manual_cast.GroupNorm)(2, 8, eps=1e-6)
    randomise(norm)
    x = random(2, 8, 3, 4, 5)
    frames = torch.stack([F.group_norm(frame, 2, norm.weight, norm.bias, 1e-6) for frame in x.unbind(2)], dim=2)
    torch.testing.assert_close(norm(x), frames)


@pytest.mark.parametrize(("attention", "changes"), [("slice", [0, 1]), ("frame", [1]), (None, [1])])
def test_attention_reaches_as_far_as_its_kind(attention, changes):
    """The second frame is changed; which frames of the middle block notice."""
    make = layers.LayerFactory(PointTime(), 4, "frame", attention, torch.float32, None, comfy.ops.manual_cast)
    block = layers.MidBlock(8, 2, make)
    randomise(block)
    x = random(1, 8, 2, 3, 3)
    plain = block(x, {})
    x[:, :, 1] = random(1, 8, 3, 3, seed=1)
    noticed = (block(x, {}) - plain).abs().amax(dim=(0, 1, 3, 4)) > 1e-4
    assert noticed.nonzero().flatten().tolist() == changes
    assert len(block.attentions) == (attention is not None)


class PointTime(layers.SliceTime):
    """Convolutions that see one frame at a time."""

    def convolve(self, conv, x, cache):
        return torch.cat([conv(frame) for frame in x.split(1, dim=2)], dim=2)


@pytest.fixture
def scaled(tmp_path):
    """The tiny VAE as a file that says another scale, loaded."""

    def load(scaling_factor: float):
        import json

        plain = tiny_vae()
        config = replace(plain.first_stage_model.config, scaling_factor=scaling_factor)
        save_file(plain.get_sd(), tmp_path / "diffusion_pytorch_model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(supported_models.EasyAnimateV3.vae_config_json(config)))
        return sd.load_vae(tmp_path)

    return load


def test_latents_come_out_at_the_scale_that_the_config_says(scaled):
    released, other = scaled(0.18215), scaled(0.1825)
    pixels = torch.rand(9, 16, 16, 3)
    ratio = other.encode(pixels) / released.encode(pixels)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1825 / 0.18215))
    model_scale = released.latent_format.scale_factor
    network = other.first_stage_model.encode(pixels.movedim(-1, 0)[None] * 2 - 1)
    torch.testing.assert_close(other.encode(pixels) * model_scale, network * 0.1825, rtol=1e-4, atol=1e-5)


def test_another_scale_is_undone_before_decoding(scaled):
    released, other = scaled(0.18215), scaled(0.1825)
    z = random(1, 4, 3, 2, 2)
    torch.testing.assert_close(other.decode(z * 0.1825 / 0.18215), released.decode(z), rtol=1e-4, atol=1e-5)


def test_a_saved_file_keeps_its_scale(scaled, tmp_path):
    other = scaled(0.1825)
    folder = tmp_path / "saved"
    folder.mkdir()
    save_file(other.get_sd(), folder / "vae.safetensors")
    assert sd.load_vae(folder / "vae.safetensors").scale == other.scale != 1
