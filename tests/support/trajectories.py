"""Whole sampling runs of the original, repeated by our nodes and the host's samplers, in float32."""

from dataclasses import dataclass
from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F

from .pack import part
from .parity import Loaders
from .recorded import Golden, config_of, names, recorded, shapes_of

schedules = part("easyanimate_models.sampling.schedules")
camera = part("easyanimate_models.conditioning.camera")
inpainting = part("easyanimate_models.conditioning.inpainting")
conditioning = part("nodes.conditioning")
control = part("nodes.control")
host = part("easyanimate_models.host")

SAMPLERS = {  # the original's schedulers that the host has a sampler for
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "DDIMScheduler": "ddim",
    "FlowMatchEulerDiscreteScheduler": "euler",
}
VIDEO, MASK, NOISE = "inputs.video_uint8", "inputs.mask_video", "inputs.reference_noise"
IMAGE, START, END = "inputs.image_uint8", "inputs.start_image_uint8", "inputs.end_image_uint8"
CONTROL, CAMERA = "inputs.control_video_uint8", "inputs.control_camera_video"
REFERENCE = "inputs.ref_image_uint8"
CLIP_EMBEDS = "clip_encoder_hidden_states"
HIDDEN = SimpleNamespace(unique_id="1")  # of a node that runs
OF_TEXTS = {  # what conditioning of two text encoders holds beside the first one's output -> recorded inputs
    "attention_mask": "bert_mask",
    "conditioning_mt5xl": "t5_embeds",
    "attention_mask_mt5xl": "t5_mask",
}


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
    def is_flow(self) -> bool:
        """Whether latents are mixed of video and noise."""
        return "Flow" in self.recorded.config["scheduler"]

    @property
    def seams(self) -> str:
        """What the original does where slices meet: V2 and V3 smooth them."""
        return "original" if self.vae.plan.seamless else "smooth"

    @property
    def keeps_variance(self) -> bool:
        """Whether the original's latents have a variance of 1 at every noise level; those of Euler grow with it."""
        return self.sampler in ("dpmpp_2m", "ddim")


def runs() -> list[str]:
    """Every recorded run whose scheduler the host has."""
    return [name for name in names("run") if config_of(name)["scheduler"] in SAMPLERS]


def is_control(name: str) -> bool:
    """Whether the model of a run follows a control video or a camera."""
    return "Control" in config_of(name)["pipeline"]


def is_plain(name: str) -> bool:
    """Whether the model of a run is given nothing but text."""
    return not is_inpainting(name) and not is_control(name)


def begins_in_pure_noise(name: str) -> bool:
    """Whether no signal is left at the first step; the host knows the largest finite noise level only."""
    return bool(config_of(name).get("scheduler_full_config", {}).get("rescale_betas_zero_snr"))


def clips_latents(name: str) -> bool:
    """Whether the original clipped the predicted latents in every step, which our samplers do not."""
    return bool(config_of(name).get("scheduler_full_config", {}).get("clip_sample"))


def is_inpainting(name: str) -> bool:
    """Whether the model of a run is given images and a mask."""
    return "Inpaint" in config_of(name)["pipeline"]


def is_unstable(name: str) -> bool:
    """Whether the group norms of motion modules see two values: their output is a sign, and rounding flips it."""
    transformer = config_of(config_of(name)["transformer"])["constructor"]
    if "motionmodule" not in transformer.get("basic_block_type", ""):
        return False
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
    negative, positive = _prompts(run)
    latent = torch.zeros_like(noise_of(run))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inpainting, "augmentation_noise", lambda shape, strength: _augmentation(name, strength))
        if is_inpainting(name):
            positive, negative, latent = _with_images(name, model, vae, sigmas, positive, negative)
        elif is_control(name):
            positive, negative, latent = _with_control(name, vae, positive, negative)
    return Run(name, run, sampler, model, vae, sigmas, positive, negative, latent)


def _prompts(run: Golden) -> list[list]:
    """The conditioning of the negative prompt and of the positive one."""
    tensors = run.tensors
    if "inputs.bert_embeds_neg_pos" not in tensors:
        return [[[e[None], {"attention_mask": m[None]}]] for e, m in _texts(run)]
    context, *others = (tensors[f"inputs.{name}_neg_pos"] for name in ("bert_embeds", *OF_TEXTS.values()))
    return [
        [[context[i : i + 1], {key: other[i : i + 1] for key, other in zip(OF_TEXTS, others, strict=True)}]]
        for i in range(len(context))
    ]


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
    config = config_of(name)
    video, mask = _pixels(name, VIDEO), _tensor(name, MASK)
    clip = _clip(name, model, sigmas) if "clip_apply_ratio" in config else {}
    if "strength" in config or IMAGE in shapes_of(name):
        video = _pixels(name, IMAGE) if video is None else video
        mask = None if mask is None else (mask[0, 0].float() / 255).expand(video.shape[:3])
        out = conditioning.EasyAnimateInpaintVideo.execute(positive, negative, vae, video, False, mask, **clip)
    else:
        given = (_pixels(name, START), _pixels(name, END)) if video is None else _given_frames(video, mask)
        out = conditioning.EasyAnimateImageToVideo.execute(positive, negative, vae, *_size(name), *given, **clip)
    return _checked(name, out)


def _with_control(name: str, vae, positive, negative) -> tuple[list, list, torch.Tensor]:
    """By the node for control videos and cameras."""
    maps = _tensor(name, CAMERA)
    given = {
        "control_video": _pixels(name, CONTROL),
        "camera_conditions": None if maps is None else camera.pack(maps[0].movedim(0, 1)),
        "ref_image": _pixels(name, REFERENCE),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "show_text", lambda *_: None)
        patch.setattr(control.EasyAnimateControlToVideo, "hidden", HIDDEN, raising=False)
        out = control.EasyAnimateControlToVideo.execute(positive, negative, vae, *_size(name), **given)
    return _checked(name, out)


