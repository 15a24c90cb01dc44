"""The noise levels of the releases, compared with those that the original steps through."""

import json

import pytest
import torch

from support.pack import part
from support.recorded import RECORDED, TOLERANCE, each
from support.tiny_networks import tiny_transformer

schedules = part("easyanimate_models.sampling.schedules")
SAMPLERS = {"Euler": "euler", "Euler A": "euler_ancestral", "DPM++": "dpmpp_2m", "DDIM": "ddim"}  # the host lacks PNDM
RELEASES = "v1_v2_v3"
FILE = RECORDED / "scheduler_tables.json"
TABLES = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
KEYS = [key for key in TABLES if key.split("|")[0] == RELEASES and key.split("|")[1] in SAMPLERS]
ROUNDING = 1e-2  # of a timestep: ours go through sigmas and back


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


@pytest.fixture(scope="module")
def model_sampling(model):
    return model.get_model_object("model_sampling")


def our_sigmas(model, key: str) -> torch.Tensor:
    _, sampler, steps = key.split("|")
    return schedules.release_sigmas(model, SAMPLERS[sampler], int(steps))


@each("key", KEYS)
def test_the_network_is_given_the_recorded_timesteps(model, model_sampling, key):
    ours = model_sampling.timestep(our_sigmas(model, key)[:-1])
    theirs = torch.tensor(TABLES[key]["timesteps"])
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=ROUNDING)


@each("key", [key for key in KEYS if "sigmas" in TABLES[key]])
def test_sigmas_are_the_recorded_ones(model, key):
    allowed = TABLES[key].get("tolerance", TOLERANCE)
    ours, theirs = our_sigmas(model, key), torch.tensor(TABLES[key]["sigmas"])
    torch.testing.assert_close(ours, theirs, rtol=allowed, atol=0)


@each("key", [key for key in KEYS if "alphas_cumprod_samples" in TABLES[key]][-1:])
def test_noise_levels_are_those_of_the_original(model_sampling, key):
    samples = TABLES[key]["alphas_cumprod_samples"]
    ours = model_sampling.sigma(torch.tensor([int(t) for t in samples]))
    signal = torch.tensor(list(samples.values()))  # its share of the variance
    allowed = TABLES[key].get("tolerance", TOLERANCE)
    torch.testing.assert_close(ours, ((1 - signal) / signal).sqrt(), rtol=allowed, atol=0)
