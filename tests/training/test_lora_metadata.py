"""The header of a LoRA file says what it was trained on, from and how, in the keys of other trainers."""

import json
from datetime import datetime

from support.mmdit import tiny_mmdit
from support.pack import part

supported = part("easyanimate_models.supported_models")
lora_metadata = part("easyanimate_models.training.denoiser.lora_metadata").lora_metadata
LoraSettings = part("easyanimate_models.training.denoiser.lora").LoraSettings
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
UNIFORM = part("easyanimate_models.training.denoiser.diffusion").UNIFORM
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
PLAN = TrainingPlan(steps=300, learning_rate=1e-4, warmup=7, ema=0.9, clip=1.0, seed=3)
CONTENTS = {"clips": "c0ffee", "transformer": "abc123abc123"}


def header(release, steps: int = 120) -> dict[str, str]:
    parts = (DataSettings(512, 49), LoraSettings(rank=8, alpha=4), UNIFORM, PLAN)
    settings = {name: value for part_of in parts for name, value in vars(part_of).items()}
    return lora_metadata("fox", steps, {**settings, "clips": 20, "contents": CONTENTS}, release)


def test_a_header_names_the_base_the_data_and_the_settings():
    made = header(tiny_mmdit().model.model_config)
    assert all(isinstance(value, str) for value in made.values())
    expected = {
        "modelspec.title": "fox",
        "modelspec.architecture": "easyanimate-v5.1/lora",
        "modelspec.resolution": "512x512",
        "ss_steps": "120",
        "ss_max_train_steps": "300",
        "ss_network_dim": "8",
        "ss_network_alpha": "4",
        "ss_sd_model_hash": "abc123abc123",
        "ss_num_train_images": "20",
        "ss_seed": "3",
        "easyanimate.release": "V5.1",
    }
    assert {key: made[key] for key in expected} == expected
    assert json.loads(made["easyanimate.contents"]) == CONTENTS
    assert json.loads(made["easyanimate.settings"])["warmup"] == 7
    assert datetime.fromisoformat(made["modelspec.date"]).tzinfo is not None
    assert "modelspec.prediction_type" not in made


def test_a_header_says_what_is_predicted_where_the_keys_have_a_word_for_it():
    kinds = {supported.EasyAnimateV3: "epsilon", supported.EasyAnimateV5: "v"}
    for kind, prediction in kinds.items():
        assert header(kind.__new__(kind))["modelspec.prediction_type"] == prediction
