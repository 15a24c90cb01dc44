"""Motion modules trained alone, as the node does it: a file that our loader reads, all else bit by bit the same."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from support.pack import part
from support.stand_ins import write_image_encoder
from support.transformer_files import write_image_transformer, write_transformer

sd = part("easyanimate_models.sd")
node_run = part("easyanimate_models.training.node_run")
data_settings = part("easyanimate_models.training.clips.settings")
dataset = part("easyanimate_models.training.clips.dataset")
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
model_files = part("easyanimate_models.files.model_files")
tiny = part("easyanimate_models.training.toy.tiny")
TINY = model_files.TINY
PLAN = TrainingPlan(steps=2, learning_rate=3e-3, warmup=1, ema=0.5, clip=1.0, seed=3, schedule="constant")
DATA = data_settings.DataSettings(side=32, frames=8)


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    """Files and runs in the test's own folder."""
    monkeypatch.setattr(node_run, "_paths", lambda name, _, end="": (tmp_path / f"{name}{end}.sft", tmp_path / "run"))


def task(model, encoders, frames: int = 8):
    clips = dataset.in_memory([torch.rand(frames, 32, 32, 3)], ["a red ball"])
    return node_run.TrainingJob("walk", model, *encoders, clips, replace(DATA, frames=frames), PLAN)


def train(model, encoders):
    with torch.inference_mode():  # as the host runs nodes
        return node_run.train_motion_module(task(model, encoders))


def weights(model) -> dict[str, torch.Tensor]:
    return model.model.diffusion_model.state_dict()


@pytest.fixture(params=["image", "video"])
def base(request, tmp_path):
    """A transformer without motion modules, which is given V1's, and one with V3's."""
    return write_image_transformer(tmp_path / "base") if request.param == "image" else TINY / "transformer"


def test_all_but_the_motion_modules_stays_bit_by_bit(base, encoders):
    model = sd.load_transformer(base)
    before = {name: tensor.clone() for name, tensor in weights(model).items()}
    trained = train(model, encoders)
    after = weights(trained.model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    assert all(torch.equal(after[name], before[name]) for name in before if "attn_temporal" not in name)
    outputs = [name for name in after if name.endswith("temporal_transformer.proj_out.weight")]
    assert outputs and not any(torch.equal(after[name], before.get(name, after[name] * 0)) for name in outputs)
    assert type(trained.model.model.model_config) is type(model.model.model_config)


def test_the_file_goes_into_the_transformer_it_was_trained_in(base, encoders):
    trained = train(sd.load_transformer(base), encoders)
    assert all("attn_temporal" in key or key == "easyanimate_config" for key in load_file(trained.file))
    loaded = sd.load_transformer(base, trained.file)
    assert loaded.model.diffusion_model.config == trained.model.model.diffusion_model.config
    assert all(torch.equal(tensor, weights(trained.model)[name]) for name, tensor in weights(loaded).items())


def test_motion_modules_of_another_kind_do_not_go_into_a_video_transformer(encoders, tmp_path):
    v1 = train(sd.load_transformer(write_image_transformer(tmp_path / "base")), encoders).file
    with pytest.raises(CheckpointError, match="already has motion modules"):
        sd.load_transformer(TINY / "transformer", v1)


def test_images_teach_no_motion(encoders):
    with pytest.raises(dataset.DatasetError, match="Images contain no motion; use clips"):
        node_run.train_motion_module(task(sd.load_transformer(TINY), encoders, frames=1))


def test_starts_are_shown_to_the_image_encoder(encoders, tmp_path):
    (tmp_path / "image_encoder").mkdir()
    base = write_transformer(tmp_path / "base", replace(tiny.DIT, in_channels=12, clip_tokens=True))
    image_encoder = sd.load_image_encoder(write_image_encoder(tmp_path / "image_encoder"))
    with_clip = replace(task(sd.load_transformer(base), encoders), clip_vision=image_encoder)
    trained = node_run.train_motion_module(with_clip)
    rows = json.loads((trained.folder / ".easyanimate" / "index.json").read_text())["examples"]
    assert load_file(trained.folder / ".easyanimate" / rows[0]["seen"])["embeds"].shape == (768,)


def test_under_a_lora_nothing_is_trained(encoders):
    with_lora, _ = part("easyanimate_models.lora").load_lora(
        model_files.lora_path(model_files.BUILT_IN_LORA), sd.load_transformer(TINY)
    )
    with pytest.raises(ValueError, match="has a LoRA on it, .* connect the transformer directly from its loader"):
        node_run.train_motion_module(task(with_lora, encoders))


def test_the_place_is_the_hosts_folder_for_transformers(monkeypatch):
    monkeypatch.undo()
    file, folder = node_run._paths("walk", "diffusion_models", "_mm")
    assert file.parts[-3:] == ("models", "diffusion_models", "walk_mm.safetensors")
    assert folder.parts[-2:] == ("easyanimate_training", "walk_mm")
