"""Files of V5 and V5.1 transformers: every layout they come in, and what is refused, in a sentence."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import comfy.model_base
import comfy.sd
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.components import predict, scaled_fp8, write_component
from support.mmdit import in_diffusers_names, recorded_component
from support.pack import part
from support.recorded import GOLDEN, golden

sd = part("easyanimate_models.sd")
checkpoints = part("easyanimate_models.files.checkpoint")
detection = part("easyanimate_models.model_detection")
mmdit_detection = part("easyanimate_models.model_detection.mmdit")
supported_models = part("easyanimate_models.supported_models")
CheckpointError = checkpoints.CheckpointError
V51, V5 = "v51_transformer/t2v_qwen", "v5_transformer/t2v_bert_t5"
RECORDED = [V51, "v51_transformer/inp_qwen", "v51_transformer/control_qwen", "v51_transformer/camera_qwen"]
ONLY_ORIGINAL = (
    "after_norm",
    "enable_clip_in_inpaint",
    "time_position_encoding_type",
    "add_ref_latent_in_control_model",
)


@pytest.fixture(autouse=True)
def _runs(monkeypatch):
    """The host's own model around the network, until the release names one."""
    if not hasattr(supported_models.MMDiTRelease, "model_class"):
        flow = comfy.model_base.ModelType.FLOW

        def model(release, device=None):
            return comfy.model_base.BaseModel(release, flow, device=device, unet_model=release.network)

        monkeypatch.setattr(supported_models.MMDiTRelease, "model_class", staticmethod(model), raising=False)


def changed(name: str, folder: Path, tensors: dict | None = None, **config) -> Path:
    """A recorded transformer with other tensors (None: without), or another config.json (None: without)."""
    found = golden(name)
    weights = {k: v for k, v in {**found.weights, **(tensors or {})}.items() if v is not None}
    settings = {k: v for k, v in {**found.config["constructor"], **config}.items() if v is not ...}
    return write_component(folder, weights, settings)


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        sd.load_transformer(path)
    message = str(error.value)
    assert path.name in message and re.fullmatch(r"[^\n]{30,400}\.", message)
    return message


# --- layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_a_transformer_of_diffusers_comes_back_under_our_names(name, tmp_path):
    weights, constructor = golden(name).weights, golden(name).config["constructor"]
    theirs = in_diffusers_names(weights)
    assert set(theirs) != set(weights) and not any(".attn2." in key for key in theirs)
    config = {k: v for k, v in constructor.items() if k not in ONLY_ORIGINAL}
    loaded = sd.load_transformer(write_component(tmp_path / "transformer", theirs, config), weight_dtype="fp32")
    ours = loaded.model.diffusion_model.state_dict()
    assert set(ours) == set(weights) and all(torch.equal(ours[key], tensor) for key, tensor in weights.items())


@pytest.mark.parametrize("name", [V51, V5])
def test_a_transformer_loads_without_a_config(name, tmp_path):
    folder = recorded_component(tmp_path / "with", name)
    expected = sd.load_transformer(folder).model.diffusion_model.config
    (folder / "config.json").unlink()
    assert sd.load_transformer(folder).model.diffusion_model.config == expected


def test_the_prefix_of_the_host_is_taken_off(tmp_path):
    tensors = {f"model.diffusion_model.{key}": tensor for key, tensor in golden(V51).weights.items()}
    save_file(tensors, tmp_path / "single.safetensors")
    loaded = sd.load_transformer(tmp_path / "single.safetensors", weight_dtype="fp32")
    assert set(loaded.model.diffusion_model.state_dict()) == set(golden(V51).weights)


@pytest.mark.parametrize("name", RECORDED)
def test_a_model_saved_by_the_host_comes_back_without_any_config(name, tmp_path):
    constructor = golden(name).config["constructor"] | {"norm_eps": 1e-4}  # which no tensor shows
    before = sd.load_transformer(write_component(tmp_path / "t", golden(name).weights, constructor))
    saved = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(saved), before, metadata={})
    after = sd.load_transformer(saved)
    assert type(after.model.model_config) is type(before.model.model_config)
    assert after.model.diffusion_model.config == before.model.diffusion_model.config
    weights = after.model.diffusion_model.state_dict()
    assert all(torch.equal(weights[key], tensor) for key, tensor in before.model.diffusion_model.state_dict().items())


