"""Every released file is recognised, and our networks have exactly its weights, by name and shape.

Manifests hold the names and shapes of released files, and their config.json; they are found by listing.
"""

import json
from dataclasses import replace
from pathlib import Path

import comfy.clip_model
import comfy.clip_vision
import comfy.ops
import pytest
import torch

from support.pack import part
from support.recorded import RECORDED, each, manifest
from support.tiny_text_encoders import spiece

detection = part("easyanimate_models.model_detection")
checkpoint = part("easyanimate_models.files.checkpoint")
motion_files = part("easyanimate_models.names.motion_module")
sd = part("easyanimate_models.sd")
encoders = part("easyanimate_models.model_detection.encoders")
MotionDiT = part("easyanimate_models.dit.motion_dit").MotionDiT
IGNORED = part("easyanimate_models.supported_models").MotionRelease.ignored
META = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}
SUPPORTED = ("v1", "v2", "v3")
OF_PIXART = ("sample_size", "in_channels", "out_channels", "num_attention_heads", "num_layers")  # in its config.json
IMAGE, MOTION = "pos_embed.proj.weight", ".attn_temporal."  # of transformers
CLIP_CONFIGS = ("clip_vision_config_vitl.json", None)  # the host's own, and that of the release


def names(kind: str) -> list[str]:
    """Manifests of a reference class, such as "T5EncoderModel"."""
    files = sorted((RECORDED / "manifests").glob("*.json.gz"))
    found = [file.name.removesuffix(".json.gz") for file in files]
    return [name for name in found if manifest(name)["reference_class"].endswith(kind)]


def release_of(name: str) -> str:
    """ "v3" of `v3_vae`."""
    return name.split("_")[0]


def release_of_vae(name: str) -> str:
    """V5.1's VAE is the one of 16 channels without attention, whatever the manifest is called."""
    return "v51" if release_of(name) == "v5" and not has(name, ".attentions.") else release_of(name)


def supported(kind: str) -> list[str]:
    return [name for name in names(kind) if release_of(name) in SUPPORTED]


def has(name: str, part_of_key: str) -> bool:
    return any(part_of_key in key for key in manifest(name)["keys"])


TRANSFORMERS = [n for n in supported("Transformer3DModel") if has(n, IMAGE) and has(n, MOTION)]
V1_BASES = [n for n in supported("Transformer3DModel") if not has(n, MOTION)]
V1_MOTION = [n for n in supported("Transformer3DModel") if not has(n, IMAGE)]
MMDITS = names("EasyAnimateTransformer3DModel")
VAES = names("AutoencoderKL") + names("AutoencoderKLMagvit")
OF_T5 = [n for n in names("T5EncoderModel") if "mt5" not in n]
PAIRS = [(bert, mt5) for bert in names("BertModel") for mt5 in names("T5EncoderModel") if mt5 not in OF_T5]

with_config_or_not = pytest.mark.parametrize("with_config", [True, False], ids=["config", "no config"])


def released(name: str, with_config: bool = True) -> checkpoint.Checkpoint:
    """A released file with the shapes of its weights and nothing in them."""
    tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in manifest(name)["keys"].items()}
    return checkpoint.Checkpoint(Path(name), tensors, manifest(name)["config"] if with_config else {}, {})


def assert_holds_exactly(config, file: checkpoint.Checkpoint) -> None:
    """Nothing missing, nothing left over, every shape equal."""
    network = MotionDiT(config, **META)
    assert set(checkpoint.require_fit(network, file, "transformer", IGNORED)) == set(network.state_dict())


def assert_is(config, expected: dict) -> None:
    """The sizes of a network's config are those of a config.json."""
    assert (config.depth, config.width) == (expected["num_layers"], expected["cross_attention_dim"])
    assert (config.heads, config.in_channels) == (expected["num_attention_heads"], expected["in_channels"])
    assert config.sample_size == expected["sample_size"]


def assert_moves_as(config, expected: dict) -> None:
    """The motion modules of a network's config are those of a config.json."""
    kinds = [expected[key] for key in sorted(expected) if key.startswith("motion_module_kwargs")]
    temporal = "grid" if expected["motion_module_type"] == "VanillaGrid" else "temporal"
    words = {"Temporal_Self": temporal, "Global_Self": "global"}
    attentions = [tuple(words[word] for word in kind["attention_block_types"]) for kind in kinds]
    assert [kind.attentions for kind in config.motion] == attentions
    assert [kind.heads for kind in config.motion] == [kind["num_attention_heads"] for kind in kinds]


def assert_is_release(release, name: str) -> None:
    assert release.__name__ == f"EasyAnimate{release_of(name).upper()}"


@with_config_or_not
@each("name", TRANSFORMERS)
def test_transformers(name, with_config):
    file = released(name, with_config)
    release = detection.detect_transformer(file)
    config = release.unet_config["config"]
    assert_holds_exactly(config, file)
    assert_is_release(type(release), name)
    assert_is(config, manifest(name)["config"])
    assert_moves_as(config, manifest(name)["config"])
    skips = sum(key.startswith("long_connect_fc.") and key.endswith(".weight") for key in file.tensors)
    assert (config.skips.stored, config.skips.start) == (skips, config.depth - skips)


