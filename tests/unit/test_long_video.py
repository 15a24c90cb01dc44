"""Videos longer than a context window: their noise, and the memory that they take."""

import inspect

import comfy.sample
import pytest
import torch

from support.pack import part
from support.recorded import relative_error
from support.tiny_models import TINY_MODELS, noise_for, text_for
from support.tiny_networks import random, sampled, tiny_transformer

long_video = part("easyanimate_models.sampling.long_video")
sampling = part("nodes.sampling")


def test_frames_after_a_window_are_earlier_noise_in_another_order():
    noise = random(1, 4, 20, 2, 2)
    ours = long_video.repeated(noise, window=6, step=4, unit=2)
    assert ours.shape == noise.shape and torch.equal(ours[:, :, :6], noise[:, :, :6])
    for start in range(6, 20, 4):
        dealt = ours[:, :, start : start + 4].split(2, dim=2)
        source = ours[:, :, start - 6 : start - 6 + 4].split(2, dim=2)
        for slice_ in dealt:
            assert any(torch.equal(slice_, s) for s in source)
    assert not torch.equal(noise[:, :, 6:], ours[:, :, 6:])


@pytest.mark.parametrize("frames", [1, 5, 6])
def test_a_video_of_one_window_keeps_its_noise(frames):
    noise = random(1, 4, frames, 2, 2)
    assert torch.equal(long_video.repeated(noise, window=6, step=4, unit=2), noise)


def test_the_network_never_sees_more_than_a_window():
    patcher, lengths = tiny_transformer(), []
    network = patcher.model.diffusion_model
    forward = network.forward

    def recorded(x, *args, **kwargs):
        lengths.append(x.shape[2])
        return forward(x, *args, **kwargs)

    network.forward = recorded
    windows = sampling.EasyAnimateContextWindows.execute(patcher, 24, 8).args[0]
    video = sampled(windows, 30)
    assert set(lengths) == {6}
    assert torch.equal(video, sampled(windows, 30))
    assert torch.equal(sampled(windows, 6), sampled(patcher, 6))


every_release = pytest.mark.parametrize("release", ["V3", "V4", "V5.1"])


@every_release
@pytest.mark.parametrize("stock", [True, False], ids=["ContextWindowsManual", "ours"])
def test_each_video_of_a_batch_is_the_one_that_is_made_alone(release, stock):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    patcher = TINY_MODELS[release]()
    if stock:
        settings = {"context_schedule": "standard_static", "fuse_method": "pyramid", "dim": 2}
        options = {"context_stride": 1, "closed_loop": False}
        if "freenoise" in inspect.signature(ContextWindowsManualNode.execute).parameters:  # 0.33
            options |= {"freenoise": False, "causal_window_fix": False}
        windows = ContextWindowsManualNode.execute(patcher, 6, 2, **settings, **options).args[0]
    else:
        windows = sampling.EasyAnimateContextWindows.execute(patcher, 24, 8).args[0]
    noise, text = noise_for(patcher, 14, batch=2), text_for(patcher)

    def sample(noise):
        settings = (2, 2.0, "euler", "normal", text, text, torch.zeros_like(noise))
        return comfy.sample.sample(windows, noise, *settings, disable_pbar=True, seed=1)

    both = sample(noise)
    for i in range(2):
        assert relative_error(both[i : i + 1], sample(noise[i : i + 1])) < 1e-4


@every_release
@pytest.mark.parametrize("sampler", ["dpm_2", "heun", "dpmpp_sde", "dpm_adaptive"])
def test_samplers_that_step_between_the_noise_levels_go_through(release, sampler):
    patcher = TINY_MODELS[release]()
    windows = sampling.EasyAnimateContextWindows.execute(patcher, 24, 8).args[0]
    noise, text = noise_for(patcher, 8), text_for(patcher)
    settings = (2, 2.0, sampler, "normal", text, text, torch.zeros_like(noise))
    assert comfy.sample.sample(windows, noise, *settings, disable_pbar=True, seed=1).isfinite().all()
