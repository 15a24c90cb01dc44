"""What memory and time are measured on: videos of every length, decoded, encoded, or made from noise."""

from collections.abc import Callable

import comfy.sample
import torch

from easyanimate_models.files.model_files import TINY
from easyanimate_models.sampling.long_video import in_windows
from easyanimate_models.sampling.schedules import release_sigmas
from easyanimate_models.sd import load_transformer, load_vae
from easyanimate_models.vae.slicing import SLICES

LENGTHS = (16, 144, 577)
WINDOWED = (32, 144)  # frames in several windows; a single one is sampled without any

Work = Callable[[int, int], Callable[[], object]]  # for so many frames of this side


def decoding(frames: int, side: int) -> Callable[[], object]:
    """Decodes `frames` frames."""
    vae = load_vae(TINY)
    z = torch.randn(1, 4, vae.plan.latents_for(frames), side // 8, side // 8)
    return lambda: vae.decode(z)


def encoding(frames: int, side: int) -> Callable[[], object]:
    """Encodes `frames` frames."""
    vae = load_vae(TINY)
    pixels = torch.rand(frames, side, side, 3)
    return lambda: vae.encode(pixels)


def windows(frames: int, side: int) -> Callable[[], object]:
    """From noise to images; two steps, context windows of 16 frames."""
    vae, model = load_vae(TINY), load_transformer(TINY)
    model = in_windows(model, 16, 0, SLICES)
    sigmas = release_sigmas(model, "euler", 2)
    text = [[torch.randn(1, 8, 32), {}]]
    empty = torch.zeros(1, 4, vae.plan.latents_for(frames), side // 8, side // 8)

    def run() -> None:
        noise = comfy.sample.prepare_noise(empty, 0)
        z = comfy.sample.sample(
            model, noise, 2, 2.0, "euler", "normal", text, text, empty, sigmas=sigmas, disable_pbar=True
        )
        vae.decode(z)

    return run
