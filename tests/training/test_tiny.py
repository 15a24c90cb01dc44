"""The built-in model follows held-out prompts; its model card has the full figures."""

import json

import pytest
import torch
from safetensors.torch import load_file

from support.pack import ROOT, part
from tools.workflows import graphs

evaluation = part("easyanimate_models.training.toy.evaluation")
judging = part("easyanimate_models.training.toy.judging")
previewers = part("easyanimate_models.training.toy.previewer")
TINY = part("easyanimate_models.files.model_files").TINY
PROMPTS = 24


def test_it_makes_what_prompts_say_that_training_never_saw():
    scenes, prompts = evaluation.held_out_prompts(PROMPTS, seed=1)
    score = judging.score(evaluation.generate(TINY, prompts, evaluation.Settings(), seed=1), scenes)
    assert score.colour >= 0.9
    assert score.motion >= 0.8
    assert score.shape >= 0.6


def test_its_vae_gives_held_out_clips_back():
    assert evaluation.reconstruction_psnr(TINY, count=8) >= 28


def test_the_template_uses_the_settings_it_was_judged_with():
    workflow = json.loads((ROOT / "workflows" / f"{graphs.text_to_video_tiny().name}.json").read_text())
    _, _, steps, cfg, sampler, scheduler, denoise = next(
        node["widgets_values"] for node in workflow["nodes"] if node["type"] == "EasyAnimateSampler"
    )
    assert evaluation.Settings(steps, cfg, sampler) == evaluation.Settings()
    assert (scheduler, denoise) == ("easyanimate", 1)


def test_it_is_small_and_has_every_part_of_v3():
    files = list(TINY.rglob("*.safetensors"))
    parts = {file.parent.name for file in files}
    assert parts == {"text_encoder", "vae", "transformer", "transformer_inp", "lora", "preview"} and len(files) == len(
        parts
    )
    assert sum(file.stat().st_size for file in files) <= 25e6
    config = part("easyanimate_models.sd").load_transformer(TINY).model.diffusion_model.config
    assert [kind.attentions for kind in config.motion] == [("temporal", "temporal"), ("temporal", "global")]
    assert config.skips.stored >= 3
    assert {value.dtype for file in files for value in load_file(file).values()} == {torch.float16}


@pytest.mark.usefixtures("gradients")
def test_a_previewer_learns_from_latents_and_the_colours_below(tmp_path):
    torch.manual_seed(0)
    tensors = {"mean": torch.zeros(4), "deviation": torch.ones(4)}
    for kind, frames in (("clips", 6), ("stills", 1)):
        tensors[kind] = torch.randn(24, 4, frames, 8, 8)
        tensors[f"{kind} colours"] = tensors[kind][:, :3].tanh()
    part("easyanimate_models.files.atomic").write_safetensors(tmp_path / "latents.safetensors", tensors)
    previewers.train_previewer(tmp_path, steps=80, batch=4)
    rows = part("easyanimate_models.training.journal").read_log(tmp_path / "preview" / "log.csv")
    assert float(rows[-1]["loss"]) < 0.9 * float(rows[0]["loss"])
    previewers.export_previewer(tmp_path, tmp_path / "tiny")
    assert (tmp_path / "tiny" / "preview" / "model.safetensors").stat().st_size < 30_000
