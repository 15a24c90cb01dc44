"""Whole sampling runs of the original, repeated by our nodes and the host's samplers, in float32.

Euler, Euler ancestral and DPM++ run freely. DDIM clips the predicted latents to -1..1, which we do not (see README),
and V5's begins in pure noise: there each step starts from the recorded latents, and the test does the original's step.
"""

import functools

import pytest
import torch

from support.parity import Loaders
from support.recorded import each, relative_error, shapes_of, tolerance
from support.trajectories import (
    begins_in_pure_noise,
    clips_latents,
    ddim_step,
    follow,
    forced,
    guided_noise,
    is_plain,
    is_unstable,
    repeat,
    runs,
)

RUNS = runs()
STABLE = [name for name in RUNS if not is_unstable(name)]
FORCED = [name for name in STABLE if clips_latents(name) or begins_in_pure_noise(name)]
FREE = [name for name in STABLE if name not in FORCED]
VIDEO, RAW = "outputs.video_0_1", "outputs.vae_decode_raw"
GUIDED, SIGMAS = "outputs.guided_model_output_each_step", "outputs.sigmas"
CONDITIONS = ("inputs_to_model.call0.inpaint_latents", "inputs_to_model.call0.control_latents")
PURE_NOISE = 1e-3  # what a finite first noise level may move a run by


@pytest.fixture(scope="module")
def run_of(load: Loaders):
    return functools.cache(lambda name: repeat(name, load))


@pytest.fixture(scope="module")
def followed(run_of):
    return functools.cache(lambda name: follow(run_of(name)))


@each("name", FREE)
def test_every_step_follows_the_recorded_latents(followed, run_of, agree, name):
    theirs = run_of(name).output("latents_after_each_step")
    ours, _ = followed(name)
    assert len(ours) == len(theirs)
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        agree(name, None, f"latents after step {step}", a, b)


@each("name", [name for name in FREE if VIDEO in shapes_of(name)])
def test_the_run_ends_in_the_recorded_video(followed, run_of, agree, name):
    run = run_of(name)
    ours = run.vae.decode(followed(name)[1], seams=run.seams)
    agree(name, None, "video", ours.movedim(-1, 1), run.output("video_0_1"))


@pytest.fixture(scope="module")
def forced_steps(run_of):
    return functools.cache(lambda name: forced(run_of(name)))


@each("name", [name for name in FREE if is_plain(name) and {GUIDED, SIGMAS} <= shapes_of(name).keys()])
def test_the_network_alone_predicts_the_recorded_guided_noise(run_of, agree, name):
    """In every step from the recorded latents, without any sampler."""
    run = run_of(name)
    for step, theirs in enumerate(run.output("guided_model_output_each_step")):
        agree(name, None, f"guided noise of step {step}", guided_noise(run, step), theirs)


@each("name", FORCED)
def test_ddim_steps_as_recorded(forced_steps, run_of, agree, name):
    run, steps, theirs = run_of(name), forced_steps(name), run_of(name).output("latents_after_each_step")
    assert len(steps) == len(theirs)
    for step, (x, denoised) in enumerate(steps):
        ours = ddim_step(run, step, x, denoised)
        agree(name, None, f"prediction at step {step}", ours.prediction, run.output(GUIDED.split(".")[1])[step])
        agree(name, None, f"latents after step {step}", ours.latents, theirs[step])


@each("name", [name for name in STABLE if begins_in_pure_noise(name) and not clips_latents(name)])
def test_a_run_from_pure_noise_is_followed_closely(followed, run_of, name):
    """The host's first noise level is finite."""
    theirs = run_of(name).output("latents_after_each_step")
    assert relative_error(followed(name)[0], theirs) < PURE_NOISE


@each("name", [name for name in RUNS if VIDEO in shapes_of(name) and RAW not in shapes_of(name)])
def test_the_recorded_latents_decode_to_the_recorded_video(run_of, agree, name):
    run = run_of(name)
    samples = run.latent_format.process_out(run.output("latents_after_each_step")[-1])
    agree(name, None, "images", run.vae.decode(samples, seams=run.seams).movedim(-1, 1), run.output("video_0_1"))


@each("name", [name for name in RUNS if RAW in shapes_of(name)])
def test_the_recorded_latents_decode_to_the_recorded_pixels(run_of, agree, name):
    """Before the original's smoothing."""
    run = run_of(name)
    samples, raw = (
        run.latent_format.process_out(run.output("latents_after_each_step")[-1]),
        run.output("vae_decode_raw"),
    )
    agree(name, None, "pixels", run.vae.first_stage_model.decode(samples), raw)
    agree(name, None, "images", run.vae.decode(samples).movedim(-1, 1), (raw.clamp(-1, 1) + 1) / 2)


@each("name,key", [(name, key) for name in RUNS for key in CONDITIONS if key in shapes_of(name)])
def test_the_model_is_given_what_the_original_gives_it(run_of, agree, name, key):
    run = run_of(name)
    theirs, _ = run.recorded.tensors[key].chunk(2)  # both halves are the same
    ours = run.model.model.concat_cond(noise=run.noise, device=run.noise.device, **run.positive[0][1])
    if theirs.any():
        agree(name, None, "what comes with the noise", ours, theirs)
    else:
        assert not ours.any()


@each("name", [name for name in RUNS if is_unstable(name)])
def test_a_run_whose_norms_see_two_values_can_not_be_followed(run_of, name):
    """Rounding alone moves the output by a hundredth or more; the noise levels around the network are as recorded."""
    run = run_of(name)
    torch.testing.assert_close(run.sigmas, run.output("sigmas"), rtol=tolerance(name), atol=0)
    tokens, options = run.positive[0]
    network, timestep = run.model.model.diffusion_model, run.output("timesteps")[:1].float()
    a, b = (network(x, timestep, context=tokens, **options) for x in (run.noise, run.noise * (1 + 1e-6)))
    assert relative_error(a, b) > 1e-2