@pytest.mark.parametrize("pixart_config", [True, False], ids=["PixArt's config", "no config"])
@pytest.mark.parametrize("motion_config", [True, False])
@each("base, motion", [(base, motion) for base in V1_BASES for motion in V1_MOTION])
def test_v1_in_two_files_or_in_one(base, motion, pixart_config, motion_config):
    expected = manifest(base)["config"]
    config = {key: expected[key] for key in OF_PIXART} if pixart_config else {}
    image, modules = replace(released(base, False), config=config), released(motion, motion_config)
    whole = motion_files.with_motion_module(image, modules)
    assert set(whole.tensors) == set(image.tensors) | set(modules.tensors)
    release = detection.detect_transformer(whole)
    found = release.unet_config["config"]
    assert_holds_exactly(found, whole)
    assert_is_release(type(release), base)
    assert found.skips is None
    assert_is(found, expected)
    assert_moves_as(found, expected)


@with_config_or_not
@each("name", V1_BASES)
def test_the_v1_base_alone_is_an_image_model(name, with_config):
    file = released(name, with_config)
    release = detection.detect_transformer(file)
    assert_holds_exactly(release.unet_config["config"], file)
    assert_is_release(type(release), name)
    assert release.unet_config["config"].motion == ()


@with_config_or_not
@each("name", MMDITS)
def test_transformers_of_v5_and_v51(name, with_config):
    file, expected = released(name, with_config), manifest(name)["config"]
    release = detection.detect_transformer(file)
    network = release.network(release.config, **META)
    assert set(checkpoint.require_fit(network, file, "transformer")) == set(network.state_dict())
    assert_is_release(type(release), name)
    assert {**expected, **release.config_json(release.config)}.items() >= expected.items()
    variants = {"t2v": None, "inp": "InP", "control": "Control", "control_camera": "Camera"}
    assert getattr(release.variant, "name", None) == variants[name.split("_", 2)[2]]


@with_config_or_not
@each("name", VAES)
def test_vaes(name, with_config):
    """Without a config.json V2's and V4's count as V3's, which has the same names and shapes."""
    file = released(name, with_config)
    found = detection.detect_vae(file)
    network = found.release.vae(found.config, **META)
    alike = not with_config and release_of(name) in ("v2", "v4")
    assert_is_release(found.release, "v3" if alike else release_of_vae(name))
    assert set(checkpoint.require_fit(network, file, "VAE", sd.TRAINING_LEFTOVERS)) == set(network.state_dict())


@with_config_or_not
@each("name", V1_MOTION)
def test_a_motion_module_alone_is_named(name, with_config):
    message = "choose the PixArt base as transformer and this file as motion_module"
    with pytest.raises(checkpoint.CheckpointError, match=message):
        detection.detect_transformer(released(name, with_config))


@each("name", OF_T5)
def test_t5(name):
    file = detection.with_our_names(released(name), detection.TEXT_ENCODERS)
    (network,) = detection.detect_text_encoder(file).skeletons()
    assert set(checkpoint.require_fit(network, file, "T5")) == set(network.state_dict())


@with_config_or_not
@each("bert, mt5", PAIRS)
def test_bert_and_mt5(bert, mt5, with_config):
    files = [detection.with_our_names(released(n, with_config), detection.TEXT_ENCODERS) for n in (bert, mt5)]
    files[1].tensors["spiece_model"] = torch.frombuffer(bytearray(spiece()), dtype=torch.uint8)
    encoder = encoders.detect_bert_mt5(*files, encoders.prompt_rules("V4", files[1], {}))
    for network, file in zip(encoder.skeletons(), files, strict=True):
        assert set(checkpoint.require_fit(network, file, encoder.name, encoder.ignored)) == set(network.state_dict())


@each("mt5", [mt5 for _, mt5 in PAIRS])
def test_mt5_alone_is_not_taken_for_t5(mt5):
    file = detection.with_our_names(released(mt5), detection.TEXT_ENCODERS)
    with pytest.raises(checkpoint.CheckpointError, match="is mT5, the second text encoder of V4 and V5; choose BERT"):
        detection.detect_text_encoder(file)


@pytest.mark.parametrize("config", CLIP_CONFIGS)
@each("name", names("CLIPVisionModelWithProjection"))
def test_the_image_encoder_has_the_weights_of_the_host_network(name, config):
    file = released(name)
    sizes = json.loads(Path(comfy.clip_vision.__file__).with_name(config).read_text()) if config else file.config
    network = comfy.clip_model.CLIPVisionModelProjection(sizes, torch.float32, "meta", comfy.ops.manual_cast)
    fitting = checkpoint.require_fit(network, file, "CLIP", sd.POSITION_NUMBERS)
    assert set(fitting) == set(network.state_dict())
