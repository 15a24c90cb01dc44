"""Whole sampling runs of the original, repeated by our nodes and the host's samplers, in float32."""

from dataclasses import dataclass

import comfy.sample
import comfy.samplers
import pytest
import torch

from .pack import part
from .parity import Loaders
from .recorded import Golden, config_of, names, recorded, shapes_of

schedules = part("easyanimate_models.sampling.schedules")
conditioning = part("nodes.conditioning")

SAMPLERS = {  # the original's schedulers that the host has a sampler for
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DDIMScheduler": "ddim",
}
VIDEO, MASK = "inputs.video_uint8", "inputs.mask_video"
CLIP_EMBEDS = "clip_encoder_hidden_states"


@dataclass(frozen=True)
class Run:
    """A recorded run, and what our nodes and loaders make of its inputs."""

    name: str
    recorded: Golden
    sampler: str
    model: object
    vae: object
    sigmas: torch.Tensor
    positive: list
    negative: list
    latent: torch.Tensor  # what sampling starts from, unscaled

    def output(self, name: str) -> torch.Tensor:
        return self.recorded.tensors[f"outputs.{name}"]

    @property
    def latent_format(self):
        return self.model.model.latent_format

    @property
    def noise(self) -> torch.Tensor:
        return noise_of(self.recorded)

    @property
    def keeps_variance(self) -> bool:
        """Whether the original's latents have a variance of 1 at every noise level; those of Euler grow with it."""
        return self.sampler in ("dpmpp_2m", "ddim")


def runs() -> list[str]:
    """Every recorded run whose scheduler the host has."""
    return [name for name in names("run") if config_of(name)["scheduler"] in SAMPLERS]


def clips_latents(name: str) -> bool:
    """Whether the original clipped the predicted latents in every step, which our samplers do not."""
    return bool(config_of(name).get("scheduler_full_config", {}).get("clip_sample"))


def is_inpainting(name: str) -> bool:
    """Whether the model of a run is given images and a mask."""
    return "Inpaint" in config_of(name)["pipeline"]


