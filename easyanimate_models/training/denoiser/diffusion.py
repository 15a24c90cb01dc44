"""What a denoiser learns to predict, by its release: noise (V1 to V3), velocity (V4, V5), or flow (V5.1).

Noise and velocity after Ho et al. 2020 and Salimans & Ho 2022, min-SNR after Hang et al. 2023; flow and its draws of
timesteps after Esser et al. 2024.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from comfy.model_base import ModelType
from torch import Tensor

from ...files.messages import shorten
from ...sampling.schedules import TIMESTEPS, alphas_cumprod

UNIFORM_DRAW, LOGIT_NORMAL = "uniform", "logit_normal"
DRAWS = (UNIFORM_DRAW, LOGIT_NORMAL)
DECISIVE_SHARE = 0.8

Level = TypeVar("Level", float, Tensor)


@dataclass(frozen=True)
class NoiseWeights:
    """How often each noise level is drawn, and how much it counts: the section [noise] of a recipe.

    The weight of the squared error is (1/snr)^power between `least` and `most`, as strong noise decides the layout.
    `min_snr` is the gamma of min-SNR weighting, 0 for none, for noise and velocity. `decisive` is the range of
    timesteps that four of five draws come from, where a wrong prompt costs most. `draw` and `shift` are for flow: how
    timesteps are drawn, and the time shift, 0 for the one that the release samples with.
    """

    least: float = 1.0
    most: float = 1.0
    power: float = 1.0
    decisive: tuple[int, int] | None = None
    min_snr: float = 0.0
    draw: str = UNIFORM_DRAW
    shift: float = 0.0

    def __post_init__(self):
        if self.draw not in DRAWS:
            raise ValueError(f"draw is {shorten(self.draw)}; it must be one of {', '.join(DRAWS)}.")
        for name in ("min_snr", "shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; set it above 0, or to 0 for the default.")

    def weigh(self, signal: Tensor) -> Tensor:
        """The weight of each clip `[B]` by (1/snr)^power, from its share of signal power `[B]`."""
        return ((1 - signal) / signal).pow(self.power).clamp(self.least, self.most)

    def capped_snr(self, snr: Tensor) -> Tensor:
        """min(snr, gamma) / snr, 1 without min-SNR."""
        return (self.min_snr / snr).clamp(max=1.0) if self.min_snr else torch.ones_like(snr)


UNIFORM = NoiseWeights(power=0.0)  # as the original: all timesteps count alike


class Noised(NamedTuple):
    """Noised latents `x` `[B, C, F, H, W]`, what the network is to predict of them, and `timesteps` `[B]`.

    `signal` `[B]` is the share of signal power left in each.
    """

    x: Tensor
    timesteps: Tensor
    target: Tensor
    signal: Tensor


class Prediction(Protocol):
    """One kind of prediction at the noise levels of a release; `name` is that of its error in the metrics."""

    name: str

    def draw(self, count: int, noise: NoiseWeights) -> Tensor:
        """Random noise levels `[count]`, in this prediction's own unit."""

    def level(self, share: float, noise: NoiseWeights) -> float:
        """The noise level at a `share` from 0 (the weakest) to 1, in the same unit."""

    def noised(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noised:
        """Clean latents `[B, C, F, H, W]` with so much of `noise`."""

    def weigh(self, signal: Tensor, noise: NoiseWeights) -> Tensor:
        """The weight of each clip `[B]`, from its share of signal power `[B]`."""


class NoisePrediction:
    """The noise itself; levels are timesteps of a schedule, `alphas_cumprod` `[timesteps]` the signal left at each."""

    name = "eps"

    def __init__(self, alphas_cumprod: Tensor):
        self.alphas_cumprod = alphas_cumprod

    def draw(self, count: int, noise: NoiseWeights) -> Tensor:
        """See `Prediction`; no timestep comes twice while there are enough."""
        if noise.draw != UNIFORM_DRAW or noise.shift:
            raise ValueError("draw and shift in [noise] are for V5.1 and its flow; remove them for this release.")
        timesteps = len(self.alphas_cumprod)
        uniform = torch.randperm(timesteps)[:count] if count <= timesteps else torch.randint(timesteps, (count,))
        if noise.decisive is None:
            return uniform
        return torch.where(torch.rand(count) < 1 - DECISIVE_SHARE, uniform, torch.randint(*noise.decisive, (count,)))

    def level(self, share: float, noise: NoiseWeights) -> int:
        """See `Prediction`."""
        return int(share * len(self.alphas_cumprod))

    def noised(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noised:
        """See `Prediction`."""
        signal = self.alphas_cumprod.to(levels.device)[levels]
        alpha = signal.view(-1, 1, 1, 1, 1)
        x = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        return Noised(x, levels, self._target(clean, noise, alpha), signal)

    def weigh(self, signal: Tensor, noise: NoiseWeights) -> Tensor:
        """See `Prediction`."""
        return noise.weigh(signal) * noise.capped_snr(signal / (1 - signal))

    @staticmethod
    def _target(clean: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
        return noise


class VelocityPrediction(NoisePrediction):
    """The velocity between noise and latents, v = sqrt(alpha) noise - sqrt(1 - alpha) latents."""

    name = "velocity"

    def weigh(self, signal: Tensor, noise: NoiseWeights) -> Tensor:
        """See `Prediction`; an error of v weighs snr + 1 times as much as one of the latents."""
        snr = signal / (1 - signal)
        capped = snr.clamp(max=noise.min_snr) / (snr + 1) if noise.min_snr else torch.ones_like(snr)
        return noise.weigh(signal) * capped

    @staticmethod
    def _target(clean: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


class FlowPrediction:
    """The flow from latents to noise; levels are sigmas, the share of noise in the mix, which `shift` raises.

    `shift` is that of the release's sampling, and the network is told sigma times `multiplier`.
    """

    name = "flow"

    def __init__(self, shift: float, multiplier: float):
        self.shift, self.multiplier = shift, multiplier

    def draw(self, count: int, noise: NoiseWeights) -> Tensor:
        """See `Prediction`; the draws of a batch come from equal parts of the distribution each."""
        u = (torch.randperm(count) + torch.rand(count)) / count
        if noise.draw == LOGIT_NORMAL:
            u = torch.special.ndtri(u).sigmoid()
        if noise.decisive is not None:
            low, high = (timestep / TIMESTEPS for timestep in noise.decisive)
            u = torch.where(torch.rand(count) < DECISIVE_SHARE, low + (high - low) * torch.rand(count), u)
        return self._shifted(u, noise)

    def level(self, share: float, noise: NoiseWeights) -> float:
        """See `Prediction`."""
        return self._shifted(share, noise)

    def _shifted(self, u: Level, noise: NoiseWeights) -> Level:
        shift = noise.shift or self.shift
        return shift * u / (1 + (shift - 1) * u)

    def noised(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noised:
        """See `Prediction`."""
        sigma = levels.view(-1, 1, 1, 1, 1)
        signal = (1 - levels) ** 2 / ((1 - levels) ** 2 + levels**2)
        return Noised((1 - sigma) * clean + sigma * noise, levels * self.multiplier, noise - clean, signal)

    def weigh(self, signal: Tensor, noise: NoiseWeights) -> Tensor:
        """See `Prediction`. Raises `ValueError` for min-SNR, which says nothing of flows."""
        if noise.min_snr:
            raise ValueError("min_snr is for V1 to V5, not for the flow of V5.1; remove it, or set draw instead.")
        return noise.weigh(signal)


class AtLevel:
    """A prediction whose noise level is always that at a `share` of its range, for losses that can be compared."""

    def __init__(self, prediction: Prediction, share: float):
        self.prediction, self.share = prediction, share
        self.name = prediction.name
        self.noised, self.weigh, self.level = prediction.noised, prediction.weigh, prediction.level

    def draw(self, count: int, noise: NoiseWeights) -> Tensor:
        """See `Prediction`."""
        return torch.tensor([self.level(self.share, noise)] * count)


def prediction_of(release) -> Prediction:
    """What the networks of a release (an instance, or the class) predict, at its noise levels."""
    settings = release.sampling_settings
    if release.prediction == ModelType.FLOW:
        return FlowPrediction(settings["shift"], settings["multiplier"])
    kinds = {ModelType.EPS: NoisePrediction, ModelType.V_PREDICTION: VelocityPrediction}
    return kinds[release.prediction](alphas_cumprod(settings))
