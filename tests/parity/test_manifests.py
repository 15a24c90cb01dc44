"""Every released file of V1 to V3 is recognised, and our networks have exactly its weights, by name and shape."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import comfy.ops
import pytest
import torch
from conftest import GOLDEN, part

detection = part("easyanimate_models.model_detection")
checkpoint = part("easyanimate_models.files.checkpoint")
motion_files = part("easyanimate_models.names.motion_module")
sd = part("easyanimate_models.sd")
t5 = part("easyanimate_models.text_encoders.t5")
MotionDiT = part("easyanimate_models.dit.motion_dit").MotionDiT
IGNORED = part("easyanimate_models.supported_models").MotionRelease.ignored
META = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}


def released(name: str, with_config: bool = True) -> checkpoint.Checkpoint:
    """A released file with the shapes of its weights and nothing in them."""
    with gzip.open(GOLDEN / "manifests" / f"{name}.json.gz") as file:
        manifest = json.load(file)
    tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in manifest["keys"].items()}
    return checkpoint.Checkpoint(Path(name), tensors, manifest["config"] if with_config else {}, {})


def assert_holds_exactly(config, file: checkpoint.Checkpoint) -> None:
    """Nothing missing, nothing left over, every shape equal."""
    network = MotionDiT(config, **META)
    assert set(checkpoint.require_fit(network, file, "transformer", IGNORED)) == set(network.state_dict())


def attentions(config) -> list[tuple[str, ...]]:
    return [kind.attentions for kind in config.motion]


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("size", [512, 768, 960])
def test_v3_transformers(size, with_config):
    file = released(f"v3_xl_2_inp_{size}_transformer", with_config)
    release = detection.detect_transformer(file)
    config = release.unet_config["config"]
    assert_holds_exactly(config, file)
    assert type(release).__name__ == "EasyAnimateV3"
    assert (config.depth, config.width, config.heads, config.in_channels) == (28, 1152, 16, 12)
    assert (config.skips.stored, config.skips.start, config.sample_size) == (13, 15, 64)
    assert attentions(config) == [("temporal", "temporal"), ("temporal", "global")]
    assert [kind.heads for kind in config.motion] == [16, 16]


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize("size", [512, 768])
def test_v2_transformers(size, with_config):
    file = released(f"v2_xl_2_{size}_transformer", with_config)
    release = detection.detect_transformer(file)
    config = release.unet_config["config"]
    assert_holds_exactly(config, file)
    assert type(release).__name__ == "EasyAnimateV2"
    assert (config.depth, config.width, config.heads, config.in_channels) == (28, 1152, 16, 4)
    assert (config.skips.stored, config.skips.start, config.sample_size) == (13, 15, 64)
    assert attentions(config) == [("temporal", "temporal")] and config.motion[0].heads == 8


PIXART_CONFIG = {"sample_size": 64, "in_channels": 4, "out_channels": 8, "num_attention_heads": 16, "num_layers": 28}


@pytest.mark.parametrize("config", [PIXART_CONFIG, {}], ids=["PixArt's config", "no config"])
@pytest.mark.parametrize("motion_config", [True, False])
def test_v1_in_two_files_or_in_one(config, motion_config):
    base = replace(released("v1_base_transformer_pixart_xl2_512", False), config=config)
    motion = released("v1_motion_module", motion_config)
    whole = motion_files.with_motion_module(base, motion)
    assert set(whole.tensors) == set(base.tensors) | set(motion.tensors)
    release = detection.detect_transformer(whole)
    found = release.unet_config["config"]
    assert_holds_exactly(found, whole)
    assert type(release).__name__ == "EasyAnimateV1"
    assert (found.depth, found.width, found.heads, found.in_channels, found.skips) == (28, 1152, 16, 4, None)
    assert attentions(found) == [("grid", "grid")] and found.motion[0].heads == 8 and found.sample_size == 64


@pytest.mark.parametrize("with_config", [True, False])
def test_the_v1_base_alone_is_an_image_model(with_config):
    file = released("v1_base_transformer_pixart_xl2_512", with_config)
    release = detection.detect_transformer(file)
    assert_holds_exactly(release.unet_config["config"], file)
    assert type(release).__name__ == "EasyAnimateV1" and release.unet_config["config"].motion == ()


@pytest.mark.parametrize(
    ("name", "with_config", "release"),
    [
        ("v1_vae_sd_kl", True, "EasyAnimateV1"),
        ("v1_vae_sd_kl", False, "EasyAnimateV1"),
        ("v2_vae", True, "EasyAnimateV2"),
        ("v3_vae", True, "EasyAnimateV3"),
        ("v3_vae", False, "EasyAnimateV3"),  # V2's and V4's have the same names and shapes
    ],
)
def test_vaes(name, with_config, release):
    file = released(name, with_config)
    found = detection.detect_vae(file)
    network = found.release.vae(found.config, **META)
    assert found.release.__name__ == release
    assert set(checkpoint.require_fit(network, file, "VAE", sd.TRAINING_LEFTOVERS)) == set(network.state_dict())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v4_xl_2_inp_transformer", "is an EasyAnimate V4 transformer, not"),
        ("v5_7b_t2v", "is an EasyAnimate V5 transformer, not"),
        ("v51_7b_t2v", "is an EasyAnimate V5.1 transformer, not"),
        ("v1_motion_module", "choose the PixArt base as transformer and this file as motion_module"),
    ],
)
@pytest.mark.parametrize("with_config", [True, False])
def test_other_transformers_are_named(name, said, with_config):
    with pytest.raises(checkpoint.CheckpointError, match=said):
        detection.detect_transformer(released(name, with_config))


@pytest.mark.parametrize(
    ("name", "with_config", "said"),
    [
        ("v4_vae", True, "is an EasyAnimate V4 VAE"),
        ("v5_v51_vae", True, "is an EasyAnimate V5 or V5.1 VAE"),
        ("v5_v51_vae", False, "is an EasyAnimate V5 or V5.1 VAE"),
    ],
)
def test_other_vaes_are_named(name, with_config, said):
    with pytest.raises(checkpoint.CheckpointError, match=said):
        detection.detect_vae(released(name, with_config))


def test_t5_xxl():
    file = detection.with_our_names(released("text_encoder_t5_v1_1_xxl"), detection.TEXT_ENCODERS)
    network = detection.detect_text_encoder(file).skeleton()
    assert set(checkpoint.require_fit(network, file, "T5")) == set(network.state_dict())
