"""What would end in noise or NaN is named where it arises, by stock samplers too."""

import comfy.sample
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch

from support.pack import part
from support.tiny_networks import DIT, random, tiny_transformer

guard = part("easyanimate_models.sampling.guard")
PAIRS = part("easyanimate_models.vae.slicing").PAIRS
TEXT = [[random(1, 5, DIT.caption_channels), {}]]
EMPTY = torch.zeros(1, 4, 2, 4, 4)


def sample(model, sampler="euler", scheduler="normal", steps=4, latent=EMPTY, **options) -> torch.Tensor:
    noise = comfy.sample.prepare_noise(latent, 1)
    settings = (steps, 2.0, sampler, scheduler, TEXT, TEXT, latent)
    return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=1, **options)


LEFT_OVER = {
    "ModelSamplingSD3": lambda model: advanced.ModelSamplingSD3().patch(model, 3.0)[0],
    "ModelSamplingFlux": lambda model: advanced.ModelSamplingFlux().patch(model, 1.15, 0.5, 512, 512)[0],
    "ModelSamplingStableCascade": lambda model: advanced.ModelSamplingStableCascade().patch(model, 2.0)[0],
    "ModelSamplingContinuousEDM": lambda model: advanced.ModelSamplingContinuousEDM().patch(
        model, "v_prediction", 120.0, 0.002
    )[0],
}


@pytest.mark.parametrize("node", list(LEFT_OVER))
def test_a_model_sampling_left_over_is_named(node):
    model = LEFT_OVER[node](tiny_transformer())
    with pytest.raises(ValueError, match=f"{node}.* is connected to this model.*EasyAnimate V3 is; take that node out"):
        sample(model)


@pytest.mark.parametrize("kind", ["eps", "v_prediction", "lcm"])
def test_a_discrete_schedule_may_stay(kind):
    model = advanced.ModelSamplingDiscrete().patch(tiny_transformer(), kind, False)[0]
    assert sample(model).isfinite().all()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "lms", "deis", "res_multistep"])
@pytest.mark.parametrize(("scheduler", "steps", "denoise"), [("normal", 25, 0.05), ("beta", 60, 0.04)])
def test_repeated_noise_levels_are_left_out(sampler, scheduler, steps, denoise):
    assert sample(tiny_transformer(), sampler, scheduler, steps, denoise=denoise).isfinite().all()


def test_noise_levels_without_repeats_stay_as_they_are():
    sigmas = torch.tensor([14.0, 3.0, 1.0, 0.0])
    assert torch.equal(guard.without_repeats(sigmas), sigmas)
    assert guard.without_repeats(torch.tensor([3.0, 3.0, 1.0, 1.0, 0.0])).tolist() == [3.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="noise levels given are not numbers"):
        guard.without_repeats(torch.tensor([3.0, float("nan"), 0.0]))


def test_an_overflow_of_the_transformer_names_its_step():
    model, calls = tiny_transformer(), []
    network = model.model.diffusion_model
    forward = network.forward

    def overflowing(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs) * (float("inf") if len(calls) == 3 else 1)

    network.forward = overflowing
    with pytest.raises(
        ValueError, match=r"transformer's values overflowed at step 3 of 4 .*lower cfg, or the strength"
    ):
        sample(model)


def test_a_sampler_that_fails_is_named():
    def sample_broken(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma in sigmas[:-1]:
            x = model(x, sigma * x.new_ones([len(x)]), **extra_args) / 0 - float("inf")
        return x

    import comfy.samplers

    model = tiny_transformer()
    noise = comfy.sample.prepare_noise(EMPTY, 1)
    sampler = comfy.samplers.KSAMPLER(sample_broken)
    with pytest.raises(ValueError, match=r"broken produced NaN at step \d of 2 .*choose another sampler or scheduler"):
        comfy.sample.sample_custom(
            model, noise, 2.0, sampler, torch.tensor([3.0, 1.0, 0.0]), TEXT, TEXT, EMPTY, disable_pbar=True, seed=1
        )


def test_a_mask_that_the_host_resized_in_time_is_said(caplog):
    of_latents = torch.ones(1, 4, 3, 4, 4)
    assert guard.fitted_mask(of_latents, PAIRS, of_latents.shape) is of_latents
    assert caplog.messages == []
    of_latents[:, :, 1] = 0
    assert guard.fitted_mask(of_latents, PAIRS, of_latents.shape) is of_latents
    assert "drop some of its frames; EasyAnimate Sampler takes them all" in caplog.text
