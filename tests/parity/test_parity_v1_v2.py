"""V1 and V2: recorded outputs of the original, met through the real loaders, in float32. `pytest -s` shows errors."""

import functools
import json

import conftest
import pytest
import torch
from conftest import GOLDEN, part
from original_tiling import OriginalTiling
from safetensors.torch import save_file

sd = part("easyanimate_models.sd")

golden = functools.cache(conftest.golden)
V1, V2 = "v1_transformer/grid_l2", "v2_transformer/t2v_l18_uvit"
IMAGE_VAE, WINDOW_VAE = "v1_e2e/sd_vae", "v2_mag_vae/mag_vae"
BASE_CONFIG = ("basic_block_type", "motion_module_kwargs", "motion_module_type")  # what PixArt's config.json lacks


def cases(name: str, prefix: str = "") -> list[tuple[str, str]]:
    recorded = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    return [(name, case) for case in recorded if case.startswith(prefix)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes tensors and a config as a component folder that a release would hold."""

    def write(tensors: dict[str, torch.Tensor], config: dict):
        path = tmp_path_factory.mktemp("component")
        save_file(tensors, path / "diffusion_pytorch_model.safetensors")
        (path / "config.json").write_text(json.dumps(config))
        return path

    return write


@pytest.fixture(scope="module")
def transformers(folder):
    loaded = {}
    for name in (V1, V2):
        recorded = golden(name)
        loaded[name] = sd.load_transformer(
            folder(recorded.weights, recorded.config["constructor"]), weight_dtype="fp32"
        )
    return loaded


@pytest.fixture(scope="module")
def vaes(folder):
    recorded = {name: golden(name) for name in (IMAGE_VAE, WINDOW_VAE)}
    return {name: sd.load_vae(folder(r.weights, r.config["constructor"])) for name, r in recorded.items()}


def predict(patcher, given: dict[str, torch.Tensor]) -> torch.Tensor:
    context, mask = given["encoder_hidden_states"], given["text_embedding_mask"]
    network = patcher.model.diffusion_model
    return network(given["hidden_states"], given["timestep"], context=context, attention_mask=mask)


@pytest.mark.parametrize(("name", "case"), [*cases(V1), *cases(V2)])
def test_transformer_predicts_the_recorded_noise(transformers, agree, name, case):
    ours = predict(transformers[name], golden(name).inputs(case))
    agree(f"{name} {case}", ours, golden(name).outputs(case)["sample"][:, :4])


@pytest.fixture(scope="module")
def v1_in_two_files(folder, tmp_path_factory):
    """As V1 was released: a PixArt folder, and one file with the motion modules and nothing beside it."""
    recorded = golden(V1)
    motion = {k: v for k, v in recorded.weights.items() if ".attn_temporal." in k}
    base = {k: v for k, v in recorded.weights.items() if k not in motion}
    config = {k: v for k, v in recorded.config["constructor"].items() if k not in BASE_CONFIG}
    base["caption_projection.y_embedding"] = torch.zeros(120, 28)  # as in PixArt's diffusers files
    path = tmp_path_factory.mktemp("motion") / "easyanimate_v1_mm.safetensors"
    save_file(motion, path)
    return sd.load_transformer(folder(base, config), path, weight_dtype="fp32")


@pytest.mark.parametrize(("name", "case"), cases(V1))
def test_v1_in_two_files_predicts_the_recorded_noise(v1_in_two_files, agree, name, case):
    assert type(v1_in_two_files.model.model_config).__name__ == "EasyAnimateV1"
    ours = predict(v1_in_two_files, golden(name).inputs(case))
    agree(f"{name} {case}, two files", ours, golden(name).outputs(case)["sample"][:, :4])


@pytest.mark.parametrize(("name", "case"), cases(WINDOW_VAE, "enc"))
def test_window_vae_encodes_to_the_recorded_posterior(vaes, agree, name, case):
    model, pixels, theirs = (
        vaes[name].first_stage_model,
        golden(name).inputs(case)["pixels"],
        golden(name).outputs(case),
    )
    agree(f"{name} {case} mean", model.encode(pixels), theirs["mean"])
    if len(model.plan.encode(pixels.shape[2])) == 1:
        agree(f"{name} {case} log variance", model.moments(pixels)[1], theirs["logvar"])


@pytest.mark.parametrize(("name", "case"), cases(WINDOW_VAE, "dec"))
def test_window_vae_decodes_to_the_recorded_pixels(vaes, agree, name, case):
    ours = vaes[name].first_stage_model.decode(golden(name).inputs(case)["latents"])
    agree(f"{name} {case}", ours, golden(name).outputs(case)["pixels"])


@pytest.mark.parametrize(("name", "case"), cases(WINDOW_VAE, "tiled"))
def test_tiles_meet_as_recorded(vaes, agree, name, case):
    given, theirs, how = golden(name).inputs(case), golden(name).outputs(case), golden(name).config["cases"][case]
    side, model = how["tile_latent_min_size"], vaes[name].first_stage_model
    tiles = OriginalTiling(side, int(side * how["tile_overlap_factor"]))
    agree(f"{name} {case} mean", model.encode(given["pixels"], tiling=tiles), theirs["mean"])
    agree(f"{name} {case}", model.decode(given["latents"], tiling=tiles), theirs["decoded_without_corner_pass"])


def test_image_vae_takes_every_frame_as_recorded(vaes, agree):
    recorded, model = golden(IMAGE_VAE).tensors, vaes[IMAGE_VAE].first_stage_model
    pixels, latents = (recorded[f"inputs.{name}"].movedim(0, 1)[None] for name in ("pixels", "latents"))
    agree("image VAE, mean", model.encode(pixels)[0].movedim(1, 0), recorded["outputs.mean"])
    agree("image VAE, pixels", model.decode(latents)[0].movedim(1, 0), recorded["outputs.decoded"])
    first = model.moments(pixels[:, :, :1])[1][:, :, 0]
    agree("image VAE, log variance", first, recorded["outputs.logvar"][:1])


def test_v1_steps_follow_the_recorded_run(transformers, agree):
    """Teacher-forced: from the recorded latents of each step, the guided noise of the next."""
    run, recorded = golden("v1_e2e/t2v_Euler_A"), golden("v1_e2e/t2v_Euler_A").tensors
    start = recorded["inputs.initial_noise"] * run.config["init_noise_sigma"]
    before = [start, *recorded["outputs.latents_after_each_step"][:-1]]
    text = {"context": "inputs.text_embeds_neg_pos", "attention_mask": "inputs.text_mask_neg_pos"}
    text = {name: recorded[key] for name, key in text.items()}
    for step, x in enumerate(before):
        x = x / (recorded["outputs.sigmas"][step] ** 2 + 1) ** 0.5
        timesteps = recorded["outputs.timesteps"][step].float().expand(2)
        negative, positive = transformers[V1].model.diffusion_model(x.repeat(2, 1, 1, 1, 1), timesteps, **text).chunk(2)
        ours = negative + run.config["guidance_scale"] * (positive - negative)
        agree(f"V1, guided noise of step {step}", ours, recorded["outputs.guided_model_output_each_step"][step])


# The latents of the recorded V2 run can't be followed: its frames are two tokens, so that each group norm is a sign,
# and a change of 1e-7 in the input moves the output by a tenth. What it decodes to can be compared.


def test_v2_latents_decode_to_the_recorded_video(transformers, vaes, agree):
    recorded = golden("v2_e2e/t2v_Euler").tensors
    samples = transformers[V2].model.latent_format.process_out(recorded["outputs.latents_after_each_step"][-1])
    raw = recorded["outputs.vae_decode_raw"]  # before the original's smoothing
    agree("V2, pixels", vaes[WINDOW_VAE].first_stage_model.decode(samples), raw)
    agree("V2, images", vaes[WINDOW_VAE].decode(samples).movedim(-1, 1), (raw.clamp(-1, 1) + 1) / 2)


def test_v1_latents_decode_to_the_recorded_video(transformers, vaes, agree):
    recorded = golden("v1_e2e/t2v_Euler_A").tensors
    samples = transformers[V1].model.latent_format.process_out(recorded["outputs.latents_after_each_step"][-1])
    agree("V1, images", vaes[IMAGE_VAE].decode(samples).movedim(-1, 1), recorded["outputs.video_0_1"])
