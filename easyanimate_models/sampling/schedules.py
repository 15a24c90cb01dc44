"""The noise levels that the released models are trained at, and those that their pipelines step through."""

import torch
from comfy.ldm.modules.diffusionmodules.util import make_beta_schedule
from torch import Tensor

TIMESTEPS = 1000
STEPS_OFFSET = 1
LEADING = ("ddim",)  # samplers that the releases space from the start of each interval
ROUNDED = "dpmpp"  # these stop one step short of timestep 0, at whole timesteps


def alphas_cumprod(sampling_settings: dict) -> Tensor:
    """The share of signal power left at each trained timestep, `[timesteps]`, of a release's `sampling_settings`."""
    schedule, timesteps = sampling_settings["beta_schedule"], sampling_settings["timesteps"]
    start, end = sampling_settings["linear_start"], sampling_settings["linear_end"]
    betas = make_beta_schedule(schedule, timesteps, linear_start=start, linear_end=end)
    return torch.cumprod(1 - betas, dim=0).float()


def release_sigmas(model_sampling, sampler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """`steps + 1` sigmas, from strong noise to 0: evenly spaced timesteps from 999 to 0, or DDIM's own spacing.

    With `denoise` below 1, only the last `steps` of a longer schedule, as the host's samplers do.
    """
    if denoise <= 0.0:
        return torch.zeros(0)
    total = steps if denoise >= 1.0 else int(steps / denoise)
    if sampler in LEADING:
        total = min(total, TIMESTEPS)
        timesteps = (torch.arange(total) * (TIMESTEPS // total)).flip(0).float() + STEPS_OFFSET
    elif sampler.startswith(ROUNDED):
        timesteps = torch.linspace(TIMESTEPS - 1, 0, total + 1, dtype=torch.float64).round()[:-1].float()
    else:
        timesteps = torch.linspace(TIMESTEPS - 1, 0, total)
    sigmas = torch.stack([model_sampling.sigma(t) for t in timesteps])
    return torch.cat([sigmas, sigmas.new_zeros(1)])[-(steps + 1) :]
