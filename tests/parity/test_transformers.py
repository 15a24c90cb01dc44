"""Noise that the original's transformers predict, met by ours through the real loaders, in float32."""

import pytest
import torch
from safetensors.torch import save_file

from support.components import write_component
from support.pack import part
from support.parity import noise_in, predict
from support.recorded import cases, config_of, each, recorded

sd = part("easyanimate_models.sd")
MOTION = ("basic_block_type", "motion_module_kwargs", "motion_module_type")  # what PixArt's config.json lacks
GRID = "VanillaGrid"  # V1's motion modules
EIGHTH = 8  # pixels of a latent pixel
RELEASED_HEADS = part("easyanimate_models.supported_models").EasyAnimateV1.motion[0].heads

CASES = cases("transformer", "inputs.{}.hidden_states", "outputs.{}.sample")
SIZED = cases("transformer", "inputs.{}.hidden_states", "inputs.{}.resolution", "outputs.{}.sample")
OF_V1 = [(name, case) for name, case in CASES if config_of(name)["constructor"].get("motion_module_type") == GRID]


@each("name, case", CASES)
def test_a_transformer_predicts_the_recorded_noise(load, agree, name, case):
    inputs, theirs = recorded(name).inputs(case), recorded(name).outputs(case)["sample"]
    ours = predict(load.transformer(name).model.diffusion_model, inputs)
    agree(name, case, "noise", ours, noise_in(theirs, inputs))


@each("name, case", SIZED)
def test_size_conditioning_defaults_to_the_size_of_the_latents(load, agree, name, case):
    inputs, theirs = recorded(name).inputs(case), recorded(name).outputs(case)["sample"]
    height, width = inputs["hidden_states"].shape[3:]
    size, ratio = torch.tensor([height, width]) * float(EIGHTH), torch.tensor(height / width)
    if not (inputs["resolution"] == size).all() or not torch.allclose(inputs["aspect_ratio"], ratio):
        pytest.skip("recorded with another size than that of its latents")
    ours = predict(load.transformer(name).model.diffusion_model, inputs, "resolution", "aspect_ratio")
    agree(name, case, "noise at the default size", ours, noise_in(theirs, inputs))


@pytest.fixture(scope="module")
def load_v1_from_two_files(tmp_path_factory):
    """As V1 was released: a PixArt folder, and one file with the motion modules, beside it at most its config.json."""
    loaded = {}

    def load_both(name: str):
        if name not in loaded:
            constructor, weights = recorded(name).config["constructor"], recorded(name).weights
            motion = {k: v for k, v in weights.items() if ".attn_temporal." in k}
            base = {k: v for k, v in weights.items() if k not in motion}
            base["caption_projection.y_embedding"] = torch.zeros(120, constructor["caption_channels"])  # as PixArt's
            pixart = {k: v for k, v in constructor.items() if k not in MOTION}
            folder = write_component(tmp_path_factory.mktemp("pixart"), base, pixart)
            loaded[name] = sd.load_transformer(folder, _motion_file(name, motion), weight_dtype="fp32")
        return loaded[name]

    def _motion_file(name: str, motion: dict[str, torch.Tensor]):
        """With a config.json only where the number of heads, which no tensor shows, isn't the released one."""
        folder, constructor = tmp_path_factory.mktemp("motion"), recorded(name).config["constructor"]
        if constructor["motion_module_kwargs"]["num_attention_heads"] == RELEASED_HEADS:
            save_file(motion, folder / "motion_module.safetensors")
        else:
            write_component(folder, motion, {k: constructor[k] for k in MOTION})
        return next(folder.glob("*.safetensors"))

    return load_both


@each("name, case", OF_V1)
def test_v1_in_two_files_predicts_the_recorded_noise(load_v1_from_two_files, agree, name, case):
    model = load_v1_from_two_files(name).model
    assert type(model.model_config).__name__ == "EasyAnimateV1"
    inputs, theirs = recorded(name).inputs(case), recorded(name).outputs(case)["sample"]
    agree(name, case, "noise, from two files", predict(model.diffusion_model, inputs), noise_in(theirs, inputs))
