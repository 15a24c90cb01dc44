"""Schedules of the releases: they end without noise, and denoise takes their tail."""

import pytest
import torch

from support.pack import part
from support.tiny_networks import tiny_transformer

schedules = part("easyanimate_models.sampling.schedules")
SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m", "ddim")


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_schedule_ends_without_noise(model, sampler):
    sigmas = schedules.release_sigmas(model, sampler, 7)
    assert len(sigmas) == 8
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_denoise_below_1_is_the_tail_of_a_longer_schedule(model, sampler):
    tail = schedules.release_sigmas(model, sampler, 10, denoise=0.4)
    longer = schedules.release_sigmas(model, sampler, 25)
    assert len(tail) == 11
    assert torch.equal(tail, longer[-11:])


def test_denoise_0_leaves_nothing_to_do(model):
    assert len(schedules.release_sigmas(model, "euler", 10, denoise=0.0)) == 0
