"""Preview colours of a VAE: the linear map, by least squares, from its latents to the colours of the pixels below."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...files.release_folder import PREVIEW
from ...vae.video_vae import VideoVAE
from .reconstruct import encode_moments

BATCHES = 16


@torch.no_grad()
def preview_colours(vae: VideoVAE, draw: Callable[[int], Tensor], batches: int = BATCHES) -> dict:
    """What config.json says of the previews of these latents, fitted to so many batches of clips `[B, 3, T, H, W]`."""
    latents, pixels = [], []
    for batch in map(draw, range(batches)):
        encoded = encode_moments(vae, batch)[0] * vae.config.scaling_factor
        latents.append(rows_of(encoded))
        pixels.append(rows_of(below(batch, encoded)))
    return fit_colours(torch.cat(latents), torch.cat(pixels))


def below(pixels: Tensor, latents: Tensor) -> Tensor:
    """The mean colour of the pixels, in space and in time, that each latent stands for."""
    frames, height, width = latents.shape[2:]
    return F.adaptive_avg_pool3d(pixels, (frames, height, width))


def fit_colours(latents: Tensor, colours: Tensor) -> dict:
    """The entries of config.json for latents `[N, C]`, as the sampler sees them, of these colours `[N, 3]`."""
    x = torch.cat([latents, latents.new_ones(len(latents), 1)], dim=1).double()
    solution = torch.linalg.lstsq(x.cpu(), colours.double().cpu()).solution
    rows = [[round(value, 4) for value in row] for row in solution.tolist()]
    return dict(zip(PREVIEW, (rows[:-1], rows[-1]), strict=True))


def rows_of(values: Tensor) -> Tensor:
    """`[B, C, ...]` as `[N, C]`."""
    return values.transpose(0, 1).flatten(1).T
