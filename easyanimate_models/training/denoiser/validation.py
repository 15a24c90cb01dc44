"""The loss on clips that are held out, at fixed noise and fixed noise levels, so that only the weights change it."""

from dataclasses import replace
from typing import Any

import torch

from ..clips.latent_cache import EncodeTexts, LatentDataset
from ..clips.settings import DataSettings
from ..hooks import Validation
from .diffusion import AtLevel, prediction_of
from .objective import denoising_objective, on_device, scaled
from .run import DenoiserRun

LEVELS = (0.125, 0.375, 0.625, 0.875)  # of the range of noise levels


def validation_of(
    encoded: LatentDataset,
    data: DataSettings,
    run: DenoiserRun,
    model,
    network: Any,
    device: torch.device,
    encode_texts: EncodeTexts | None = None,
) -> Validation | None:
    """How `network`, that of a MODEL, is measured on the clips of `encoded` that are held out; None without any.

    All captions and start images are given.
    """
    held_out = encoded.part(held_out=True)
    if not held_out.examples:
        return None
    seed = run.plan.seed
    drawn = held_out.batches(data.batch, seed, 0.0, 0.0, encode_texts, data.tag_order)
    draw_batch = on_device(scaled(drawn, model), device)
    prediction = prediction_of(model.model.model_config)
    settings = replace(run.objective, checkpointing=False, blocks_to_swap=0)  # which matter to a gradient
    objectives = [
        denoising_objective(network, draw_batch, AtLevel(prediction, share), settings, seed) for share in LEVELS
    ]
    batches = sum(-(-len(few) // data.batch) for few in held_out.examples.values())
    return Validation(tuple(objectives), batches, run.validation.every)
