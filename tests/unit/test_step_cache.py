"""Steps left out: how many, how little it shows, and that nothing of a run is left for the next."""

import comfy.sample
import comfy.samplers
import pytest
import torch

from support.pack import part
from support.tiny_models import TINY_MODELS, noise_for, text_for
from support.tiny_networks import random, tiny_transformer

sampling = part("nodes.sampling")
TINY = part("easyanimate_models.files.model_files").TINY
sd = part("easyanimate_models.sd")
release_sigmas = part("easyanimate_models.sampling.schedules").release_sigmas
step_cache = part("easyanimate_models.sampling.step_cache")
psnr = part("easyanimate_models.training.vae.reconstruct").psnr
STEPS = 25


class Counted:
    """A model whose forward passes are counted; `fail_at` makes one raise."""

    def __init__(self, model):
        self.model, self.calls, self.fail_at = model, 0, None
        network = model.model.diffusion_model
        forward = network.forward

        def counting(*args, **kwargs):
            self.calls += 1
            if self.calls == self.fail_at:
                raise RuntimeError("stopped")
            return forward(*args, **kwargs)

        network.forward = counting

    def sample(self, threshold: float | None, text, empty, sampler="euler", most=3, start=0.0) -> torch.Tensor:
        model, self.calls = self.model, 0
        if threshold is not None:
            model = sampling.EasyAnimateStepCache.execute(model, threshold, start, most).args[0]
        sigmas = release_sigmas(model, sampler, STEPS)
        noise = comfy.sample.prepare_noise(empty, 3)
        settings = STEPS, 2.0, sampler, "normal", *text, empty
        return comfy.sample.sample(model, noise, *settings, sigmas=sigmas, disable_pbar=True, seed=3)


@pytest.fixture
def tiny():
    text = [[random(1, 5, 16), {}]], [[random(1, 5, 16, seed=1), {}]]
    counted = Counted(tiny_transformer())
    return lambda *args, **kwargs: (counted.sample(*args, text, torch.zeros(1, 4, 2, 4, 4), **kwargs), counted.calls)


def test_threshold_zero_leaves_out_nothing_and_changes_no_bit(tiny):
    plain, calls = tiny(None)
    cached, cached_calls = tiny(0.0)
    assert torch.equal(cached, plain) and cached_calls == calls == STEPS


def test_the_built_in_model_leaves_out_two_steps_of_five_and_hardly_differs():
    clip, vae = sd.load_text_encoder(TINY), sd.load_vae(TINY)
    counted = Counted(sd.load_transformer(TINY))
    texts = "a red ball moves to the left on a black background", ""
    text = [clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in texts]
    empty = torch.zeros(1, 4, 6, 8, 8)
    plain = counted.sample(None, text, empty)
    calls = counted.calls
    cached = counted.sample(0.1, text, empty, start=0.35)
    assert calls >= 1.6 * counted.calls
    again = counted.sample(0.1, text, empty, start=0.35)
    assert torch.equal(cached, again)
    assert psnr(4 * (vae.decode(cached) - vae.decode(plain)).square().mean()) >= 30


def test_most_in_a_row_bounds_what_is_left_out(tiny):
    _, calls = tiny(1.0, most=1)
    assert STEPS / 2 <= calls < STEPS
    _, fewer = tiny(1.0, most=4)
    assert fewer < calls


def test_nothing_is_left_out_before_the_start(tiny):
    _, calls = tiny(1.0, most=20)
    _, later = tiny(1.0, most=20, start=0.5)
    plain, never = tiny(1.0, start=1.0)
    assert calls < later < never == STEPS
    assert torch.equal(plain, tiny(None)[0])


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral", "dpm_2"])
def test_every_kind_of_sampler_goes_through(tiny, sampler):
    latents, _ = tiny(0.1, sampler=sampler)
    assert latents.isfinite().all()


