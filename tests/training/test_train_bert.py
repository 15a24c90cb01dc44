"""BERT learns too, in a LoRA of V4 or V5: into files that every loader reads, while mT5 stays as it is."""

import json
from dataclasses import replace

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.components import assert_gradient_is_right
from support.footage import write_clip
from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part
from support.recorded import GOLDEN, relative_error
from support.stand_in_releases import CLIP_WIDTH, write_v4
from support.tiny_networks import random, tiny_release_vae
from support.tiny_text_encoders import BERT, MT5, write_bert_and_mt5, write_qwen

sd = part("easyanimate_models.sd")
lora = part("easyanimate_models.training.denoiser.lora")
frozen_base = part("easyanimate_models.training.denoiser.frozen_base")
node_run = part("easyanimate_models.training.node_run")
prompt = part("easyanimate_models.text_encoders.prompt")
recipes = part("easyanimate_models.training.recipe")
recipe_run = part("easyanimate_models.training.recipe_run")
samples = part("easyanimate_models.training.samples")
text_lora = part("easyanimate_models.training.denoiser.text_lora")
dataset = part("easyanimate_models.training.clips.dataset")
GivenFrames = part("easyanimate_models.training.clips.given_inputs").GivenFrames
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
load_lora = part("easyanimate_models.lora").load_lora
PLAN = TrainingPlan(steps=4, learning_rate=3e-3, warmup=2, ema=0.9, clip=1.0, seed=3, schedule="constant")
SETTINGS = lora.LoraSettings(rank=4, alpha=4)
TEXT = "A red ball moves left"
LAYERS = 6  # of BERT's block
every_release = pytest.mark.parametrize("release", ["V4", "V5"])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The text encoders of V4 and V5."""
    folders = {release: write_bert_and_mt5(tmp_path_factory.mktemp(release), release) for release in ("V4", "V5")}
    return {release: sd.load_text_encoder(folder, release=release) for release, folder in folders.items()}


@pytest.fixture
def readers(clips):
    """The same with adapters that say something, loaded as training loads them."""
    found = {}
    for release, clip in clips.items():
        torch.manual_seed(0)
        reader = found[release] = text_lora.TrainableTextEncoder(clip, SETTINGS)
        for adapter in reader.adapters.values():
            adapter.up.data.normal_(std=0.2)
        frozen_base.load_frozen(reader.clip.patcher)
    return found


def model_of_v5():
    return tiny_mmdit(**TWO_TEXTS | {"caption_channels": BERT["hidden_size"], "caption_channels_2": MT5["d_model"]})


def reading(clip, text: str = TEXT) -> dict:
    """What BERT and mT5 make of a text."""
    ((context, options),) = prompt.encode_prompt(clip, [text])
    return {"context": context.clone(), "context_2": options[prompt.SECOND].clone()}


@every_release
def test_texts_are_read_in_one_go_as_the_host_reads_each(clips, readers, release):
    reader, clip = readers[release], clips[release]
    for adapter in reader.adapters.values():
        adapter.up.data.zero_()
    read = reader([TEXT, ""])
    for i, text in enumerate((TEXT, "")):
        ((context, options),) = prompt.encode_prompt(clip, [text])
        expected = context, options[prompt.SECOND]
        masks = options["attention_mask"], options[prompt.SECOND_MASK]
        for name, embeddings in zip(("context", "context_2"), expected, strict=True):
            torch.testing.assert_close(read[name][i], embeddings[0], atol=1e-4, rtol=1e-4)
        for name, mask in zip(("mask", "mask_2"), masks, strict=True):
            assert torch.equal(read[name][i], mask[0].float())


@every_release
def test_gradients_through_bert_are_right(readers, release):
    """Against what a small step really changes, at both ends of its block."""
    reader, direction = readers[release], random(1, 77, BERT["hidden_size"], seed=1)
    for layer in ("attention/self/query", "output/dense"):
        up = reader.adapters[f"hydit_clip/transformer/bert/encoder/layer/0/{layer}"].up
        assert_gradient_is_right(reader, up, TEXT, direction)


@every_release
def test_bert_comes_back_from_its_file_and_mt5_stays(clips, readers, tmp_path, release):
    model, clip, reader = model_of_v5(), clips[release], readers[release]
    before, changed, made = reading(clip), reading(reader.clip), {}
    assert relative_error(changed["context"], before["context"]) > 0.05
    for naming, names_of in lora.NAMINGS.items():
        file = tmp_path / f"{naming}.safetensors"
        save_file(names_of(reader.adapters), file)
        made[naming] = reading(load_lora(file, model, clip)[1])
    stock = comfy.sd.load_lora_for_models(model, clip, load_file(tmp_path / "comfyui.safetensors"), 1.0, 1.0)[1]
    made["stock"] = reading(stock)
    for each in made.values():
        assert torch.equal(each["context"], made["comfyui"]["context"])
        assert relative_error(each["context"], changed["context"]) < 1e-2
        assert torch.equal(each["context_2"], before["context_2"])
    assert torch.equal(reading(clip)["context"], before["context"])


def test_layers_are_called_as_by_the_original(readers):
    recorded = load_file(GOLDEN / "v51_lora" / "lora_bert_v5.safetensors")
    first = {key for key in recorded if "_layer_0_" in key}
    assert first == set(lora.original_names(readers["V5"].adapters)) and len(first) == 3 * LAYERS


def test_the_node_trains_bert_and_leaves_the_weights(clips, tmp_path, monkeypatch):
    model, clip, vae = model_of_v5(), clips["V5"], tiny_release_vae("V5")
    frozen = {name: tensor.clone() for name, tensor in clip.cond_stage_model.state_dict().items()}
    before = reading(clip)
    monkeypatch.setattr(node_run, "_paths", lambda name, _: (tmp_path / f"{name}.safetensors", tmp_path / name))
    items = dataset.in_memory([torch.rand(9, 32, 32, 3) for _ in range(3)], ["a red ball", "a blue ball", "a fox"])
    samples_wanted = samples.SampleSettings(every=2, prompt=TEXT, steps=1)
    job = node_run.TrainingJob("new", model, clip, vae, items, DataSettings(32, 9, batch=2), PLAN, samples_wanted)
    with torch.inference_mode():  # as the host runs nodes
        result = node_run.train_lora(job, replace(SETTINGS, text=True), "comfyui")
        again = node_run.train_lora(
            replace(job, name="on"), replace(SETTINGS, text=True, start=str(result.file)), "comfyui"
        )
    for file in (result.file, again.file):
        tensors = load_file(file)
        ups = [name for name in tensors if name.startswith("text_encoders.") and name.endswith("lora_up.weight")]
        assert len(ups) == LAYERS and all(tensors[name].any() for name in ups)
        assert any(name.startswith("diffusion_model.") for name in tensors)
    assert not list(tmp_path.rglob("text.*")) and list(tmp_path.rglob("*.webp"))
    learnt = reading(result.clip)
    assert relative_error(learnt["context"], before["context"]) > 1e-4
    assert torch.equal(learnt["context_2"], before["context_2"])
    assert torch.equal(reading(clip)["context"], before["context"])
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in clip.cond_stage_model.state_dict().items())


def test_a_recipe_trains_bert_of_v4_and_resumes(tmp_path):
    release, clips = write_v4(tmp_path / "v4", CLIP_WIDTH), tmp_path / "clips"
    for name in ("a", "b"):
        write_clip(clips / f"{name}.mp4", frames=16, width=64, height=48)
        (clips / f"{name}.txt").write_text(f"clip {name}")
    models = recipes.Models(*[str(release)] * 3)

    def trained(name: str, callback=None, precision: str = "fp32") -> dict:
        recipe = recipes.Recipe(
            "lora",
            tmp_path / name,
            clips,
            models,
            DataSettings(48, 8, batch=2),
            replace(PLAN, precision=precision),
            replace(SETTINGS, text=True),
            True,
        )
        return load_file(recipe_run.run_recipe(recipe, callback))

    def stop(done, _):
        if done == 2:
            raise KeyboardInterrupt

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("cut", stop)
    resumed = trained("cut")
    assert sum(name.startswith("lora_te_") for name in whole) == 3 * LAYERS
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    rounded = trained("bf16", precision="bf16")
    assert rounded.keys() == whole.keys() and all(tensor.isfinite().all() for tensor in rounded.values())
    assert json.loads((clips / ".easyanimate" / "index.json").read_text())["texts"] == {}


@every_release
def test_samples_of_several_prompts_are_each_their_own(readers, release):
    reader = readers[release]
    wanted = samples.SampleSettings(every=1, prompt="one", prompts=("two fox",), steps=1)
    inputs = samples.preview_inputs(
        wanted, DataSettings(32, 9), reader.clip, tiny_release_vae(release), given=GivenFrames()
    )
    positives, _ = reader.encode_prompts(inputs)
    for positive, text in zip(positives, inputs.settings.all_prompts, strict=True):
        expected = reading(reader.clip, text)
        ((context, options),) = positive
        assert torch.equal(context, expected["context"]) and torch.equal(options[prompt.FIRST], context)
        assert torch.equal(options[prompt.SECOND], expected["context_2"])


def test_qwen2_vl_is_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    clip = sd.load_text_encoder(write_qwen(tmp_path))
    monkeypatch.setattr(node_run, "_prepare", None)
    for train in (
        lambda: text_lora.TrainableTextEncoder(clip, SETTINGS),
        lambda: node_run.train_lora(
            node_run.TrainingJob("new", None, clip, None, [], DataSettings(32, 9), PLAN),
            replace(SETTINGS, text=True),
            "comfyui",
        ),
    ):
        with pytest.raises(ValueError, match="can't be trained; load T5, or BERT and mT5"):
            train()
