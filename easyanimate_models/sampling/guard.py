"""Checks around every run of our models, whichever node samples: what would end in noise or NaN is named at its cause.

They hang on the MODEL as wrappers of the host's, so stock samplers have them too.
"""

import logging
from dataclasses import dataclass, field

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..vae.masks import latent_mask
from ..vae.slicing import TimePlan
from . import guidance
from .long_video import with_any_batch

KEY = "easyanimate_guard"
SET_BY = (  # the host's kinds of model sampling, and the nodes that set them
    ("ModelSamplingFlux", "ModelSamplingFlux"),
    ("ModelSamplingDiscreteFlow", "ModelSamplingSD3 or ModelSamplingAuraFlow"),
    ("ModelSamplingCosmosRFlow", "ModelSamplingContinuousEDM"),
    ("ModelSamplingContinuousV", "ModelSamplingContinuousV"),
    ("ModelSamplingContinuousEDM", "ModelSamplingContinuousEDM"),
    ("StableCascadeSampling", "ModelSamplingStableCascade"),
    ("ModelSamplingDiscrete", "ModelSamplingDiscrete"),
)
RESIZED_BY_HOST = (
    "The mask changes from frame to frame: ComfyUI's own samplers resize it in time and drop some of its frames; "
    "EasyAnimate Sampler takes them all."
)
HALF = (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)


def guarded(patcher):
    """The host's MODEL with these checks around its runs."""
    run = _Run()
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run.sample)
    patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, run.predict)
    return patcher


@dataclass
class _Run:
    """One run at a time: whether what went into each step, and what came out, was finite (read only if need be)."""

    finite: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def sample(self, executor, noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor, mask=None, *args, **kw):
        """Around a whole run: the model sampling, noise levels and mask that go in, the latents that come out."""
        patcher = executor.class_obj.model_patcher
        require_model_sampling(patcher.get_model_object("model_sampling"), patcher.model.model_config)
        sigmas = without_repeats(sigmas)
        if mask is not None:
            mask = fitted_mask(mask, patcher.model.model_config.vae.plan, noise.shape)
        options = executor.class_obj.model_options  # of this run
        if options.get("context_handler") is not None:
            options["context_handler"] = with_any_batch(options["context_handler"])
        guidance.with_any_batch(options)
        self.finite = []
        try:
            samples = executor(noise, latent_image, sampler, sigmas, mask, *args, **kw)
            if not samples.isfinite().all():
                raise ValueError(self._cause(sampler, patcher))
            return samples
        finally:
            self.finite = []

    def predict(self, executor, x: Tensor, sigma: Tensor, *args, **kwargs) -> Tensor:
        """Around one step."""
        denoised = executor(x, sigma, *args, **kwargs)
        self.finite.append((x.isfinite().all(), denoised.isfinite().all()))
        return denoised

    def _cause(self, sampler, patcher) -> str:
        steps = [(bool(before), bool(after)) for before, after in self.finite]
        step = next((i for i, both in enumerate(steps, 1) if not all(both)), len(steps))
        name = getattr(getattr(sampler, "sampler_function", None), "__name__", "The sampler").removeprefix("sample_")
        if steps and steps[step - 1] == (True, False):
            dtype = patcher.model.manual_cast_dtype or patcher.model_dtype()
            advice = "load it in bf16 or fp32" if dtype in HALF else "lower cfg, or the strength of LoRAs"
            return f"The transformer's values overflowed at step {step} of {len(steps)} (NaN); {advice}."
        return (
            f"{name} produced NaN at step {step} of {len(steps)} from valid predictions of the transformer; "
            "choose another sampler or scheduler."
        )


def fitted_mask(mask: Tensor, plan: TimePlan, latents: torch.Size) -> Tensor:
    """A mask for latents of this shape, see `latent_mask`; 0.33 has resized it already, mixing or dropping frames."""
    if mask.shape != latents:
        return latent_mask(mask, plan, latents)
    if not torch.equal(mask, mask[:, :, :1].expand_as(mask)):
        logging.warning(RESIZED_BY_HOST)
    return mask


def require_model_sampling(model_sampling, release) -> None:
    """Raise `ValueError` when a node made the host sample for another kind of model than the release is."""
    levels, own = (_levels(kind) for kind in (type(model_sampling), release.noise_levels))
    if levels == own:
        return
    node = dict(SET_BY).get(levels, type(model_sampling).__name__)
    raise ValueError(
        f"{node} is connected to this model, which makes the sampler treat it as another kind of model than "
        f"EasyAnimate {release.latent_format.release} is; take that node out."
    )


def _levels(model_sampling: type) -> str:
    """The host's kind of noise levels that a model sampling has; "" for none of them."""
    names = {base.__name__ for base in model_sampling.__mro__}
    return next((kind for kind, _ in SET_BY if kind in names), "")


def without_repeats(sigmas: Tensor) -> Tensor:
    """Noise levels, each once: between two equal ones there is nothing to do, and some samplers divide by the step."""
    if not sigmas.isfinite().all():
        raise ValueError(
            "The noise levels given are not numbers (NaN); choose another scheduler, or other settings of it."
        )
    if len(sigmas) < 2:
        return sigmas
    changes = torch.cat([torch.ones(1, dtype=torch.bool), sigmas.cpu().diff() != 0])
    if not changes.all():
        logging.warning("%d of %d steps repeat a noise level and are left out.", int((~changes).sum()), len(sigmas) - 1)
    return sigmas[changes.to(sigmas.device)]
