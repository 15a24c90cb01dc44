"""Every released V3 file is recognised, and our networks have exactly its weights (names and shapes, no memory)."""

import gzip
import json
from pathlib import Path

import comfy.ops
import pytest
import torch
from conftest import GOLDEN, part

detection = part("easyanimate_models.model_detection")
checkpoint = part("easyanimate_models.checkpoint")
sd = part("easyanimate_models.sd")
t5 = part("easyanimate_models.text_encoders.t5")
MotionDiT = part("easyanimate_models.dit.motion_dit").MotionDiT
SliceVAE = part("easyanimate_models.vae.slice_vae").SliceVAE
META = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}


def released(name: str, with_config: bool = True) -> checkpoint.Checkpoint:
    """A released file with the shapes of its weights and nothing in them."""
    with gzip.open(GOLDEN / "manifests" / f"{name}.json.gz") as file:
        manifest = json.load(file)
    tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in manifest["keys"].items()}
    return checkpoint.Checkpoint(Path(name), tensors, manifest["config"] if with_config else {}, {})


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("size", [512, 768, 960])
def test_v3_transformers(size, with_config):
    file = released(f"v3_xl_2_inp_{size}_transformer", with_config)
    config = detection.detect_transformer(file).unet_config["config"]
    network = MotionDiT(config, **META)
    fitting = checkpoint.require_fit(network, file, "transformer", sd.CONSTANT_TABLES)
    assert set(fitting) == set(network.state_dict())
    assert (config.depth, config.width, config.heads, config.in_channels) == (28, 1152, 16, 12)
    assert (config.skips.stored, config.skips.start, config.sample_size) == (13, 15, 64)
    assert [kind.attentions for kind in config.motion] == [("temporal", "temporal"), ("temporal", "global")]


@pytest.mark.parametrize("with_config", [True, False])
def test_v3_vae(with_config):
    file = released("v3_vae", with_config)
    network = SliceVAE(detection.detect_vae(file), **META)
    assert set(checkpoint.require_fit(network, file, "VAE", sd.TRAINING_LEFTOVERS)) == set(network.state_dict())


def test_t5_xxl():
    file = sd.with_one_vocabulary(released("text_encoder_t5_v1_1_xxl"))
    network = t5.t5_skeleton(detection.detect_t5(file))
    assert set(checkpoint.require_fit(network, file, "T5")) == set(network.state_dict())
