"""What denoisers are trained to predict, against the formulas, and tiny ones of every kind that learn it."""

import math
from dataclasses import replace

import pytest
import torch

from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part
from support.tiny_networks import random, tiny_hunyuan_dit

diffusion = part("easyanimate_models.training.denoiser.diffusion")
objective = part("easyanimate_models.training.denoiser.objective")
supported_models = part("easyanimate_models.supported_models")
NOISE, CLEAN = random(6, 4, 2, 3, 3), random(6, 4, 2, 3, 3, seed=1)
SNR = torch.tensor([0.01, 1.0, 5.0, 100.0])
SIGNAL = SNR / (1 + SNR)


def signal_at(release, timesteps: torch.Tensor) -> torch.Tensor:
    """The share of signal power at timesteps, from the betas and in float64."""
    settings = release.sampling_settings
    start, end = settings["linear_start"], settings["linear_end"]
    if settings["beta_schedule"] == "linear":  # the host's name for linear square roots
        betas = torch.linspace(start**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
    else:
        betas = torch.linspace(start, end, 1000, dtype=torch.float64)
    kept = torch.exp(torch.log1p(-betas).cumsum(0)).sqrt()
    if settings.get("zsnr"):
        kept = (kept - kept[-1]) * kept[0] / (kept[0] - kept[-1])
    return kept[timesteps].square()


@pytest.mark.parametrize("name", ["V1", "V2", "V3", "V4", "V5"])
def test_noise_and_velocity_are_those_of_the_formulas(name):
    release = getattr(supported_models, f"EasyAnimate{name}")
    prediction, t = diffusion.prediction_of(release), torch.tensor([0, 1, 500, 750, 998, 999])
    noised, signal = prediction.noised(CLEAN, NOISE, t), signal_at(release, t).view(-1, 1, 1, 1, 1)
    a, s = signal.sqrt(), (1 - signal).sqrt()
    assert torch.equal(noised.timesteps, t)
    assert torch.allclose(noised.x.double(), a * CLEAN + s * NOISE, atol=1e-5)
    target = NOISE if name in ("V1", "V2", "V3") else a * NOISE - s * CLEAN
    assert torch.allclose(noised.target.double(), target.double(), atol=1e-5)
    assert (float(noised.signal[-1]) == 0) == (name == "V5")


def test_flow_is_that_of_the_formula_and_the_network_is_told_sigma_times_1000():
    prediction = diffusion.prediction_of(supported_models.EasyAnimateV51)
    sigma = torch.tensor([0.0, 0.1, 0.5, 0.73, 0.999, 1.0])
    noised, s = prediction.noised(CLEAN, NOISE, sigma), sigma.view(-1, 1, 1, 1, 1)
    assert torch.equal(noised.x, (1 - s) * CLEAN + s * NOISE) and torch.equal(noised.target, NOISE - CLEAN)
    assert torch.allclose(noised.timesteps, 1000 * sigma)
    assert torch.allclose(noised.x + (0 - s) * noised.target, CLEAN, atol=1e-5)  # one step of Euler down to 0


@pytest.mark.parametrize(("draw", "middle"), [("uniform", 0.5), ("logit_normal", 0.5)])
def test_flow_draws_are_shifted_as_the_release_samples(draw, middle):
    prediction = diffusion.prediction_of(supported_models.EasyAnimateV51)
    torch.manual_seed(0)
    plain = prediction.draw(20000, diffusion.NoiseWeights(draw=draw, shift=1.0))
    shifted = prediction.draw(20000, diffusion.NoiseWeights(draw=draw))
    assert abs(float(plain.median()) - middle) < 0.01
    assert abs(float(shifted.median()) - math.e * middle / (1 + (math.e - 1) * middle)) < 0.01
    quarter = float(plain.quantile(0.25))
    expected = 0.25 if draw == "uniform" else 1 / (1 + math.exp(0.6745))
    assert abs(quarter - expected) < 0.01 and plain.min() >= 0 and plain.max() <= 1
    decisive = prediction.draw(5000, diffusion.NoiseWeights(decisive=(400, 600), shift=1.0))
    assert 0.8 < float(((decisive >= 0.4) & (decisive < 0.6)).float().mean()) < 0.88


def test_the_sigmas_of_a_small_batch_are_spread():
    prediction = diffusion.FlowPrediction(1.0, 1000)
    draws = prediction.draw(8, diffusion.UNIFORM)
    assert sorted(int(u * 8) for u in draws.tolist()) == list(range(8))


def test_min_snr_is_that_of_the_paper():
    """Weights of eq. 5 for noise, min(snr, 5) / snr, and for velocity, min(snr, 5) / (snr + 1)."""
    noise, velocity = diffusion.NoisePrediction(SIGNAL), diffusion.VelocityPrediction(SIGNAL)
    weights = diffusion.NoiseWeights(min_snr=5.0)
    capped = SNR.clamp(max=5.0)
    assert torch.allclose(noise.weigh(SIGNAL, weights), capped / SNR, rtol=1e-4)
    assert torch.allclose(velocity.weigh(SIGNAL, weights), capped / (SNR + 1), rtol=1e-4)
    for prediction in (noise, velocity):
        assert prediction.weigh(torch.tensor([0.0]), weights).isfinite().all()
        assert torch.equal(prediction.weigh(SIGNAL, diffusion.UNIFORM), torch.ones(4))
    with pytest.raises(ValueError, match="min_snr is for V1 to V5, not for the flow of V5.1"):
        diffusion.FlowPrediction(1.0, 1000).weigh(SIGNAL, weights)
    with pytest.raises(ValueError, match="draw and shift .* are for V5.1 and its flow"):
        noise.draw(4, diffusion.NoiseWeights(draw="logit_normal"))


MODELS = {
    "V5.1": lambda: (tiny_mmdit(), {"context": random(4, 5, 24)}),
    "V5": lambda: (tiny_mmdit(**TWO_TEXTS), {"context": random(4, 5, 24), "context_2": random(4, 7, 20)}),
    "V4": lambda: (tiny_hunyuan_dit(in_channels=4), {"context": random(4, 5, 16), "context_2": random(4, 7, 24)}),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_a_tiny_denoiser_of_every_later_release_learns(name, gradients):
    model, texts = MODELS[name]()
    network, config = model.model.diffusion_model, model.model.diffusion_model.config
    latents = random(4, config.latent_channels, 3, 4, 4, seed=3)
    masks = {"mask": torch.ones(4, 5), "mask_2": torch.ones(4, 7) if "context_2" in texts else None}
    batch = objective.Batch(latents, **texts, **masks)
    settings = objective.ObjectiveSettings()
    loss_of = objective.denoising_objective(
        network, lambda *_: batch, diffusion.prediction_of(model.model.model_config), settings, 0
    )
    optimizer = torch.optim.AdamW(network.requires_grad_(True).parameters(), lr=3e-3)

    def loss(step: int) -> torch.Tensor:
        torch.manual_seed(step)
        return loss_of(step)[0]

    before = sum(float(loss(step).detach()) for step in range(4)) / 4
    for step in range(40):
        optimizer.zero_grad()
        loss(step % 4).backward()
        optimizer.step()
    assert sum(float(loss(step).detach()) for step in range(4)) / 4 < 0.6 * before


def test_blocks_recomputed_leave_the_same_gradients(gradients):
    model, texts = MODELS["V5.1"]()
    network = model.model.diffusion_model.requires_grad_(True)
    batch = objective.Batch(random(4, 16, 3, 4, 4), mask=torch.ones(4, 5), **texts)
    made = []
    for checkpointing in (False, True):
        settings = replace(objective.DEFAULT_OBJECTIVE, checkpointing=checkpointing)
        prediction = diffusion.prediction_of(model.model.model_config)
        network.zero_grad()
        torch.manual_seed(0)
        objective.denoising_objective(network, lambda *_: batch, prediction, settings, 0)(0)[0].backward()
        made.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.allclose(*made, rtol=1e-4, atol=1e-6)
