"""Whole sampling runs of the original, repeated by our nodes and the host's samplers, in float32.

Euler, Euler ancestral and DPM++ run freely. DDIM of V1 to V3 clips the predicted latents to -1..1, which we do not
(see README): there each step starts from the recorded latents, and the clipping is done by the test.
"""

import functools
from dataclasses import dataclass

import comfy.sample
import comfy.samplers
import conftest
import numpy as np
import pytest
import torch
from conftest import GOLDEN, part, relative_error
from PIL import Image
from test_parity import folder  # noqa: F401  (a fixture)

sd = part("easyanimate_models.sd")
schedules = part("easyanimate_models.sampling.schedules")
latent_formats = part("easyanimate_models.latent_formats")
conditioning = part("nodes.conditioning")

golden = functools.cache(conftest.golden)
SAMPLERS = {
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DDIMScheduler": "ddim",
}
RUNS = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in GOLDEN.glob("v?_e2e/*.safetensors")
    if path.stem[1:4] in ("2v_", "2i_")
)
RUNS.remove("v3_e2e/t2v_via_inp_PNDM")  # the host has no such sampler
RUNS.remove("v2_e2e/t2v_Euler")  # see test_the_recorded_v2_run_can_not_be_followed; it is decoded in test_parity_v1_v2
FREE = [run for run in RUNS if "DDIM" not in run]
CLIPPED = [run for run in RUNS if "DDIM" in run]


@dataclass(frozen=True)
class Run:
    """A recorded run, and what our nodes and loaders make of its inputs."""

    recorded: conftest.Golden
    sampler: str
    model: object
    vae: object
    sigmas: torch.Tensor
    positive: list
    negative: list
    latent: torch.Tensor  # what sampling starts from, unscaled

    def output(self, name: str) -> torch.Tensor:
        return self.recorded.tensors[f"outputs.{name}"]


@pytest.fixture(scope="module")
def load(folder):  # noqa: F811
    loaders = {"transformer": functools.partial(sd.load_transformer, weight_dtype="fp32"), "vae": sd.load_vae}
    loaders["clip"] = sd.load_image_encoder
    return functools.cache(lambda kind, name: loaders[kind](folder(name)))


@pytest.fixture(scope="module")
def run_of(load):
    return functools.cache(lambda name: _run(golden(name), load))


def _run(recorded: conftest.Golden, load) -> Run:
    how = recorded.config
    model, vae = load("transformer", how["transformer"]), load("vae", how["vae"])
    sampler, steps, denoise = SAMPLERS[how["scheduler"]], how["num_inference_steps"], 1.0
    if "strength" in how:  # the original makes 8 * 0.6 = 4 of 8 steps
        steps, denoise = how["n_model_calls"], how["n_model_calls"] / steps
    sigmas = schedules.release_sigmas(model, sampler, steps, denoise)
    negative, positive = ([[e[None], {"attention_mask": m[None]}]] for e, m in _texts(recorded))
    latent = torch.zeros_like(_noise(recorded))
    if how["pipeline"] == "EasyAnimateInpaintPipeline":
        positive, negative, latent = _with_images(recorded, vae, positive, negative)
    return Run(recorded, sampler, model, vae, sigmas, positive, negative, latent)


def _texts(recorded: conftest.Golden):
    """Hidden states of T5 with their mask, for the negative prompt and for the positive one."""
    t5 = recorded.config.get("t5")
    if t5 is None:
        return zip(*(recorded.tensors[f"inputs.text_{kind}_neg_pos"] for kind in ("embeds", "mask")), strict=True)
    tensors = golden(t5).tensors
    return zip(tensors["outputs.last_hidden_state"], tensors["inputs.attention_mask"], strict=True)


def _with_images(recorded: conftest.Golden, vae, positive, negative) -> tuple[list, list, torch.Tensor]:
    """By the node that an artist would use."""
    how, given = recorded.config, _inputs(recorded)
    video = given.get("inputs.video_uint8")
    video = None if video is None else video[0].movedim(0, -1).float() / 255
    if "strength" in how:
        mask = given["inputs.mask_video"][0, 0].float() / 255
        out = conditioning.EasyAnimateInpaintVideo.execute(positive, negative, vae, video, False, mask)
    else:
        start = video[:1] if how.get("mode", "").startswith("image to video") else None
        end = video[-1:] if "start_end" in how.get("mode", "") else None
        size = (how["W"], how["H"], how["frames"], 1)
        clip = {} if start is None else _clip(recorded)
        out = conditioning.EasyAnimateImageToVideo.execute(positive, negative, vae, *size, start, end, **clip)
    positive, negative, latent, frames = out.result
    assert frames == how["frames"]
    return positive, negative, latent["samples"]


def _clip(recorded: conftest.Golden) -> dict:
    """The recorded embedding. The original counts steps (of 5, 3 are without CLIP), we count noise."""
    how, tensors = recorded.config, recorded.tensors
    last = max(k for k in tensors if k.endswith(".clip_encoder_hidden_states"))
    late = 0.55 if how["scheduler"].startswith("DPM") else 0.6
    start = 0.0 if how["clip_apply_ratio"] == 1 else late
    return {"clip_vision_output": {"image_embeds": tensors[last][1:]}, "clip_start_percent": start}


def _inputs(recorded: conftest.Golden) -> dict[str, torch.Tensor]:
    """The images of a run; runs that share them with `i2v_start_Euler` don't hold them."""
    shared = golden("v3_e2e/i2v_start_Euler").tensors if recorded.config.get("mode", "").endswith("(start)") else {}
    return {k: v for k, v in {**shared, **recorded.tensors}.items() if k.startswith("inputs.")}


