"""Transformers in every precision, scaled fp8 among them, and as the host's own save nodes write them."""

import json
import shutil

import comfy.sd
import comfy.utils
import pytest
import torch
from safetensors.torch import save_file

from support.components import predict, scaled_fp8, tiny_weights, write_component, write_tiny
from support.pack import part
from support.recorded import golden
from support.tiny_networks import random

sd = part("easyanimate_models.sd")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
EMBEDDED = part("easyanimate_models.files.checkpoint").EMBEDDED_CONFIG
TINY = part("easyanimate_models.files.model_files").TINY / "transformer"
RELEASES = {
    "EasyAnimateV1": "v1_transformer/grid_l2",
    "EasyAnimateV2": "v2_transformer/t2v_l18_uvit",
    "EasyAnimateV3": "v3_transformer/t2v_l2_d64",
}


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, error: float) -> None:
    assert ours.isfinite().all()
    assert (ours - theirs).norm() <= error * theirs.norm()


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        (torch.float64, 1e-3),
        (torch.float32, 1e-6),
        (torch.float16, 1e-3),
        (torch.bfloat16, 1e-2),
        (torch.float8_e4m3fn, 0.1),
        (torch.float8_e5m2, 0.2),
    ],
)
def test_files_of_any_precision_predict_alike(dtype, error, tmp_path):
    tensors = {k: v.to(dtype) for k, v in tiny_weights().items()}
    assert_close(
        predict(sd.load_transformer(write_tiny(tmp_path / "t", tensors))), predict(sd.load_transformer(TINY)), error
    )


@pytest.mark.parametrize("marker", [0, 2], ids=["fast", "full precision"])
def test_scaled_fp8_predicts_like_bf16(marker, tmp_path):
    small = scaled_fp8(tiny_weights(), "scale_weight") | {"scaled_fp8": torch.zeros(marker, dtype=torch.float8_e4m3fn)}
    bf16 = sd.load_transformer(
        write_tiny(tmp_path / "bf16", {k: v.to(torch.bfloat16) for k, v in tiny_weights().items()})
    )
    ours = sd.load_transformer(write_tiny(tmp_path / "fp8", small))
    weight = ours.model.diffusion_model.transformer_blocks[0].attn1.to_q.weight
    assert getattr(weight, "_qdata", weight).dtype == torch.float8_e4m3fn  # 0.33 wraps it, with its scale
    assert_close(predict(ours), predict(bf16), 0.1)
    unscaled = {k: v for k, v in small.items() if not k.endswith("scale_weight")}
    unscaled["scaled_fp8"] = small["scaled_fp8"]
    wrong = predict(sd.load_transformer(write_tiny(tmp_path / "unscaled", unscaled)))
    assert (wrong - predict(bf16)).norm() > predict(bf16).norm()  # so the scales do matter


def test_scaled_fp8_saved_by_the_host_comes_back(tmp_path):
    small = scaled_fp8(tiny_weights(), "scale_weight") | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    before, saved = sd.load_transformer(write_tiny(tmp_path / "fp8", small)), tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(saved), before, metadata={})
    assert torch.equal(predict(sd.load_transformer(saved)), predict(before))


def test_the_newer_form_of_scaled_fp8_loads_or_is_refused_in_a_sentence(tmp_path):
    small = scaled_fp8(tiny_weights(), "weight_scale")
    layers = {k.removesuffix(".weight_scale"): {"format": "float8_e4m3fn"} for k in small if k.endswith("_scale")}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    path = write_tiny(tmp_path / "fp8", small, metadata)
    if hasattr(comfy.utils, "convert_old_quants"):
        assert_close(predict(sd.load_transformer(path)), predict(sd.load_transformer(TINY)), 0.1)
    else:
        with pytest.raises(CheckpointError, match="quantised in a way that this version of ComfyUI can't read"):
            sd.load_transformer(path)


@pytest.mark.parametrize("release", RELEASES)
def test_a_model_saved_by_the_host_comes_back_without_any_config(release, tmp_path):
    recorded = golden(RELEASES[release])
    before = sd.load_transformer(write_component(tmp_path / "t", recorded.weights, recorded.config["constructor"]))
    assert type(before.model.model_config).__name__ == release
    saved = tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(saved), before, metadata={})
    after = sd.load_transformer(saved)
    assert type(after.model.model_config).__name__ == release
    assert after.model.diffusion_model.config == before.model.diffusion_model.config
    assert torch.equal(predict(after), predict(before))


