"""Videos longer than a context window: their noise, and the memory that they take."""

import pytest
import torch

from support.pack import part
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