def _noise(recorded: conftest.Golden) -> torch.Tensor:
    tensors = recorded.tensors
    return tensors["inputs.noise"] if "inputs.noise" in tensors else tensors["inputs.initial_noise"]


def sample(run: Run, sampler, callback=None) -> torch.Tensor:
    settings = (run.recorded.config["guidance_scale"], sampler, run.sigmas, run.positive, run.negative)
    options = {"callback": callback, "disable_pbar": True, "seed": 0}
    return comfy.sample.sample_custom(run.model, _noise(run.recorded), *settings, run.latent, **options)


@pytest.fixture(scope="module")
def followed(run_of):
    """Our latents after each step, as the original keeps them, and the samples."""

    @functools.cache
    def follow(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        run, before = run_of(name), []
        noises = run.recorded.tensors.get("inputs.ancestral_noise_each_step")
        steps = iter(noises if noises is not None else ())
        options = {} if noises is None else {"noise_sampler": lambda sigma, sigma_next: next(steps)}
        sampler = comfy.samplers.ksampler(run.sampler, options)
        samples = sample(run, sampler, lambda step, denoised, x, total: before.append(x.clone()))
        latents = torch.stack([*before[1:], latent_formats.SliceLatents().process_in(samples)])
        if run.sampler == "dpmpp_2m":  # the original keeps the variance at 1
            latents = latents / (1 + run.sigmas[1:] ** 2).sqrt().view(-1, 1, 1, 1, 1, 1)
        return latents, samples

    return follow


@pytest.mark.parametrize("name", FREE)
def test_every_step_follows_the_recorded_latents(followed, run_of, agree, name):
    theirs = run_of(name).output("latents_after_each_step")
    ours, _ = followed(name)
    assert len(ours) == len(theirs)
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        agree(f"{name}, latents after step {step}", a, b)


@pytest.mark.parametrize("name", [n for n in FREE if "outputs.video_0_1" in golden(n).tensors])
def test_the_run_ends_in_the_recorded_video(followed, run_of, agree, name):
    run = run_of(name)
    ours = run.vae.decode(followed(name)[1], seams="smooth")
    agree(f"{name}, video", ours.movedim(-1, 1), run.output("video_0_1"))


@pytest.mark.parametrize("name", [n for n in RUNS if "inp" in golden(n).config["transformer"]])
def test_the_model_is_told_what_the_original_tells_it(run_of, agree, name):
    run = run_of(name)
    theirs = run.recorded.tensors["inputs_to_model.call0.inpaint_latents"][:1]
    given = run.positive[0][1]["concat_latent_image"]
    agree(f"{name}, mask and masked video", given * latent_formats.SliceLatents.scale_factor, theirs)


@pytest.mark.parametrize("image", ["img0", "img1"])
def test_the_image_encoder_sees_what_the_original_saw(load, agree, image):
    """Prepared by Pillow as the original does; the host's own way of resizing differs by a few thousandths."""
    recorded, encoder = golden("v3_e2e/clip_vision"), load("clip", "v3_e2e/clip_vision")
    pixels = recorded.tensors[f"inputs.{image}_uint8"]
    theirs = recorded.tensors[f"outputs.{image}_image_embeds"]
    prepared = torch.from_numpy(np.array(_square(pixels))).float() / 255
    agree(f"CLIP embedding of {image}", encoder.encode_image(prepared[None])["image_embeds"], theirs)
    assert relative_error(encoder.encode_image(pixels[None].float() / 255)["image_embeds"], theirs) < 5e-3


def _square(image: torch.Tensor) -> Image.Image:
    whole = Image.fromarray(image.numpy())
    scale = 224 / min(whole.size)
    whole = whole.resize((int(whole.width * scale), int(whole.height * scale)), Image.BICUBIC)
    left, top = (whole.width - 224) // 2, (whole.height - 224) // 2
    return whole.crop((left, top, left + 224, top + 224))


@pytest.mark.parametrize("name", CLIPPED)
def test_ddim_steps_as_recorded_but_for_clipping(run_of, agree, name):
    run, seen = run_of(name), []
    theirs = run.output("latents_after_each_step")
    noise, first = _noise(run.recorded), run.sigmas[0]
    start = noise
    if "strength" in run.recorded.config:
        start = (latent_formats.SliceLatents().process_in(run.latent) + first * noise) / (1 + first**2).sqrt()

    def teacher(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma, latents in zip(sigmas, [start, *theirs[:-1]], strict=False):
            x = latents * (1 + sigma**2).sqrt()
            seen.append((x, model(x, sigma.expand(len(x)), **extra_args)))
        return x

    sample(run, comfy.samplers.KSAMPLER(teacher))
    assert len(seen) == len(theirs)
    kept = 1 / (1 + run.sigmas**2)
    for step, (x, denoised) in enumerate(seen):
        eps = (x - denoised) / run.sigmas[step]
        agree(f"{name}, noise at step {step}", eps, run.output("guided_model_output_each_step")[step])
        following = kept[step + 1]
        ours = following.sqrt() * denoised.clamp(-1, 1) + (1 - following).sqrt() * eps
        agree(f"{name}, latents after step {step}", ours, theirs[step])


def test_the_recorded_v2_run_can_not_be_followed(run_of):
    """Its frames are two tokens, so each group norm is a sign: rounding alone moves the output by a hundredth or more.

    What surrounds the network there, the noise levels, is as recorded.
    """
    run = run_of("v2_e2e/t2v_Euler")
    torch.testing.assert_close(run.sigmas, run.output("sigmas"), rtol=1e-4, atol=0)
    tokens, options = run.positive[0]
    network, x = run.model.model.diffusion_model, _noise(run.recorded)
    a, b = (network(y, torch.tensor([999.0]), context=tokens, **options) for y in (x, x * (1 + 1e-6)))
    assert relative_error(a, b) > 1e-2
