"""A run of the host's sampler outside of a node, for previews in training and for evaluation."""

import comfy.model_management as mm
import comfy.sample
from torch import Tensor

from .schedules import release_sigmas


def sample_latents(model, prompts: tuple[list, list], empty: Tensor, settings, seed: int | None = None) -> Tensor:
    """Latents sampled by the host, at the noise levels of the releases, from positive and negative `prompts`.

    `settings` have steps, cfg and sampler, and the seed unless one is given.
    """
    sigmas = release_sigmas(model, settings.sampler, settings.steps)
    noise = comfy.sample.prepare_noise(empty, settings.seed if seed is None else seed)
    return comfy.sample.sample(
        model,
        noise,
        settings.steps,
        settings.cfg,
        settings.sampler,
        "normal",
        *prompts,
        empty,
        sigmas=sigmas,
        callback=lambda *_: mm.throw_exception_if_processing_interrupted(),
        disable_pbar=True,
    )
