"""What tests of training share."""

import pytest
import torch

from support.pack import part

sd = part("easyanimate_models.sd")
host = part("easyanimate_models.host")
TINY = part("easyanimate_models.files.model_files").TINY


@pytest.fixture
def gradients():
    """Something learns, and the host knows it; other tests run without gradients."""
    with torch.enable_grad(), host.training():
        yield


@pytest.fixture(scope="module")
def models():
    """The built-in transformer, text encoder and VAE."""
    return sd.load_transformer(TINY), sd.load_text_encoder(TINY), sd.load_vae(TINY)


@pytest.fixture(scope="module")
def encoders(models):
    """The built-in text encoder and VAE."""
    return models[1:]