def close(ours: torch.Tensor, theirs: torch.Tensor, error: float) -> bool:
    return bool((ours - theirs).norm() <= error * theirs.norm())


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float16, 2e-3), (torch.bfloat16, 3e-2), (torch.float8_e4m3fn, 0.2)]
)
def test_files_of_any_precision_predict_alike(dtype, error, tmp_path):
    exact = predict(sd.load_transformer(recorded_component(tmp_path / "exact", V51)))
    small = changed(V51, tmp_path / "small", {k: v.to(dtype) for k, v in golden(V51).weights.items()})
    assert close(predict(sd.load_transformer(small)), exact, error)


@pytest.mark.parametrize("marker", [0, 2], ids=["fast", "full precision"])
def test_scaled_fp8_predicts_like_float32(marker, tmp_path):
    exact = predict(sd.load_transformer(recorded_component(tmp_path / "exact", V51)))
    small = scaled_fp8(golden(V51).weights, "scale_weight")
    assert any(tensor.dtype == torch.float8_e4m3fn for tensor in small.values())
    small["scaled_fp8"] = torch.zeros(marker, dtype=torch.float8_e4m3fn)
    assert close(predict(sd.load_transformer(changed(V51, tmp_path / "fp8", small))), exact, 0.2)


def test_a_lora_of_the_original_reaches_every_layer(tmp_path):
    names = part("easyanimate_models.lora").transformer_names(
        sd.load_transformer(recorded_component(tmp_path / "t", V51)).model
    )
    layers = {k.removesuffix(".weight") for k, v in golden(V51).weights.items() if k.endswith(".weight") and v.ndim > 1}
    assert {f"lora_unet__{layer.replace('.', '_')}" for layer in layers} <= set(names)


# --- what a file is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "release", "variant"),
    [
        (V51, "EasyAnimateV51", None),
        ("v51_transformer/inp_qwen", "EasyAnimateV51", "InP"),
        ("v51_transformer/control_qwen", "EasyAnimateV51", "Control"),
        ("v51_transformer/camera_qwen", "EasyAnimateV51", "Camera"),
        (V5, "EasyAnimateV5", None),
        ("v5_transformer/inp_bert_t5", "EasyAnimateV5", "InP"),
        ("v5_transformer/control_bert_t5", "EasyAnimateV5", "Control"),
    ],
)
def test_release_and_variant_by_the_tensors(name, release, variant):
    file = checkpoints.Checkpoint(Path("x.safetensors"), golden(name).weights, {}, {})
    found = detection.detect_transformer(file)
    assert (type(found).__name__, found.variant and found.variant.name) == (release, variant)
    assert found.is_inpainting == (variant == "InP")


CLAIMS = {
    "in_channels": 33,
    "out_channels": 8,
    "num_layers": 3,
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "text_embed_dim": 29,
    "text_embed_dim_t5": 12,
    "add_norm_text_encoder": False,
    "time_embed_dim": 25,
    "patch_size": 1,
    "mmdit_layers": 2,
}


@pytest.mark.parametrize(("name", "value"), CLAIMS.items())
def test_a_config_of_another_model_is_told(name, value, tmp_path):
    message = refused(changed(V51, tmp_path / "t", **{name: value}))
    assert f"says {name} {value}, but the weights have" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("time_position_encoding_type", "2d_rope"), ("after_norm", True), ("activation_fn", "geglu"), ("freq_shift", 1)],
)
def test_settings_that_no_release_has_are_told(name, value, tmp_path):
    message = refused(changed(V51, tmp_path / "t", **{name: value}))
    assert f"sets {name} to {value!r}, but V5 and V5.1 have" in message


@pytest.mark.parametrize("value", ["many", 0, -1, None])
def test_numbers_that_are_none(value, tmp_path):
    folder = changed(V51, tmp_path / "t", norm_eps=value)
    if value is None:
        assert sd.load_transformer(folder).model.diffusion_model.config.eps == 1e-5
    else:
        assert "sets norm_eps to" in refused(folder)


def test_text_weights_may_be_claimed_for_more_blocks_than_there_are(tmp_path):
    folder = changed("v51_transformer/control_qwen", tmp_path / "t", mmdit_layers=10000)
    assert sd.load_transformer(folder).model.diffusion_model.config.mmdit_layers == 2