def test_the_tiny_model_saved_by_the_host_keeps_its_heads_skips_and_preview(tmp_path):
    before, saved = sd.load_transformer(TINY), tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(saved), before, metadata={})
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 7}))  # of another file
    after = sd.load_transformer(saved)
    assert after.model.diffusion_model.config == before.model.diffusion_model.config
    colours = after.model.latent_format.latent_rgb_factors, after.model.latent_format.latent_rgb_factors_bias
    assert colours == tuple(before.model.latent_format.own_colours.values())
    assert torch.equal(predict(after), predict(before))


def test_a_transformer_takes_the_preview_colours_of_the_vae_in_its_folder(tmp_path):
    shutil.copytree(TINY.parent, tmp_path / "release")
    own, of_vae = (tmp_path / "release" / name / "config.json" for name in ("transformer", "vae"))
    config, factors = json.loads(own.read_text()), [[1.0, 0.0, 0.5]] * 4
    of_vae.write_text(
        json.dumps(json.loads(of_vae.read_text()) | {"latent_rgb_factors": factors, "latent_rgb_bias": [0.0, 0.1, 0.2]})
    )
    assert colours(tmp_path / "release")[0] == config["latent_rgb_factors"]  # its own come first
    own.write_text(json.dumps({k: v for k, v in config.items() if not k.startswith("latent_rgb")}))
    for path in (tmp_path / "release", own.parent, own.parent / "diffusion_pytorch_model.safetensors"):
        assert colours(path) == (factors, [0.0, 0.1, 0.2])


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_takes_them_and_saves_them(release, tmp_path):
    recorded = golden(RELEASES[release])
    folder = tmp_path / "release" / "transformer"
    write_component(folder, recorded.weights, recorded.config["constructor"])
    channels = sd.load_transformer(folder).model.latent_format.latent_channels
    known = {"latent_rgb_factors": [[0.5, float(i), -1.0] for i in range(channels)], "latent_rgb_bias": [0.0, 0.1, 0.2]}
    of_vae, saved = folder.parent / "vae" / "config.json", tmp_path / "saved.safetensors"
    of_vae.parent.mkdir()
    of_vae.write_text(json.dumps(known))
    comfy.sd.save_checkpoint(str(saved), sd.load_transformer(folder), metadata={})
    assert colours(folder) == colours(saved) == tuple(known.values())
    of_vae.write_text(json.dumps(known | {"latent_rgb_factors": known["latent_rgb_factors"][1:]}))
    with pytest.raises(CheckpointError, match="are not valid preview colours; remove both"):
        sd.load_transformer(folder)


def colours(path) -> tuple:
    """The preview colours of the MODEL of this file."""
    found = sd.load_transformer(path).model.latent_format
    return found.latent_rgb_factors, found.latent_rgb_factors_bias


def test_a_damaged_config_inside_a_file(tmp_path):
    tensors = tiny_weights() | {EMBEDDED: torch.tensor([1, 2, 3], dtype=torch.uint8)}
    save_file(tensors, tmp_path / "saved.safetensors")
    with pytest.raises(CheckpointError, match="inside saved.safetensors is damaged; save the model again"):
        sd.load_transformer(tmp_path / "saved.safetensors")


VAES = {
    "V1": "v1_e2e/sd_vae",
    "V2": "v2_mag_vae/mag_vae",
    "V3": "v3_slice_vae/slice_vae",
    "V4": "v4_cache_vae/cache_compression_vae",
    "V5": "v5_vae/spatial_attn_vae",
    "V5.1": "v5_mag_vae/cache_mag_vae_spatial_gn",
}


@pytest.mark.parametrize("release", VAES)
def test_a_vae_saved_by_the_host_comes_back_without_any_config(release, tmp_path):
    """VAESave writes it alone, CheckpointSave beside the transformer."""
    recorded = golden(VAES[release])
    before = sd.load_vae(write_component(tmp_path / "vae", recorded.weights, recorded.config["constructor"]))
    alone, beside = tmp_path / "vae.safetensors", tmp_path / "checkpoint.safetensors"
    comfy.utils.save_torch_file(before.get_sd(), str(alone))
    comfy.sd.save_checkpoint(str(beside), sd.load_transformer(TINY), vae=before, metadata={})
    latents = random(1, before.latent_channels, 5, 2, 2)
    for file in (alone, beside):
        after = sd.load_vae(file)
        assert after.latent_format.release == before.latent_format.release == release
        assert torch.equal(after.decode(latents), before.decode(latents))
    assert type(sd.load_transformer(beside).model.model_config).__name__ == "EasyAnimateV3"
