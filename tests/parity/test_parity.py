"""Recorded outputs of the original, met through the real loaders, in float32. `pytest -s` shows every error."""

import functools
import json

import conftest
import pytest
import torch
from conftest import GOLDEN, part
from original_tiling import OriginalTiling
from safetensors.torch import save_file

sd = part("easyanimate_models.sd")
slicing = part("easyanimate_models.vae.slicing")

golden = functools.cache(conftest.golden)  # a minute of reading otherwise
TRANSFORMERS = ("inp_l28_uvit", "t2v_l2_d64", "t2v_l1_d96_sample128")
DOOR = {  # the original's names of what goes into the transformer, and ours (design.md, section 5)
    "encoder_hidden_states": "context",
    "text_embedding_mask": "attention_mask",
    "clip_encoder_hidden_states": "clip_embeds",
    "clip_attention_mask": "clip_mask",
    "resolution": "resolution",
    "aspect_ratio": "aspect_ratio",
}


def cases(name: str, prefix: str = "") -> list[tuple[str, str]]:
    recorded = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    return [(name, case) for case in recorded if case.startswith(prefix)]


TRANSFORMER_CASES = [case for name in TRANSFORMERS for case in cases(f"v3_transformer/{name}")]
VAE = "v3_slice_vae/slice_vae"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes a recorded model as the component folder that a release would hold."""

    def write(name: str):
        recorded, path = golden(name), tmp_path_factory.mktemp("component")
        save_file(recorded.weights, path / "diffusion_pytorch_model.safetensors")
        (path / "config.json").write_text(json.dumps(recorded.config["constructor"]))
        return path

    return write


@pytest.fixture(scope="module")
def transformers(folder):
    return {name: sd.load_transformer(folder(name), weight_dtype="fp32") for name, _ in TRANSFORMER_CASES}


@pytest.fixture(scope="module")
def vae(folder):
    return sd.load_vae(folder(VAE))


@pytest.mark.parametrize(("name", "case"), TRANSFORMER_CASES)
def test_transformer_predicts_the_recorded_noise(transformers, agree, name, case):
    network, given = transformers[name].model.diffusion_model, golden(name).inputs(case)
    x = torch.cat([given[k] for k in ("hidden_states", "inpaint_latents") if k in given], dim=1)
    ours = network(x, given["timestep"], **{DOOR[k]: v for k, v in given.items() if k in DOOR})
    agree(f"{name} {case}", ours, golden(name).outputs(case)["sample"][:, :4])


def test_size_conditioning_defaults_to_the_size_of_the_latents(transformers, agree):
    name = "v3_transformer/t2v_l1_d96_sample128"
    given = golden(name).inputs("f3")
    context, mask = given["encoder_hidden_states"], given["text_embedding_mask"]
    network = transformers[name].model.diffusion_model
    ours = network(given["hidden_states"], given["timestep"], context=context, attention_mask=mask)
    agree(f"{name} f3, default size", ours, golden(name).outputs("f3")["sample"][:, :4])


@pytest.mark.parametrize(("name", "case"), cases(VAE, "enc"))
def test_vae_encodes_to_the_recorded_posterior(vae, agree, name, case):
    model, pixels, theirs = vae.first_stage_model, golden(name).inputs(case)["pixels"], golden(name).outputs(case)
    agree(f"{name} {case} mean", model.encode(pixels), theirs["mean"])
    if len(slicing.plan_encode(pixels.shape[2])) == 1:
        agree(f"{name} {case} log variance", model.moments(pixels)[1], theirs["logvar"])


@pytest.mark.parametrize(("name", "case"), cases(VAE, "dec"))
def test_vae_decodes_to_the_recorded_pixels(vae, agree, name, case):
    ours = vae.first_stage_model.decode(golden(name).inputs(case)["latents"])
    agree(f"{name} {case}", ours, golden(name).outputs(case)["pixels"])


@pytest.mark.parametrize(("name", "case"), cases(VAE, "tiled"))
def test_tiles_meet_as_recorded(vae, agree, name, case):
    given, theirs, how = golden(name).inputs(case), golden(name).outputs(case), golden(name).config["cases"][case]
    side = how["tile_latent_min_size"]
    tiles = OriginalTiling(side, int(side * how["tile_overlap_factor"]))
    agree(f"{name} {case} mean", vae.first_stage_model.encode(given["pixels"], tiling=tiles), theirs["mean"])
    ours = vae.first_stage_model.decode(given["latents"], tiling=tiles)
    agree(f"{name} {case}", ours, theirs["decoded_without_corner_pass"])


@pytest.mark.parametrize("row", [0, 1], ids=["negative", "positive"])
def test_t5_gives_the_recorded_hidden_states_under_its_mask(folder, agree, row):
    recorded = golden("v3_e2e/t5")
    clip = sd.load_text_encoder(folder("v3_e2e/t5"))
    tokens = [(int(i), 1.0) for i in recorded.tensors["inputs.input_ids"][row]]
    encoded = clip.encode_from_tokens({"t5xxl": [tokens]}, return_dict=True)
    keep = recorded.tensors["inputs.attention_mask"][row]
    assert torch.equal(encoded["attention_mask"], keep[None])
    theirs = recorded.tensors["outputs.last_hidden_state"][row]
    agree(f"t5 row {row}", encoded["cond"][0][keep == 1], theirs[keep == 1])