def without(name: str, *parts: str) -> dict:
    return {key: None for key in golden(name).weights if any(part in key for part in parts)}


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        (V51, ["norm_out."], "is not a complete EasyAnimate transformer: it lacks norm_out.linear.weight"),
        (V51, ["proj_out."], "lacks proj_out.weight; download it again"),
        (V51, ["text_proj."], "lacks the text projections of V5 (text_proj and text_proj_t5) or of V5.1"),
        (V5, ["text_proj_t5."], "lacks the text projections of V5 (text_proj and text_proj_t5) or of V5.1"),
        (V51, ["transformer_blocks.1."], "says num_layers 2, but the weights have 1"),
        (V51, ["blocks.1.ff."], "is not a complete EasyAnimate transformer: it lacks transformer_blocks.1.ff"),
        (V5, ["blocks.1.attn2."], "is not a complete EasyAnimate transformer: it lacks transformer_blocks.1.attn2"),
        (V5, ["blocks.1.attn2.", "blocks.1.txt_ff."], "says mmdit_layers 2, but the weights have 1"),
        (V51, ["blocks.0.txt_ff."], "not a transformer of EasyAnimate;"),
        (V5, ["blocks.0."], "is only part of an EasyAnimate V5 transformer; choose its folder or index file"),
    ],
)
def test_halves_are_refused(name, parts, message, tmp_path):
    assert message in refused(changed(name, tmp_path / "t", without(name, *parts)))


@pytest.mark.parametrize("name", ["v4_xl_2_inp_transformer", "v5_7b_inp", "v51_12b_t2v"])
def test_either_half_of_a_released_file_is_known(name):
    """As shards have them, from the first to the last weight."""
    file = released(name)
    names = list(file.tensors)
    for keys in (names[: len(names) // 2], names[len(names) // 2 :]):
        half = replace(file, tensors={key: file.tensors[key] for key in keys})
        with pytest.raises(CheckpointError, match=r"is only part of an EasyAnimate V|download it again"):
            detection.detect_transformer(half)


def test_a_control_of_unknown_channels(tmp_path):
    wide = {"proj.weight": torch.zeros(64, 64, 2, 2)}
    message = refused(changed(V51, tmp_path / "t", wide, in_channels=64))
    assert "takes 64 channels, but the transformers of V5.1 take 16 (text to video), 33 (InP)" in message


def released(name: str = "v51_7b_inp") -> checkpoints.Checkpoint:
    """The 7B file as its manifest has it, without a config.json."""
    with gzip.open(GOLDEN / "manifests" / f"{name}.json.gz") as file:
        keys = json.load(file)["keys"]
    tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in keys.items()}
    return checkpoints.Checkpoint(Path(f"{name}.safetensors"), tensors, {}, {})


@pytest.mark.parametrize("lost", [["35"], [str(i) for i in range(18, 36)], ["5"]])
def test_blocks_missing_from_a_released_file_without_a_config(lost):
    file = released()
    prefixes = tuple(f"transformer_blocks.{i}." for i in lost)
    short = replace(file, tensors={k: v for k, v in file.tensors.items() if not k.startswith(prefixes)})
    with pytest.raises(CheckpointError, match="the 7B models have 36 and 18, and the 12B models 48 and 48; download"):
        detection.detect_transformer(short)
    described = replace(short, config={"num_layers": 36 - len(lost), "mmdit_layers": 18})
    if lost == ["35"]:  # a model that was made shorter says so
        assert detection.detect_transformer(described).config.depth == 35


def test_heads_that_do_not_fit():
    file = released()
    odd = {name: torch.empty(72, device="meta") for name in file.tensors if ".norm_q." in name or ".norm_k." in name}
    with pytest.raises(CheckpointError, match="has width 3072 with 72 channels a head, which is not valid"):
        detection.detect_transformer(replace(file, tensors=file.tensors | odd))


def test_other_transformers_with_such_names_are_not_taken_for_ours(tmp_path):
    """As CogVideoX and Stable Diffusion 3 name theirs in diffusers."""
    theirs = ("norm1.linear.weight", "norm1.norm.weight", "attn1.norm_q.weight", "attn.add_q_proj.weight")
    save_file({f"transformer_blocks.0.{name}": torch.zeros(2, 2) for name in theirs}, tmp_path / "x.safetensors")
    assert "x.safetensors is an unknown kind of file, not a transformer of" in refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize("load", [sd.load_vae, sd.load_text_encoder, sd.load_controlnet])
def test_a_transformer_in_another_place(load, tmp_path):
    with pytest.raises(CheckpointError, match="is an EasyAnimate V5.1 transformer, not"):
        load(recorded_component(tmp_path / "t", V51))


def test_the_config_written_is_the_originals(tmp_path):
    config = json.loads((recorded_component(tmp_path / "t", V51) / "config.json").read_text())
    release = detection.detect_transformer(checkpoints.read_checkpoint(tmp_path / "t", "transformer"))
    written = release.config_json(release.config)
    assert {**written, **config} == written
    assert load_file(tmp_path / "t" / "diffusion_pytorch_model.safetensors").keys() == golden(V51).weights.keys()
