"""Networks small enough for a test, built as the loaders build them, with the same random weights every time."""

from dataclasses import replace

import comfy.sample
import torch

from .pack import part

hunyuan_dit = part("easyanimate_models.dit.hunyuan_dit")
hunyuan_embedders = part("easyanimate_models.dit.hunyuan_embedders")
motion_dit = part("easyanimate_models.dit.motion_dit")
motion_module = part("easyanimate_models.dit.motion_module")
image_vae = part("easyanimate_models.vae.image_vae")
slice_vae = part("easyanimate_models.vae.slice_vae")
guard = part("easyanimate_models.sampling.guard")
host = part("easyanimate_models.host")
host_vae = part("easyanimate_models.vae.host_vae")
supported_models = part("easyanimate_models.supported_models")

DIT = motion_dit.MotionDiTConfig(
    in_channels=4,
    latent_channels=4,
    width=32,
    depth=4,
    heads=2,
    caption_channels=16,
    motion=tuple(motion_module.MotionConfig(("temporal", second), 2) for second in ("temporal", "global")),
    skips=motion_dit.LongSkips(stored=2, start=2),
    sample_size=64,
    clip_tokens=False,
    patch=2,
)
VAE = slice_vae.SliceVAEConfig(
    channels=(8, 8, 16, 16), layers=2, latent_channels=4, norm_groups=4, scaling_factor=0.18215
)


HUNYUAN_DIT = hunyuan_dit.HunyuanDiTConfig(
    in_channels=12,
    latent_channels=4,
    width=32,
    depth=6,
    heads=2,
    inner=48,
    caption_channels=16,
    caption_channels_2=24,
    text_length=5,
    text_length_2=7,
    pooled_channels=20,
    resampler=hunyuan_embedders.ResamplerConfig(queries=4, channels=16, projected=False),
    patch=2,
)
RELEASED_HUNYUAN_DIT = replace(
    HUNYUAN_DIT,
    width=1408,
    depth=40,
    heads=16,
    inner=6144,
    caption_channels=1024,
    caption_channels_2=2048,
    text_length=77,
    text_length_2=256,
    pooled_channels=1024,
    resampler=hunyuan_embedders.ResamplerConfig(queries=16, channels=1024, projected=False),
)


def tiny_transformer(**changed):
    """A ModelPatcher around `DIT`, in float32 on the CPU."""
    return tiny_patcher(supported_models.EasyAnimateV3(replace(DIT, **changed)))


def tiny_hunyuan_dit(**changed):
    """A ModelPatcher around `HUNYUAN_DIT`, in float32 on the CPU."""
    return tiny_patcher(supported_models.EasyAnimateV4(replace(HUNYUAN_DIT, **changed)))


def tiny_patcher(release):
    """A ModelPatcher around a release's network with random weights, in float32 on the CPU."""
    release.set_inference_dtype(torch.float32, None)
    model = release.get_model({})
    randomise(model.diffusion_model)
    device = torch.device("cpu")
    return guard.guarded(host.patcher_class()(model, load_device=device, offload_device=device))


IMAGE_VAE = image_vae.ImageVAEConfig(channels=(8, 8, 16, 16), layers=1, latent_channels=4, norm_groups=4)


VAE_CONFIGS = {
    "V1": IMAGE_VAE,
    **dict.fromkeys(("V2", "V3", "V4"), VAE),
    "V5": replace(VAE, latent_channels=16, scaling_factor=0.7125, norm="frame", attention="frame"),
    "V5.1": replace(VAE, latent_channels=16, scaling_factor=0.7125, norm="frame", attention=None),
}


def tiny_release_vae(release: str):
    """The host's VAE of "V1", "V2", "V3", "V4", "V5" or "V5.1" in the same way."""
    cls = getattr(supported_models, f"EasyAnimate{release.replace('.', '')}")
    model = cls.vae(VAE_CONFIGS[release]).eval()
    randomise(model)
    return host_vae.HostVAE(model, {k: v.clone() for k, v in model.state_dict().items()}, cls)


def tiny_vae():
    """The host's VAE around `VAE`."""
    return tiny_release_vae("V3")


def tiny_slice_vae():
    """The network alone."""
    model = slice_vae.SliceVAE(VAE)
    randomise(model)
    return model.eval()


def sampled(model, frames: int) -> torch.Tensor:
    """Two guided steps of euler on a tiny transformer; `frames` are those of the latent."""
    text = [[random(1, 5, DIT.caption_channels), {}]]
    empty = torch.zeros(1, DIT.latent_channels, frames, 4, 4)
    noise = comfy.sample.prepare_noise(empty, 1)
    return comfy.sample.sample(model, noise, 2, 2.0, "euler", "normal", text, text, empty, disable_pbar=True, seed=1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers from a normal distribution, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: torch.nn.Module) -> None:
    """Weights of about 1 / sqrt(inputs), small biases and tables, so that every layer matters."""
    for i, (name, parameter) in enumerate(module.named_parameters()):
        values = random(*parameter.shape, seed=i)
        if "norm" in name and name.endswith(".weight"):
            values = 1 + 0.1 * values
        elif parameter.ndim > 1 and "table" not in name:
            values = values / parameter[0].numel() ** 0.5
        else:
            values = 0.1 * values
        parameter.data.copy_(values)
