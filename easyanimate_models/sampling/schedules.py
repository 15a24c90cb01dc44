"""The noise levels of the releases: how timesteps and sigmas belong together, and which of them a run steps through."""

from typing import Protocol

import comfy.model_sampling
import torch
from comfy.ldm.modules.diffusionmodules.util import make_beta_schedule
from torch import Tensor

TIMESTEPS = 1000
STEPS_OFFSET = 1
PURE_NOISE = 4096.0  # the sigma that stands for infinity
FLOW_END = 0.001
LEADING = ("ddim",)  # samplers that the releases space from the start of each interval
ROUNDED = "dpmpp"  # these stop one step short of timestep 0, at whole timesteps


class LinearLevels(comfy.model_sampling.ModelSamplingDiscrete):
    """Between two trained noise levels, timestep and sigma go linearly, as in the original; the host would round."""

    def timestep(self, sigma: Tensor) -> Tensor:
        table = self.sigmas.to(sigma)
        high = torch.searchsorted(table, sigma.contiguous()).clamp(1, len(table) - 1)
        low = table[high - 1]
        return (high - 1 + (sigma - low) / (table[high] - low)).clamp(0, len(table) - 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        t = timestep.float().to(self.sigmas.device).clamp(0, len(self.sigmas) - 1)
        low, high = self.sigmas[t.floor().long()], self.sigmas[t.ceil().long()]
        return torch.lerp(low, high, t.frac()).to(timestep.device)


class LinearNoiseLevels(LinearLevels, comfy.model_sampling.EPS):
    """For networks that predict the noise (V1 to V3)."""


class LinearVelocityLevels(LinearLevels, comfy.model_sampling.V_PREDICTION):
    """For networks that predict the velocity between noise and video (V4)."""


class ZeroTerminalLevels(LinearVelocityLevels):
    """The same where training ended in pure noise (V5): the last sigma is that of the original's Euler, 4096."""

    def set_sigmas(self, sigmas: Tensor) -> None:
        sigmas[-1] = PURE_NOISE
        super().set_sigmas(sigmas)


class FlowLevels(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """For networks that predict the flow from video to noise (V5.1)."""


class Schedule(Protocol):
    """How a release spaces its steps."""

    def sigmas(self, model_sampling, sampler: str, steps: int) -> Tensor:
        """That many sigmas or, where the release knows fewer, as many as it has, from strong noise on, without 0."""


class DiscreteSchedule:
    """V1 to V4: evenly spaced timesteps from 999 to 0, or DDIM's own spacing."""

    def sigmas(self, model_sampling, sampler: str, steps: int) -> Tensor:
        """See `Schedule`."""
        return torch.stack([model_sampling.sigma(t) for t in self._timesteps(sampler, steps)])

    def _timesteps(self, sampler: str, steps: int) -> Tensor:
        if sampler in LEADING:
            steps = min(steps, TIMESTEPS)
            return (torch.arange(steps) * (TIMESTEPS // steps)).flip(0).float() + STEPS_OFFSET
        if sampler.startswith(ROUNDED):
            return torch.linspace(TIMESTEPS - 1, 0, steps + 1, dtype=torch.float64).round()[:-1].float()
        return torch.linspace(TIMESTEPS - 1, 0, steps)


class TrailingSchedule:
    """V5: timesteps from 999 on, spaced from the end of each interval."""

    def sigmas(self, model_sampling, sampler: str, steps: int) -> Tensor:
        """See `Schedule`."""
        steps = min(steps, TIMESTEPS)
        timesteps = torch.linspace(TIMESTEPS, 0, steps + 1, dtype=torch.float64)[:-1].round() - 1
        return torch.stack([model_sampling.sigma(t) for t in timesteps.float()])


class FlowSchedule:
    """V5.1: even steps from 1 to 0.001, then shifted as the model sampling says."""

    def sigmas(self, model_sampling, sampler: str, steps: int) -> Tensor:
        """See `Schedule`."""
        return model_sampling.sigma(torch.linspace(1.0, FLOW_END, steps) * model_sampling.multiplier)


def release_sigmas(model, sampler: str, steps: int, denoise: float = 1.0) -> Tensor:
    """`steps + 1` sigmas for a MODEL of ours, from strong noise to 0, as its release spaces them for a sampler.

    With `denoise` below 1, only the last `steps` of a longer schedule, as the host's samplers do.
    """
    if denoise <= 0.0:
        return torch.zeros(0)
    total = steps if denoise >= 1.0 else int(steps / denoise)
    schedule: Schedule = model.model.model_config.schedule
    sigmas = schedule.sigmas(model.get_model_object("model_sampling"), sampler, total)
    return torch.cat([sigmas, sigmas.new_zeros(1)])[-(steps + 1) :]


def alphas_cumprod(sampling_settings: dict) -> Tensor:
    """The share of signal power left at each trained timestep, `[timesteps]`, of a release's `sampling_settings`.

    With `zsnr` in them none is left at the last one (Lin et al. 2023).
    """
    schedule, timesteps = sampling_settings["beta_schedule"], sampling_settings["timesteps"]
    start, end = sampling_settings["linear_start"], sampling_settings["linear_end"]
    betas = make_beta_schedule(schedule, timesteps, linear_start=start, linear_end=end)
    signal = torch.cumprod(1 - betas, dim=0)
    if sampling_settings.get("zsnr"):
        amplitude = signal.sqrt()
        first, last = amplitude[0], amplitude[-1]
        signal = ((amplitude - last) * first / (first - last)).square()
    return signal.float()