def test_nothing_is_left_after_a_run_that_failed():
    counted = Counted(tiny_transformer())
    text, empty = [[random(1, 5, 16), {}]], torch.zeros(1, 4, 2, 4, 4)
    cache = step_cache.StepCache(0.1, 3)
    counted.fail_at = 5
    with pytest.raises(RuntimeError, match="stopped"):
        cache.sample(lambda *_: counted.sample(None, (text, text), empty), empty, empty, None)
    assert cache.run is None


def test_a_line_is_extrapolated_exactly_and_the_error_is_that_of_one_step():
    trace = step_cache.Trace()
    at = lambda position: [torch.tensor([[1.0, 2.0]]) + position * torch.tensor([[3.0, -1.0]])]  # noqa: E731
    for position in (2.0, 1.0, 0.5):
        trace.update(position, at(position))
    assert trace.error == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(trace.extrapolated(-1.0), at(-1.0))
    trace.in_a_row = 1
    trace.update(0.0, [2 * at(0.0)[0]])
    assert trace.error == pytest.approx(0.25)


def test_the_error_is_that_of_the_worst_video_of_a_batch():
    trace = step_cache.Trace()
    for position in (2.0, 1.0):
        trace.update(position, [torch.ones(2, 3)])
    trace.update(0.0, [torch.tensor([[1.0, 1, 1], [2.0, 2, 2]])])
    assert trace.error == pytest.approx(0.5)


def test_two_directions_at_one_noise_level_are_one():
    trace = step_cache.Trace()
    for position in (2.0, 1.0, 1.0):
        trace.update(position, [torch.full((1, 2), position)])
    assert [position for position, _ in trace.last] == [1.0]


@pytest.fixture(scope="module")
def ball():
    clip, vae = sd.load_text_encoder(TINY), sd.load_vae(TINY)
    texts = "a red ball moves to the left on a black background", ""
    text = [clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in texts]
    return Counted(sd.load_transformer(TINY)), vae, text


def decibels(vae, one, other) -> float:
    return float(psnr(4 * (vae.decode(one) - vae.decode(other)).square().mean()))


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_with_every_sampler_the_video_is_nearly_the_plain_one(ball, sampler):
    """Or nothing is left out."""
    counted, vae, text = ball
    empty = torch.zeros(1, 4, 2, 8, 8)
    plain = counted.sample(None, text, empty, sampler)
    calls = counted.calls
    cached = counted.sample(0.1, text, empty, sampler, start=0.35)
    assert counted.calls == calls and torch.equal(cached, plain) or decibels(vae, cached, plain) >= 30


def test_each_video_of_a_batch_is_nearly_the_plain_one(ball):
    counted, vae, text = ball
    empty = torch.zeros(3, 4, 6, 8, 8)
    plain, calls = counted.sample(None, text, empty), counted.calls
    cached = counted.sample(0.1, text, empty, start=0.35)
    assert counted.calls < calls
    assert all(decibels(vae, cached[i : i + 1], plain[i : i + 1]) >= 30 for i in range(3))


def test_a_run_in_two_parts_starts_each_of_them_anew(ball):
    """SplitSigmas with SamplerCustom twice."""
    counted, vae, text = ball
    empty = torch.zeros(1, 4, 2, 8, 8)
    noise, sampler = comfy.sample.prepare_noise(empty, 3), comfy.samplers.sampler_object("euler")
    sigmas = release_sigmas(counted.model, "euler", STEPS)
    cached = sampling.EasyAnimateStepCache.execute(counted.model, 0.1, 0.35, 3).args[0]

    def sample(model, at: int):
        latent = empty
        for part_noise, part_sigmas in ((noise, sigmas[: at + 1]), (torch.zeros_like(noise), sigmas[at:])):
            settings = (part_noise, 2.0, sampler, part_sigmas, *text, latent)
            latent = comfy.sample.sample_custom(model, *settings, disable_pbar=True, seed=3)
        return latent

    assert decibels(vae, sample(cached, 15), sample(counted.model, 15)) >= 30


