"""The noise levels of the releases, compared with those that the original steps through."""

import json

import pytest
import torch
from conftest import GOLDEN, part
from tiny_networks import tiny_transformer

schedules = part("easyanimate_models.sampling.schedules")
SAMPLERS = {"Euler": "euler", "Euler A": "euler_ancestral", "DPM++": "dpmpp_2m", "DDIM": "ddim"}
TABLES = json.loads((GOLDEN / "scheduler_tables.json").read_text())
CASES = [(name, key) for key in TABLES for name in SAMPLERS if key.startswith(f"v1_v2_v3|{name}|")]


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


@pytest.fixture(scope="module")
def model_sampling(model):
    return model.get_model_object("model_sampling")


def our_sigmas(model, name: str, key: str) -> torch.Tensor:
    return schedules.release_sigmas(model, SAMPLERS[name], int(key.split("|")[-1]))


@pytest.mark.parametrize(("name", "key"), CASES, ids=[key for _, key in CASES])
def test_the_network_is_told_the_recorded_timesteps(model, model_sampling, name, key):
    ours = model_sampling.timestep(our_sigmas(model, name, key)[:-1])
    torch.testing.assert_close(ours.double(), torch.tensor(TABLES[key]["timesteps"]).double(), rtol=0, atol=1e-2)


WITH_SIGMAS = [case for case in CASES if "sigmas" in TABLES[case[1]]]


@pytest.mark.parametrize(("name", "key"), WITH_SIGMAS, ids=[key for _, key in WITH_SIGMAS])
def test_sigmas_are_the_recorded_ones(model, name, key):
    ours = our_sigmas(model, name, key)
    torch.testing.assert_close(ours, torch.tensor(TABLES[key]["sigmas"]), rtol=1e-4, atol=0)


def test_noise_levels_are_those_of_the_original(model_sampling):
    recorded = TABLES["v1_v2_v3|DDIM|50"]["alphas_cumprod_samples"]
    ours = model_sampling.sigma(torch.tensor([int(t) for t in recorded]))
    kept = torch.tensor(list(recorded.values()))
    torch.testing.assert_close(ours, ((1 - kept) / kept).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_every_schedule_ends_without_noise(model, sampler):
    sigmas = schedules.release_sigmas(model, sampler, 7)
    assert len(sigmas) == 8
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_denoise_below_1_is_the_tail_of_a_longer_schedule(model, sampler):
    part_of = schedules.release_sigmas(model, sampler, 10, denoise=0.4)
    longer = schedules.release_sigmas(model, sampler, 25)
    assert len(part_of) == 11
    assert torch.equal(part_of, longer[-11:])


def test_denoise_0_leaves_nothing_to_do(model):
    assert len(schedules.release_sigmas(model, "euler", 10, denoise=0.0)) == 0