def is_unstable(name: str) -> bool:
    """Whether the group norms of motion modules see two values: their output is a sign, and rounding flips it."""
    transformer = config_of(config_of(name)["transformer"])["constructor"]
    noise = shapes_of(name).get("inputs.initial_noise") or shapes_of(name)["inputs.noise"]
    tokens = (noise[-1] // transformer["patch_size"]) * (noise[-2] // transformer["patch_size"])
    channels = transformer["cross_attention_dim"] // transformer.get("norm_num_groups", 32)
    return channels * tokens <= 2


def repeat(name: str, load: Loaders) -> Run:
    """A recorded run, ready to be sampled by ours."""
    run = recorded(name)
    config = run.config
    model, vae = load.transformer(config["transformer"]), load.vae(config["vae"])
    sampler, steps, denoise = SAMPLERS[config["scheduler"]], config["num_inference_steps"], 1.0
    if "strength" in config:
        steps = config["n_model_calls"]
        denoise = steps / (config["num_inference_steps"] + 0.5)  # so that rounding leaves the recorded steps
    sigmas = schedules.release_sigmas(model, sampler, steps, denoise)
    negative, positive = ([[e[None], {"attention_mask": m[None]}]] for e, m in _texts(run))
    latent = torch.zeros_like(noise_of(run))
    if is_inpainting(name):
        positive, negative, latent = _with_images(name, model, vae, sigmas, positive, negative)
    return Run(name, run, sampler, model, vae, sigmas, positive, negative, latent)


def _texts(run: Golden) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Hidden states of T5 with their mask, for the negative prompt and for the positive one."""
    text = run.config.get("t5")
    if text is None:
        embeds, masks = (run.tensors[f"inputs.text_{kind}_neg_pos"] for kind in ("embeds", "mask"))
        rows = (0, 1)
    else:
        tensors = recorded(text).tensors
        embeds, masks = tensors["outputs.last_hidden_state"], tensors["inputs.attention_mask"]
        rows = (run.config["negative_row"], run.config["positive_row"])
    return [(embeds[row], masks[row]) for row in rows]


def _with_images(name: str, model, vae, sigmas, positive, negative) -> tuple[list, list, torch.Tensor]:
    """By the node that an artist would use."""
    config, images = config_of(name), _images(name)
    video = images[VIDEO][0].movedim(0, -1).float() / 255 if VIDEO in images else None
    clip = _clip(name, model, sigmas) if "clip_apply_ratio" in config else {}
    if "strength" in config:
        mask = (images[MASK][0, 0].float() / 255).expand(video.shape[:3])
        out = conditioning.EasyAnimateInpaintVideo.execute(positive, negative, vae, video, False, mask, **clip)
    else:
        size = (config["W"], config["H"], config["frames"], len(noise_of(recorded(name))))
        start, end = (None, None) if video is None else _given_frames(video, images[MASK])
        out = conditioning.EasyAnimateImageToVideo.execute(positive, negative, vae, *size, start, end, **clip)
    positive, negative, latent, frames = out.result
    assert frames == config["frames"]
    return positive, negative, latent["samples"]


def _given_frames(video: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The frames at both ends of a video that the mask keeps, which it may do with whole frames only."""
    generated = mask[0, 0].flatten(1).amax(1) > 0  # [T]
    first, last = int(generated.int().argmax()), int(generated.flip(0).int().argmax())
    assert generated[first : len(generated) - last].all() and (mask[0, 0].flatten(1).amin(1) > 0).equal(generated)
    return (video[:first] if first else None), (video[len(video) - last :] if last else None)


def _clip(name: str, model, sigmas: torch.Tensor) -> dict:
    """The recorded embedding from its recorded step on. The original counts steps, our node counts noise."""
    config, tensors = config_of(name), recorded(name).tensors
    calls = {int(key.split(".")[1].removeprefix("call")): key for key in tensors if key.endswith(CLIP_EMBEDS)}
    embeds = tensors[calls[max(calls)]].chunk(2)[1]
    steps = len(sigmas) - 1
    without = sum(step < steps * (1 - config["clip_apply_ratio"]) for step in range(steps))
    start = 0.0
    if without:
        sampling = model.get_model_object("model_sampling")
        before, after = (float(sampling.timestep(sigma)) for sigma in sigmas[without - 1 : without + 1])
        start = 1 - (before + after) / 2 / (sampling.num_timesteps - 1)
    return {"clip_vision_output": {"image_embeds": embeds}, "clip_start_percent": start}


def _images(name: str) -> dict[str, torch.Tensor]:
    """The images of a run, in which some runs leave them out: then those of a run of the same mode and size."""
    if VIDEO in shapes_of(name):
        return recorded(name).tensors
    if "clip_apply_ratio" not in config_of(name):  # text to video
        return {}
    alike = ("mode", "H", "W", "frames", "generator_seed", "transformer")
    for other in names("run"):
        if VIDEO in shapes_of(other) and all(config_of(other).get(k) == config_of(name).get(k) for k in alike):
            return recorded(other).tensors
    pytest.skip(f"the images of {name} are not recorded")


def noise_of(run: Golden) -> torch.Tensor:
    """The noise that a run starts from, of variance 1."""
    tensors = run.tensors
    return tensors["inputs.noise"] if "inputs.noise" in tensors else tensors["inputs.initial_noise"]


def sample(run: Run, sampler, callback=None) -> torch.Tensor:
    """The samples of a run by a sampler of the host."""
    settings = (run.recorded.config["guidance_scale"], sampler, run.sigmas, run.positive, run.negative)
    options = {"callback": callback, "disable_pbar": True, "seed": 0}
    return comfy.sample.sample_custom(run.model, run.noise, *settings, run.latent, **options)


def follow(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Our latents after each step, in the original's scale, and the samples."""
    before: list[torch.Tensor] = []
    noises = run.recorded.tensors.get("inputs.ancestral_noise_each_step")
    options = {}
    if noises is not None:
        steps = iter(noises)
        options = {"noise_sampler": lambda sigma, sigma_next: next(steps)}
    sampler = comfy.samplers.ksampler(run.sampler, options)
    samples = sample(run, sampler, lambda step, denoised, x, total: before.append(x.clone()))
    latents = torch.stack([*before[1:], run.latent_format.process_in(samples)])
    if run.keeps_variance:
        latents = latents / (1 + run.sigmas[1:] ** 2).sqrt().view(-1, 1, 1, 1, 1, 1)
    return latents, samples


def guided_noise(run: Run, step: int) -> torch.Tensor:
    """What the network predicts from the latents that were recorded before a step, and guidance makes of it."""
    start = run.noise * run.recorded.config["init_noise_sigma"]
    latents = [start, *run.output("latents_after_each_step")][step]
    if not run.keeps_variance:
        latents = latents / (run.output("sigmas")[step] ** 2 + 1) ** 0.5
    (negative, masks), (positive, more) = run.negative[0], run.positive[0]
    context = torch.cat([negative, positive]).repeat_interleave(len(latents), dim=0)
    mask = torch.cat([masks["attention_mask"], more["attention_mask"]]).repeat_interleave(len(latents), dim=0)
    timesteps = run.output("timesteps")[step].float().expand(2 * len(latents))
    network = run.model.model.diffusion_model
    both = network(latents.repeat(2, 1, 1, 1, 1), timesteps, context=context, attention_mask=mask)
    negative, positive = both.chunk(2)
    return negative + run.recorded.config["guidance_scale"] * (positive - negative)


def forced(run: Run) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(x, denoised) in each step, when it starts from the latents that were recorded after the step before it."""
    first = run.sigmas[0]
    start = run.latent_format.process_in(run.latent) + first * run.noise
    if run.keeps_variance and "strength" not in run.recorded.config:
        start = run.noise * (1 + first**2).sqrt()
    scale = (1 + run.sigmas[1:-1] ** 2).sqrt() if run.keeps_variance else torch.ones(len(run.sigmas) - 2)
    latents = run.output("latents_after_each_step")[:-1]
    befores = [start, *(factor * x for factor, x in zip(scale, latents, strict=True))]
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def teacher(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma, before in zip(sigmas, befores, strict=False):
            steps.append((before, model(before, sigma.expand(len(before)), **extra_args)))
        return x

    sample(run, comfy.samplers.KSAMPLER(teacher))
    return steps
