"""The loss and the PSNR of clips that are held out, at fixed noise, so that only the weights change them."""

import torch
from torch import Tensor

from ..clips.buckets import Bucket
from ..clips.dataset import Item
from ..clips.pixel_batches import PixelBatches
from ..clips.settings import DataSettings
from ..hooks import Validation
from ..journal import PSNR
from ..learner import Metrics
from .objective import LossNetworks, VAEObjective


def vae_validation(
    objective: VAEObjective, held_out: dict[Bucket, list[Item]], data: DataSettings, seed: int, every: int
) -> Validation | None:
    """How the VAE of an `objective` is measured on clips `held_out`; None without any.

    Windows, crops and stills are drawn as in training, always the same. Critics, which learn too, have no say.
    """
    if not held_out:
        return None
    settings, device = objective.settings, next(objective.vae.parameters()).device
    pixels = PixelBatches(held_out, data, seed, settings.stills, settings.crop)
    judges = LossNetworks(objective.networks.perceptual)
    measured = VAEObjective(objective.vae, lambda batch: pixels(batch).to(device), settings, judges)

    def at_fixed_noise(batch: int) -> tuple[Tensor, Metrics]:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed * 1_000_003 + batch)
            return measured(batch)

    return Validation((at_fixed_noise,), pixels.schedule.per_epoch, every, (PSNR,))