class IdealModel:
    """A release with the ideal denoiser of two kinds of video, each with a spread, in the place of its network.

    No small network of these releases is trained; an untrained one changes too much from step to step to leave any out.
    """

    def __init__(self, release: str):
        self.model = TINY_MODELS[release]()
        self.noise = noise_for(self.model, 3)
        self.calls: list[None] = []
        self.model.set_model_unet_function_wrapper(ideal_denoiser(self.noise, release == "V5.1", self.calls))

    def sample(self, model, sampler: str) -> tuple[torch.Tensor, int]:
        """Latents, and how often the denoiser was called."""
        self.calls.clear()
        sigmas = release_sigmas(model, sampler, STEPS)
        settings = STEPS, 2.0, sampler, "normal", text_for(model, 1), text_for(model, 2), torch.zeros_like(self.noise)
        latents = comfy.sample.sample(model, self.noise, *settings, sigmas=sigmas, disable_pbar=True, seed=3)
        return latents, len(self.calls)


def ideal_denoiser(like: torch.Tensor, is_flow: bool, calls: list[None]):
    """A function, which the host does not copy with the model."""
    middle = 0.5 * random(*like.shape, seed=5)

    def denoise(_apply_model, args: dict) -> torch.Tensor:
        calls.append(None)
        x, sigma = args["input"], args["timestep"].view(-1, 1, 1, 1, 1)
        signal = 1 - sigma if is_flow else torch.ones_like(sigma)
        variance = (signal * 0.3) ** 2 + sigma**2
        expected = middle * torch.tanh(signal * (middle * x).sum((1, 2, 3, 4), keepdim=True) / variance)
        return expected + signal * 0.3**2 / variance * (x - signal * expected)

    return denoise


@pytest.fixture(scope="module", params=["V4", "V5", "V5.1"])
def ideal(request):
    return IdealModel(request.param)


@pytest.mark.parametrize(
    "sampler",
    [
        "euler",
        "euler_ancestral",
        "heun",
        "dpm_2_ancestral",
        "dpmpp_2m",
        "dpmpp_sde",
        "res_multistep",
        "uni_pc",
        "uni_pc_bh2",
        "ddim",
    ],
)
def test_later_releases_hardly_differ(ideal, sampler):
    """Or nothing is left out."""
    plain, calls = ideal.sample(ideal.model, sampler)
    cached, fewer = ideal.sample(sampling.EasyAnimateStepCache.execute(ideal.model, 0.1, 0.35, 3).args[0], sampler)
    noise_left = (cached - plain).square().mean() / (plain.max() - plain.min()).square()
    assert fewer == calls and torch.equal(cached, plain) or -10 * noise_left.log10() >= 30
    assert sampler != "euler" or fewer < calls


@pytest.mark.parametrize("release", ["V4", "V5", "V5.1"])
def test_an_untrained_network_is_never_left_out(release):
    """Its steps can't be predicted within the threshold."""
    model = TINY_MODELS[release]()
    noise, texts = noise_for(model, 3), (text_for(model, 1), text_for(model, 2))

    def sample(model) -> torch.Tensor:
        settings = STEPS, 2.0, "euler", "normal", *texts, torch.zeros_like(noise)
        sigmas = release_sigmas(model, "euler", STEPS)
        return comfy.sample.sample(model, noise, *settings, sigmas=sigmas, disable_pbar=True, seed=3)

    assert torch.equal(sample(sampling.EasyAnimateStepCache.execute(model, 0.1, 0.35, 3).args[0]), sample(model))


def test_far_beyond_the_last_two_calls_nothing_is_left_out():
    cache, run, trace = step_cache.StepCache(1.0, 3), step_cache.Run(1.0), step_cache.Trace()
    for position in (3.0, 2.0, 1.0):
        trace.update(position, [torch.ones(1, 2)])
    assert cache._may_skip(run, trace, 0.0) and not cache._may_skip(run, trace, -30.0)
