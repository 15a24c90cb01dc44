"""A text encoder that learns too: through the host's T5, into files that every loader reads, gone without a trace."""

from dataclasses import replace
from types import SimpleNamespace

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.components import assert_gradient_is_right, one_step
from support.pack import part
from support.recorded import GOLDEN, relative_error

sd = part("easyanimate_models.sd")
lora = part("easyanimate_models.training.denoiser.lora")
frozen_base = part("easyanimate_models.training.denoiser.frozen_base")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
data_settings = part("easyanimate_models.training.clips.settings")
node_run = part("easyanimate_models.training.node_run")
GivenFrames = part("easyanimate_models.training.clips.given_inputs").GivenFrames
samples = part("easyanimate_models.training.samples")
text_lora = part("easyanimate_models.training.denoiser.text_lora")
dataset = part("easyanimate_models.training.clips.dataset")
load_lora = part("easyanimate_models.lora").load_lora
TINY = part("easyanimate_models.files.model_files").TINY
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
PLAN = TrainingPlan(steps=4, learning_rate=3e-3, warmup=2, ema=0.9, clip=1.0, seed=3, schedule="constant")
SETTINGS = lora.LoraSettings(rank=4, alpha=4)
TEXT = "A red ball, moving LEFT"


def reading(clip, text: str = TEXT) -> torch.Tensor:
    return clip.encode_from_tokens(clip.tokenize(text)).clone()


@pytest.fixture
def reader(models):
    """A text encoder whose adapters say something, loaded as training loads it."""
    torch.manual_seed(0)
    reader = text_lora.TrainableTextEncoder(models[1], SETTINGS)
    for adapter in reader.adapters.values():
        adapter.up.data.normal_(std=0.2)
    frozen_base.load_frozen(reader.clip.patcher)
    return reader


def test_texts_are_read_in_one_go_as_the_host_reads_each(models, reader):
    for adapter in reader.adapters.values():
        adapter.up.data.zero_()
    context, mask = (reader([TEXT, ""])[name] for name in ("context", "mask"))
    for i, text in enumerate((TEXT.lower(), "")):
        each, more = models[1].encode_from_tokens_scheduled(models[1].tokenize(text))[0]
        assert torch.allclose(context[i], each[0], atol=1e-5)
        assert torch.equal(mask[i], more["attention_mask"][0].float())


def test_gradients_through_the_text_encoder_are_right(reader):
    """Against what a small step really changes, at both ends of the network."""
    direction = torch.randn(1, 120, 32, generator=torch.Generator().manual_seed(1))
    for layer in ("0/layer/0/SelfAttention/q", "1/layer/1/DenseReluDense/wo"):
        up = reader.adapters[f"t5xxl/transformer/encoder/block/{layer}"].up
        assert_gradient_is_right(reader, up, TEXT, direction)


@pytest.mark.parametrize("naming", lora.NAMINGS)
def test_a_trained_text_encoder_comes_back_from_its_file(models, reader, tmp_path, naming):
    model, clip, _ = models
    changed, file = reading(reader.clip), tmp_path / "words.safetensors"
    before = reading(clip)
    assert relative_error(changed, before) > 0.05
    save_file(lora.NAMINGS[naming](reader.adapters), file)
    loaded = [load_lora(file, model, clip)[1]]
    if naming == "comfyui":  # of the original's names the stock loader knows none
        loaded.append(comfy.sd.load_lora_for_models(model, clip, load_file(file), 1.0, 1.0)[1])
    for each in loaded:
        assert relative_error(reading(each), changed) < 1e-2
    assert torch.equal(reading(load_lora(file, model, clip, strength_clip=0.0)[1]), before)
    assert torch.equal(reading(clip), before)


def test_layers_are_called_as_by_the_original(reader):
    recorded = load_file(GOLDEN / "v3_lora" / "lora.safetensors")  # of two blocks too
    assert {key for key in recorded if key.startswith("lora_te")} == set(lora.original_names(reader.adapters))


def test_a_text_encoder_learns_and_its_weights_stay(models, tmp_path, monkeypatch):
    model, clip, _ = models
    frozen = {name: tensor.clone() for name, tensor in clip.cond_stage_model.state_dict().items()}
    before = reading(clip), one_step(model)
    monkeypatch.setattr(node_run, "_paths", lambda name, _: (tmp_path / f"{name}.safetensors", tmp_path / name))
    clips = dataset.in_memory([torch.rand(8, 32, 32, 3) for _ in range(3)], ["a red ball", "a blue ball", "a box"])
    data, settings = data_settings.DataSettings(side=32, frames=8, batch=2), replace(SETTINGS, text=True)
    with torch.inference_mode():  # as the host runs nodes
        result = node_run.train_lora(node_run.TrainingJob("new", *models, clips, data, PLAN), settings, "comfyui")
    tensors = load_file(result.file)
    ups = [name for name in tensors if name.startswith("text_encoders.") and name.endswith("lora_up.weight")]
    assert len(ups) == 14 and all(tensors[name].any() for name in ups)
    assert any(name.startswith("diffusion_model.") for name in tensors)
    assert not list(tmp_path.rglob("text.*"))
    assert relative_error(reading(result.clip), before[0]) > 1e-4
    assert torch.equal(reading(clip), before[0]) and torch.equal(one_step(model), before[1])
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in clip.cond_stage_model.state_dict().items())


def test_sample_prompts_are_encoded_by_the_trained_text_encoder(models, reader):
    data, wanted = data_settings.DataSettings(32, 8), samples.SampleSettings(every=1, prompt=TEXT)
    subject = samples.preview_inputs(wanted, data, *models[1:], given=GivenFrames())
    (((context, options),),), (negative,) = reader.encode_prompts(subject)
    ((before, options_before),) = subject.positives[0]
    assert options.keys() == options_before.keys() and relative_error(context, before) > 0.05
    assert negative[0].shape == context.shape


def test_weights_that_the_host_scales_learn_what_the_file_says():
    adapter, plain = (lora.LowRank(torch.Size([8, 6]), SETTINGS, scale) for scale in (torch.tensor(0.25), None))
    adapter.up.data.normal_()
    plain.load_state_dict(adapter.state_dict())
    weight = torch.randn(8, 6)
    assert torch.allclose(adapter(weight) * 0.25, plain(weight * 0.25), atol=1e-6)


def test_a_text_encoder_of_another_kind_is_named():
    with pytest.raises(ValueError, match="can't be trained; load T5, or BERT and mT5, with Load EasyAnimate"):
        text_lora.TrainableTextEncoder(SimpleNamespace(cond_stage_model=torch.nn.Module()), SETTINGS)