def _size(name: str) -> tuple[int, int, int, int]:
    """Width, height, length and batch size, as nodes take them."""
    config = config_of(name)
    return config["W"], config["H"], config["frames"], len(noise_of(recorded(name)))


def _checked(name: str, out) -> tuple[list, list, torch.Tensor]:
    positive, negative, latent, frames = out.result
    assert frames == config_of(name)["frames"]
    return positive, negative, latent["samples"]


def _pixels(name: str, key: str) -> torch.Tensor | None:
    """Recorded frames as the host's IMAGE `[T, H, W, 3]`."""
    pixels = _tensor(name, key)
    if pixels is None:
        return None
    return (pixels[0].movedim(0, -1) if pixels.ndim == 5 else pixels[None]).float() / 255


def _augmentation(name: str, strength: float) -> torch.Tensor:
    """The recorded noise on given pixels, `[T, H, W, 3]`."""
    assert strength == config_of(name)["noise_aug_strength"]
    return _tensor(name, NOISE)[0].movedim(0, -1) * strength


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
    if not embeds.any():
        return {}
    steps = len(sigmas) - 1
    without = sum(step < steps * (1 - config["clip_apply_ratio"]) for step in range(steps))
    start = 0.0
    if without:
        sampling = model.get_model_object("model_sampling")
        before, after = (float(sampling.timestep(sigma)) for sigma in sigmas[without - 1 : without + 1])
        start = 1 - (before + after) / 2 / (sampling.num_timesteps - 1)
    view = {"image_embeds": embeds} if embeds.ndim == 2 else {"last_hidden_state": F.pad(embeds, (0, 0, 1, 0))}
    return {"clip_vision_output": view, "clip_start_percent": start}


def _tensor(name: str, key: str) -> torch.Tensor | None:
    """An input of a run; where a run leaves it out, that of a run that is alike. None when it takes none."""
    if key in shapes_of(name):
        return recorded(name).tensors[key]
    same = ["mode", "H", "W", "frames", "transformer"]
    gives_images = {MASK, START} & shapes_of(name).keys() or "clip_apply_ratio" in config_of(name)
    if gives_images or is_control(name):
        same.append("strength" if key == VIDEO else "generator_seed")
        for other in names("run"):
            if key in shapes_of(other) and all(config_of(other).get(k) == config_of(name).get(k) for k in same):
                return recorded(other).tensors[key]
    return None


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
    sampler = (
        comfy.samplers.sampler_object("ddim")
        if run.sampler == "ddim"
        else comfy.samplers.ksampler(run.sampler, options)
    )
    samples = sample(run, sampler, lambda step, denoised, x, total: before.append(x.clone()))
    latents = torch.stack([*before[1:], run.latent_format.process_in(samples)])
    if run.keeps_variance:
        latents = latents / (1 + run.sigmas[1:] ** 2).sqrt().view(-1, 1, 1, 1, 1, 1)
    return latents, samples


def guided_noise(run: Run, step: int) -> torch.Tensor:
    """What the network predicts from the latents that were recorded before a step, and guidance makes of it."""
    start = run.noise * run.recorded.config["init_noise_sigma"]
    latents = [start, *run.output("latents_after_each_step")][step]
    if "Euler" in run.recorded.config["scheduler"] and not run.is_flow:
        latents = latents / (run.output("sigmas")[step] ** 2 + 1) ** 0.5
    timesteps = run.output("timesteps")[step].float().expand(len(latents))
    negative, positive = (_predicted(run, latents, timesteps, prompt) for prompt in (run.negative, run.positive))
    return negative + run.recorded.config["guidance_scale"] * (positive - negative)


def _predicted(run: Run, latents: torch.Tensor, timesteps: torch.Tensor, prompt: list) -> torch.Tensor:
    """The network's own output for one prompt, which reaches it as the host would hand it on."""
    tokens, options = prompt[0]
    conds = run.model.model.extra_conds(noise=latents, device=latents.device, cross_attn=tokens, **options)
    inputs = {name: cond.cond.expand(len(latents), *cond.cond.shape[1:]) for name, cond in conds.items()}
    context = inputs.pop("c_crossattn")
    return run.model.model.diffusion_model(latents, timesteps, context, **inputs)


@dataclass(frozen=True)
class DDIMStep:
    """What the network predicted in a step of DDIM, and the latents after it, in the original's scale."""

    prediction: torch.Tensor
    latents: torch.Tensor


def ddim_step(run: Run, step: int, x: torch.Tensor, denoised: torch.Tensor) -> DDIMStep:
    """The original's step from `x`, in our scale, to what comes after it, given our `denoised`."""
    sigma = run.sigmas[step]
    signal, following = 1 / (1 + run.sigmas[step : step + 2] ** 2)
    if step == 0 and begins_in_pure_noise(run.name):
        signal = torch.zeros(())
    latents = x / (1 + sigma**2).sqrt()
    prediction = noise = (x - denoised) / sigma
    if run.recorded.config["scheduler_full_config"].get("prediction_type") == "v_prediction":
        prediction = (x / (sigma**2 + 1) - denoised) * (sigma**2 + 1).sqrt() / sigma
        noise = signal.sqrt() * prediction + (1 - signal).sqrt() * latents
        denoised = signal.sqrt() * latents - (1 - signal).sqrt() * prediction
    if clips_latents(run.name):
        limit = run.recorded.config["scheduler_full_config"]["clip_sample_range"]
        denoised = denoised.clamp(-limit, limit)
    return DDIMStep(prediction, following.sqrt() * denoised + (1 - following).sqrt() * noise)


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
