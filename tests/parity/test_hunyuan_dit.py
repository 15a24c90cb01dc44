"""V4's network through the real loaders: what the original's predicts, in float32, and the files of the release."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import comfy.ops
import pytest
import torch

from support.components import write_component
from support.pack import part
from support.parity import noise_in, predict
from support.recorded import RECORDED, cases, each, recorded

configs = part("easyanimate_models.configs.hunyuan_dit")
detection = part("easyanimate_models.model_detection")
checkpoint = part("easyanimate_models.files.checkpoint")
embedders = part("easyanimate_models.dit.hunyuan_embedders")
sd = part("easyanimate_models.sd")
EasyAnimateV4 = part("easyanimate_models.supported_models").EasyAnimateV4
META = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}
PROJECTION = "clip_projection.kv_proj.weight"  # files of the release may have it or not
OUTPUTS = {True: "sample_rope_in_block0", False: "sample"}  # by whether block 0 rotates

CASES = [
    (name, case, rotary)
    for rotary, output in OUTPUTS.items()
    for name, case in cases("HunyuanDiT", "inputs.{}.hidden_states", f"outputs.{{}}.{output}")
]
FILES = sorted(file.name for file in (RECORDED / "manifests").glob("v4_*transformer.json.gz"))


@pytest.fixture(scope="module")
def load_with(load, tmp_path_factory):
    """A recorded transformer by name, and by what its config.json says about block 0; nothing as it is by default."""
    loaded = {}

    def load_one(name: str, rotary: bool):
        if rotary:
            return load.transformer(name)
        if name not in loaded:
            config = recorded(name).config["constructor"] | {configs.ROTARY: False}
            folder = write_component(tmp_path_factory.mktemp("component"), recorded(name).weights, config)
            loaded[name] = sd.load_transformer(folder, weight_dtype="fp32")
        return loaded[name]

    return load_one


@each("name, case, rotary", CASES)
def test_hunyuan_dit_predicts_the_recorded_velocity(load_with, agree, name, case, rotary):
    inputs, theirs = recorded(name).inputs(case), recorded(name).outputs(case)[OUTPUTS[rotary]]
    ours = predict(load_with(name, rotary).model.diffusion_model, inputs)
    agree(name, case, "velocity" if rotary else "velocity, block 0 not rotated", ours, noise_in(theirs, inputs))


def released(name: str, projected: int | None = None, config: dict | None = None) -> checkpoint.Checkpoint:
    """A released file without its numbers; `projected` is the width that an additional layer brings CLIP's to ours."""
    with gzip.open(RECORDED / "manifests" / name) as file:
        manifest = json.load(file)
    tensors = {key: torch.empty(shape, device="meta") for key, (shape, _) in manifest["keys"].items()}
    tensors.pop(PROJECTION, None)
    if projected:
        width = manifest["config"]["cross_attention_dim"]
        tensors[PROJECTION] = torch.empty(width, projected, device="meta")
    return checkpoint.Checkpoint(Path(name), tensors, manifest["config"] if config is None else config, {})


@pytest.mark.parametrize("projected", [None, 768, 1024])
@pytest.mark.parametrize("config", [None, {}], ids=["config", "no config"])
@each("name", FILES)
def test_released_files_of_hunyuan_dit(name, config, projected):
    file, config_json = released(name, projected, config), released(name).config
    release = detection.detect_transformer(file)
    found = release.config
    fitting = checkpoint.require_fit(EasyAnimateV4.network(found, **META), file, "transformer", release.ignored)
    assert type(release) is EasyAnimateV4 and found.rotary_in_block_0
    assert set(file.tensors) - set(fitting) == {f"blocks.{i}.t_embed.pe" for i in range(found.depth)}
    assert (
        configs.hunyuan_dit_config(found).items() >= {k: config_json[k] for k in _told_by_tensors(config_json)}.items()
    )
    assert found.inner == int(config_json["hidden_size"] * config_json["mlp_ratio"])
    assert found.resampler == embedders.ResamplerConfig(
        config_json["n_query"], projected or config_json["cross_attention_dim"], projected is not None
    )


def _told_by_tensors(config: dict) -> set[str]:
    """What a config.json and the tensors both say, and nobody rounds."""
    return set(config) - {"sample_size", "projection_dim", "mlp_ratio"}


@each("name", FILES)
def test_a_config_that_belongs_to_another_model(name):
    whole = released(name)
    for key in ("num_layers", "hidden_size", "text_len", "num_attention_heads", "n_query", "in_channels"):
        with pytest.raises(checkpoint.CheckpointError, match=f"says {key} 3, but .* different models"):
            detection.detect_transformer(replace(whole, config=whole.config | {key: 3}))
    with pytest.raises(checkpoint.CheckpointError, match="is the image model HunyuanDiT"):
        detection.detect_transformer(replace(whole, config={"_class_name": "HunyuanDiT2DModel"}))
    with pytest.raises(checkpoint.CheckpointError, match="neither true nor false"):
        detection.detect_transformer(replace(whole, config={configs.ROTARY: "off"}))


@each("name", FILES)
def test_half_a_file(name):
    whole = released(name)
    keys = list(whole.tensors)
    for part_of_it in (keys[: len(keys) // 2], keys[len(keys) // 2 :], keys[::2], keys[1::2]):
        half = replace(whole, tensors={key: whole.tensors[key] for key in part_of_it})
        with pytest.raises(checkpoint.CheckpointError):
            release = detection.detect_transformer(half)
            network = release.network(release.config, **META)
            checkpoint.require_fit(network, half, "transformer", release.ignored)
