"""Live previews of the built-in model: what a step shows has the colours of the video."""

import random

import latent_preview
import pytest
import torch
from comfy.cli_args import args

from support.pack import part

sd = part("easyanimate_models.sd")
shapes = part("easyanimate_models.training.toy.shapes")
TINY = part("easyanimate_models.files.model_files").TINY


@pytest.fixture(scope="module")
def vae():
    return sd.load_vae(TINY)


@pytest.mark.parametrize("folder", ["transformer", "transformer_inp"])
def test_a_ball_has_its_colour_in_the_preview(vae, monkeypatch, folder):
    monkeypatch.setattr(args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    latent_format = sd.load_transformer(TINY / folder).model.latent_format
    previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
    for colour in shapes.COLOURS:
        scene = shapes.Scene("circle", colour, "black", "stay")
        pixels, paths = shapes.render([scene], random.Random(3), 8)
        latents = vae.encode(pixels[0].permute(1, 2, 3, 0) / 2 + 0.5)
        picture = previewer.decode_latent_to_preview(latent_format.process_in(latents))
        x, y, _ = (paths[0, 0] / 8).int().tolist()
        assert nearest(picture.getpixel((x, y))) == colour
        assert nearest(picture.getpixel(((x + 4) % 8, (y + 4) % 8))) == "black"


def nearest(pixel: tuple[int, int, int]) -> str:
    """The colour that a pixel is most like."""
    known = shapes.COLOURS | shapes.BACKGROUNDS
    return min(known, key=lambda name: sum((a - b) ** 2 for a, b in zip(pixel, known[name], strict=True)))
