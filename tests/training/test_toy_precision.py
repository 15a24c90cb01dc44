"""The tiny model's stages run in bfloat16, too: on machines that are fast in it they do."""

import random

import pytest
import torch

from support.pack import part

tiny = part("easyanimate_models.training.toy.tiny")
precision = part("easyanimate_models.training.precision")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that goes on from the shipped weights, with latents of two clips."""
    monkeypatch.setattr(precision, "has_fast_bfloat16", lambda device: True)
    tiny.restore(tmp_path)
    latents = {"clips": torch.randn(2, 4, 6, 8, 8).half(), "stills": torch.randn(4, 4, 1, 8, 8).half()}
    numbers = {"scene": torch.tensor([0, 1]), "mean": torch.zeros(4), "deviation": torch.ones(4)}
    tiny.write_safetensors(tmp_path / "latents.safetensors", latents | numbers)
    return tmp_path


def test_images_of_half_precision_latents_are_drawn_under_autocast(run):
    with precision.autocast("auto", torch.device("cpu")):
        batch = tiny.LatentBatches(run).images(2, random.Random(0))
    assert batch.latents.dtype == torch.float32 and batch.latents.shape == (2, 4, 1, 8, 8)


def test_the_image_stage_trains_in_bfloat16(run):
    with torch.enable_grad():
        tiny.train_images(run, steps=1, batch=2)
    assert (run / "images.safetensors").exists()
