"""The noise levels of the releases, compared with those that the original steps through."""

import functools
import json

import torch

from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part
from support.recorded import RECORDED, TOLERANCE, each
from support.tiny_networks import tiny_hunyuan_dit, tiny_transformer

schedules = part("easyanimate_models.sampling.schedules")
SAMPLERS = {  # the recording's names, and the host's, which lacks PNDM
    "Euler": "euler",
    "Euler A": "euler_ancestral",
    "DPM++": "dpmpp_2m",
    "DDIM": "ddim",
    "Flow": "euler",
}
MODELS = {
    "v1_v2_v3": tiny_transformer,
    "v4": tiny_hunyuan_dit,
    "v5": functools.partial(tiny_mmdit, **TWO_TEXTS),
    "v51": tiny_mmdit,
}
FILE = RECORDED / "scheduler_tables.json"
TABLES = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
KEYS = [key for key in TABLES if key.split("|")[0] in MODELS and key.split("|")[1] in SAMPLERS]
LEVELS = {  # one of each release; DDIM's, which has no sigmas, may end in no signal at all
    key.split("|")[0]: key for key in KEYS if {"alphas_cumprod_samples", "sigmas"} <= TABLES[key].keys()
}
ROUNDING = 1e-2  # of a timestep: ours go through sigmas and back


@functools.cache
def model_of(release: str):
    return MODELS[release]()


def model_sampling(key: str):
    return model_of(key.split("|")[0]).get_model_object("model_sampling")


def our_sigmas(key: str) -> torch.Tensor:
    release, sampler, steps = key.split("|")
    return schedules.release_sigmas(model_of(release), SAMPLERS[sampler], int(steps))


@each("key", KEYS)
def test_the_network_is_given_the_recorded_timesteps(key):
    ours = model_sampling(key).timestep(our_sigmas(key)[:-1])
    theirs = torch.tensor(TABLES[key]["timesteps"])
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=ROUNDING)


@each("key", [key for key in KEYS if "sigmas" in TABLES[key]])
def test_sigmas_are_the_recorded_ones(key):
    allowed = TABLES[key].get("tolerance", TOLERANCE)
    ours, theirs = our_sigmas(key), torch.tensor(TABLES[key]["sigmas"])
    torch.testing.assert_close(ours, theirs, rtol=allowed, atol=0)


@each("key", list(LEVELS.values()))
def test_noise_levels_are_those_of_the_original(key):
    samples = TABLES[key]["alphas_cumprod_samples"]
    ours = model_sampling(key).sigma(torch.tensor([int(t) for t in samples]))
    signal = torch.tensor(list(samples.values()))  # its share of the variance
    allowed = TABLES[key].get("tolerance", TOLERANCE)
    torch.testing.assert_close(ours, ((1 - signal) / signal).sqrt(), rtol=allowed, atol=0)
