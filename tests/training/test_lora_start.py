"""A LoRA that starts from a file: what the file does at first, its rank, and what it can't be."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.components import one_step
from support.pack import part
from support.recorded import relative_error

lora = part("easyanimate_models.training.denoiser.lora")
lora_start = part("easyanimate_models.training.denoiser.lora_start")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
buckets = part("easyanimate_models.training.clips.buckets")
dataset = part("easyanimate_models.training.clips.dataset")
samples = part("easyanimate_models.training.samples")
runs = part("easyanimate_models.training.denoiser.run")
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
load_lora = part("easyanimate_models.lora").load_lora
SETTINGS = lora.LoraSettings(rank=3, alpha=6)
PLAN = TrainingPlan(steps=1, learning_rate=1e-9, warmup=0, ema=0.5, clip=1.0, seed=3, schedule="constant")


@pytest.fixture(scope="module")
def adapters(models):
    """Adapters that change something."""
    made = lora.add_adapters(models[0], SETTINGS)[1]
    with torch.no_grad():
        for i, adapter in enumerate(made.values()):
            adapter.up.copy_(0.3 * torch.randn(adapter.up.shape, generator=torch.Generator().manual_seed(i)))
    return made


def peft_names(adapters):
    """As PEFT writes them, without alpha: it is in the matrices."""
    tensors = {}
    for key, tensor in lora.host_names(adapters).items():
        layer = key.removeprefix("diffusion_model.")
        if layer.endswith("lora_down.weight"):
            tensors["base_model.model." + layer.replace("lora_down", "lora_A")] = tensor
        elif layer.endswith("lora_up.weight"):
            tensors["base_model.model." + layer.replace("lora_up", "lora_B")] = tensor * 2
    return tensors


@pytest.mark.parametrize("names", [lora.host_names, lora.original_names, peft_names])
def test_at_first_it_does_what_its_file_does(names, models, adapters, tmp_path):
    file = tmp_path / "start.safetensors"
    save_file(names(adapters), file)
    start = lora_start.read_lora_start(file, models[0])
    assert (start.rank, start.alpha) == (3, 3 if names is peft_names else 6)
    patcher, made = lora.add_adapters(models[0], replace(SETTINGS, rank=start.rank, alpha=start.alpha))
    start.copy_to(made)
    expected = one_step(load_lora(file, models[0])[0])
    assert relative_error(one_step(patcher), expected) < 1e-4
    assert relative_error(one_step(models[0]), expected) > 1e-2


@pytest.fixture(scope="module")
def encoded(encoders, tmp_path_factory):
    clip, vae = encoders
    items = dataset.in_memory([torch.rand(8, 32, 32, 3)], ["a red ball"])
    with torch.no_grad():
        return latent_cache.encode_dataset(
            tmp_path_factory.mktemp("set"), buckets.sort_into_buckets(items, 32, 8), vae, clip
        )


def test_a_run_goes_on_from_it_with_its_rank_and_only_from_it(models, adapters, encoded, tmp_path):
    file, said = tmp_path / "start.safetensors", []
    save_file(lora.host_names(adapters), file)
    run = runs.DenoiserRun(tmp_path / "run", PLAN, monitor=samples.Monitor(say=said.append))
    run = replace(run, output=runs.Output(tmp_path / "made.safetensors", "comfyui"))
    settings, data = lora.LoraSettings(16, 16, start=str(file)), DataSettings(32, 8)
    lora_training.train_adapters(models[0], encoded, data, settings, run)
    before, after = load_file(file), load_file(tmp_path / "made.safetensors")
    assert before.keys() == after.keys() and all(torch.allclose(before[k], after[k], atol=1e-3) for k in before)
    assert said == ["start.safetensors has rank 3 and alpha 6, which the run goes on with."]
    elsewhere = file.rename(tmp_path / "moved.safetensors")
    lora_training.train_adapters(models[0], encoded, data, replace(settings, start=str(elsewhere)), run)
    with pytest.raises(ValueError, match="was started before the LoRA to start from changed"):
        lora_training.train_adapters(models[0], encoded, data, lora.LoraSettings(3, 6), run)


def start_of(models, tensors, file):
    save_file(tensors, file)
    return lora_start.read_lora_start(file, models[0])


def test_what_can_not_be_trained_further_is_refused_in_a_sentence(models, adapters, tmp_path):
    tensors, file = lora.host_names(adapters), tmp_path / "start.safetensors"
    layer = next(iter(adapters)).replace("/", ".")
    without = lora.add_adapters(models[0], replace(SETTINGS, motion=False))[1]
    with pytest.raises(CheckpointError, match=r"changes \d+ layers that are not trained here .*motion modules"):
        start_of(models, tensors, file).copy_to(without)
    text = {
        f"text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_{k}.weight": torch.ones(1, 1)
        for k in ("up", "down")
    }
    with pytest.raises(CheckpointError, match="changes 1 layers that are not trained here .*such as the text encoder"):
        start_of(models, tensors | text, file)
    with pytest.raises(CheckpointError, match=r"different rank and alpha \(3 and 5, 3 and 6\)"):
        start_of(models, tensors | {f"diffusion_model.{layer}.alpha": torch.tensor(5.0)}, file)
    with pytest.raises(CheckpointError, match="has other parts than plain LoRA"):
        start_of(models, tensors | {f"diffusion_model.{layer}.dora_scale": torch.ones(1)}, file)
    with pytest.raises(CheckpointError, match="looks like a LoRA for Wan"):
        start_of(models, {f"blocks.0.self_attn.q.lora_{k}.weight": torch.ones(2, 2) for k in ("up", "down")}, file)
