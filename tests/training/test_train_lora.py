"""A LoRA trained on clips: encoded once, trained in the host's model, read by every loader, removed without a trace."""

import logging
import random
from dataclasses import replace

import comfy.sd
import comfy.utils
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.components import one_step
from support.pack import part
from support.recorded import relative_error
from support.stand_ins import write_image_encoder
from support.tiny_networks import tiny_transformer

sd = part("easyanimate_models.sd")
lora = part("easyanimate_models.training.denoiser.lora")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
DenoiserRun = part("easyanimate_models.training.denoiser.run").DenoiserRun
data_settings = part("easyanimate_models.training.clips.settings")
diffusion = part("easyanimate_models.training.denoiser.diffusion")
node_run = part("easyanimate_models.training.node_run")
encoded = part("easyanimate_models.training.clips.latent_cache")
dataset = part("easyanimate_models.training.clips.dataset")
buckets = part("easyanimate_models.training.clips.buckets")
windows = part("easyanimate_models.training.clips.windows")
GivenFrames = part("easyanimate_models.training.clips.given_inputs").GivenFrames
kept = part("easyanimate_models.training.clips.tensor_cache")
dit_training = part("easyanimate_models.training.denoiser.objective")
shapes = part("easyanimate_models.training.toy.shapes")
load_lora = part("easyanimate_models.lora").load_lora
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
TINY = part("easyanimate_models.files.model_files").TINY
PLAN = TrainingPlan(steps=4, learning_rate=3e-3, warmup=2, ema=0.9, clip=1.0, seed=3, schedule="constant")
SETTINGS = lora.LoraSettings(rank=4, alpha=4)


@pytest.fixture(scope="module")
def clips():
    scenes = shapes.split_scenes()[0][:4]
    pixels, _ = shapes.render(scenes, random.Random(0))
    captions = [shapes.caption(s, random.Random(0)) for s in scenes]
    return dataset.in_memory(list((pixels.movedim(1, -1) + 1) / 2), captions)


def sorted_clips(clips):
    return buckets.sort_into_buckets(clips, 64, 24)


def test_what_is_encoded_once_is_not_encoded_again(models, clips, tmp_path, monkeypatch):
    _, clip, vae = models
    first = encoded.encode_dataset(tmp_path, sorted_clips(clips), vae, clip)
    monkeypatch.setattr(vae, "encode", None)
    monkeypatch.setattr(clip, "encode_from_tokens_scheduled", None)
    assert encoded.encode_dataset(tmp_path, sorted_clips(clips), vae, clip) == first
    assert encoded.read_encoded(tmp_path) == first
    with pytest.raises(dataset.DatasetError, match="for another kind of transformer; encode it again"):
        encoded.read_encoded(tmp_path, GivenFrames())
    with pytest.raises(dataset.DatasetError, match="is not encoded yet"):
        encoded.read_encoded(tmp_path / "other")


def test_another_vae_or_clip_is_encoded_anew(models, clips, tmp_path):
    _, clip, vae = models
    bucket, items = next(iter(sorted_clips(clips).items()))
    print_before = encoded.fingerprint(vae.first_stage_model)
    weight = vae.first_stage_model.quant_conv.weight
    with torch.no_grad():
        weight.add_(1.0)
        assert encoded.fingerprint(vae.first_stage_model) != print_before
        weight.sub_(1.0)
    brighter = replace(items[0], pixels=items[0].pixels * 0.9)
    found = encoded.encode_dataset(tmp_path, {bucket: [items[0], brighter]}, vae, clip)
    first, second = found.examples[bucket]
    assert first.latents != second.latents and first.text == second.text


def test_batches_hold_what_was_encoded(models, clips, tmp_path):
    _, clip, vae = models
    found = encoded.encode_dataset(tmp_path, sorted_clips(clips), vae, clip, GivenFrames())
    batch = found.batches(2, seed=0, text_dropout=0.0)(0, None)
    assert batch.latents.shape == (2, 4, 6, 8, 8) and batch.given.shape == (2, 8, 6, 8, 8)
    assert batch.context.shape[0] == 2 and batch.mask.shape == batch.context.shape[:2]
    stored = [vae.encode(item.pixels)[0] for item in clips]
    assert all(min(relative_error(clip, z) for z in stored) < 1e-2 for clip in batch.latents)
    empty = found.batches(2, seed=0, text_dropout=1.0)(0, None)
    assert torch.equal(empty.context[0], empty.context[1])


@pytest.mark.parametrize("inpainting", [False, True])
def test_windows_are_encoded_apart_and_the_beginning_as_before(models, clips, tmp_path, inpainting):
    _, clip, vae = models
    given = GivenFrames() if inpainting else encoded.TEXT_ONLY
    short = replace(clips[0], frames=18, pixels=clips[0].pixels[:18])
    whole = buckets.sort_into_buckets([short], 64, 16)
    parts = windows.cut_into_windows(whole, data_settings.DataSettings(64, 16, windows=5), 0)
    found = encoded.encode_dataset(tmp_path, parts, vae, clip, given)
    (examples,), (items,) = found.examples.values(), parts.values()
    assert [item.start for item in items] == [0, 1, 2] and len({e.latents for e in examples}) == 3
    for item, example in zip(items, examples, strict=True):
        latents = vae.encode(item.pixels[item.start : item.start + 16])[0]
        assert relative_error(load_file(example.latents)["latents"].float(), latents) < 1e-2
    assert encoded.read_encoded(tmp_path, given) == found
    without = encoded.encode_dataset(tmp_path, whole, vae, clip, given)
    assert next(iter(without.examples.values())) == examples[:1]


def test_a_run_reads_no_file_twice_and_learns_the_same(models, clips, tmp_path, monkeypatch):
    _, clip, vae = models
    found = encoded.encode_dataset(tmp_path, sorted_clips(clips), vae, clip, GivenFrames())
    read, load = [], kept.load_file
    monkeypatch.setattr(kept, "load_file", lambda file: read.append(file) or load(file))
    draws = []
    for most in (kept.MAX_BYTES, 0):
        monkeypatch.setattr(kept, "MAX_BYTES", most)
        batches = found.batches(2, seed=0, text_dropout=0.2)
        draws.append([batches(step, None) for step in range(6)])
        assert (len(read) == len(set(read))) == (most > 0)
    for ours, theirs in zip(*draws, strict=True):
        assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("latents", "context", "given"))


def test_what_is_given_is_nothing_the_start_or_both_ends(models, clips, tmp_path):
    """Cached slices put together are what the node would encode."""
    _, clip, vae = models
    found = encoded.encode_dataset(tmp_path, sorted_clips(clips[:1]), vae, clip, GivenFrames())
    stored = load_file(next(iter(found.examples.values()))[0].latents)
    inpaint_latents = part("easyanimate_models.conditioning.inpainting").inpaint_latents
    kinds = set()
    for seed in range(40):
        drawn = GivenFrames().draw(stored, random.Random(seed))
        given, starts = drawn.rows["given"].half(), drawn.starts
        start = [i for i in range(4) if torch.equal(given[:, :2], stored["start"][i])]
        end = [i for i in range(4) if torch.equal(given[:, -2:], stored["end"][i])]
        kinds.add((bool(start), bool(end)))
        assert starts == bool(start)
        if start and end and len(kinds) == 3:
            made = torch.ones(24, 64, 64)
            made[: start[0] + 1] = made[24 - end[0] - 1 :] = 0
            assert relative_error(given.float(), inpaint_latents(vae, clips[0].pixels, made)[0]) < 1e-2
    assert kinds == {(False, False), (True, False), (True, True)}


@pytest.fixture(scope="module")
def with_image_encoder(models, clips, tmp_path_factory):
    """Clips encoded for a model that sees starts through CLIP, and the image encoder."""
    image_encoder = sd.load_image_encoder(write_image_encoder(tmp_path_factory.mktemp("image_encoder")))
    folder, (_, clip, vae) = tmp_path_factory.mktemp("set"), models
    seeing = tiny_transformer(in_channels=12, caption_channels=32, clip_tokens=True)
    with torch.no_grad():
        found = encoded.encode_dataset(
            folder,
            sorted_clips(clips),
            vae,
            clip,
            GivenFrames(),
            image_encoder=encoded.StartImageEncoder(image_encoder, seeing),
        )
    assert encoded.read_encoded(folder, GivenFrames()) == found
    return found, image_encoder


def rows(batches, steps: int):
    for step in range(steps):
        batch = batches(step, None)
        yield from zip(batch.latents, batch.given, batch.clip_embeds, batch.clip_mask, strict=True)


def test_clip_sees_a_start_that_is_given_and_nothing_else(with_image_encoder, clips):
    found, image_encoder = with_image_encoder
    expected = [image_encoder.encode_image(clip.pixels[:1]).image_embeds[0] for clip in clips]
    files = [load_file(example.latents) for example in next(iter(found.examples.values()))]
    given_starts = []
    for latents, given, embeds, mask in rows(found.batches(2, 0, 0.0, clip_dropout=0.0), 20):
        which = next(i for i, file in enumerate(files) if torch.equal(file["latents"].float(), latents))
        starts = not torch.equal(given[:, :2], files[which]["none"][:, :2].float())
        assert torch.equal(mask, torch.full([8], float(starts)))
        assert relative_error(embeds, expected[which]) < 1e-2 if starts else not embeds.any()
        given_starts.append(starts)
    assert 0.4 < sum(given_starts) / len(given_starts) < 0.9


def test_clip_is_left_out_as_often_as_asked_and_all_else_is_as_without_it(with_image_encoder):
    found, _ = with_image_encoder
    shares = [sum(float(mask[0]) for *_, mask in rows(found.batches(2, 0, 0.0, p), 60)) / 120 for p in (0.0, 0.5, 1.0)]
    assert shares[2] == 0 and 0.3 < shares[1] / shares[0] < 0.7
    blind = {bucket: [replace(example, clip_embeds=None) for example in few] for bucket, few in found.examples.items()}
    with_clip, without = (set_.batches(2, 0, 0.3) for set_ in (found, replace(found, examples=blind)))
    for step in range(6):
        ours, theirs = with_clip(step, None), without(step, None)
        assert theirs.clip_embeds is None
        assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("latents", "context", "given"))


def test_a_model_learns_with_its_clip_tokens(with_image_encoder, models, tmp_path, caplog):
    found, image_encoder = with_image_encoder
    model = tiny_transformer(in_channels=12, caption_channels=32, clip_tokens=True)
    assert encoded.start_image_encoder(model, image_encoder)
    assert not encoded.start_image_encoder(models[0], image_encoder) and not caplog.records
    with caplog.at_level(logging.WARNING):
        assert not encoded.start_image_encoder(model, None)
    assert "no image encoder is given" in caplog.text
    batches, embeds_given = dit_training.scaled(found.batches(2, 0, 0.0, 0.0), model), []
    model.model.diffusion_model.clip_projection.register_forward_pre_hook(
        lambda _, args: embeds_given.append(args[0].clone())
    )
    lora_training.fit_adapters(*lora.add_adapters(model, SETTINGS), batches, DenoiserRun(tmp_path, PLAN), {})
    assert len(embeds_given) == PLAN.steps
    assert all(torch.equal(embeds, batches(step, None).clip_embeds) for step, embeds in enumerate(embeds_given))
    batch = next(batch for step in range(20) if (batch := batches(step, None)).clip_mask.all())

    prediction = diffusion.prediction_of(model.model.model_config)

    def loss(**changed) -> torch.Tensor:
        torch.manual_seed(0)
        denoiser, changed_batch = lora_training.FrozenDenoiser(model.model), replace(batch, **changed)
        objective = dit_training.ObjectiveSettings(checkpointing=False)
        return dit_training.denoising_objective(denoiser, lambda *_: changed_batch, prediction, objective, 0)(0)[0]

    masked, without = loss(clip_mask=torch.zeros(2, 8)), loss(clip_embeds=None, clip_mask=None)
    assert torch.allclose(masked, without, rtol=1e-5) and not torch.allclose(loss(), without, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(models, clips, tmp_path_factory):
    """A short run: the MODEL before, what it made, and what came out."""
    folder = tmp_path_factory.mktemp("run")
    before = one_step(models[0])
    patch = pytest.MonkeyPatch()
    patch.setattr(node_run, "_paths", lambda name, _: (folder / f"{name}.safetensors", folder / name))
    data = data_settings.DataSettings(side=64, frames=24, batch=2)
    with torch.inference_mode():  # as the host runs nodes
        result = node_run.train_lora(node_run.TrainingJob("new", *models, clips, data, PLAN), SETTINGS, "comfyui")
    patch.undo()
    return models[0], before, result


def test_the_model_that_was_given_is_as_it_was(trained):
    model, before, _ = trained
    assert torch.equal(one_step(model), before)


def test_all_loaders_read_the_file_as_it_was_trained(trained, tmp_path):
    model, before, result = trained
    trained_step = one_step(result.model)
    assert relative_error(trained_step, before) > 1e-3
    ours, _ = load_lora(result.file, model)
    stock, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(result.file)), 1.0, 0.0)
    for loaded in (ours, stock):
        assert relative_error(one_step(loaded), trained_step) < 1e-3
    off, _ = load_lora(result.file, model, strength_model=0.0)
    assert torch.equal(one_step(off), before)


def test_the_names_of_the_original_are_read_too(trained, tmp_path):
    model, _, result = trained
    tensors = load_file(result.file)
    renamed = {}
    for key, value in tensors.items():
        layer, kind = key.removeprefix("diffusion_model.").split(".lora_") if ".lora_" in key else (key[:-6], "alpha")
        layer = layer.removeprefix("diffusion_model.").replace(".", "_")
        renamed[f"lora_unet__{layer}" + (".alpha" if kind == "alpha" else f".lora_{kind}")] = value
    adapters = torch.nn.ModuleDict({"transformer_blocks/0/attn1/to_q": lora.LowRank(torch.Size([8, 6]), SETTINGS)})
    written = lora.original_names(adapters)
    assert {k.split(".", 1)[0] for k in written} == {"lora_unet__transformer_blocks_0_attn1_to_q"}
    save_file(renamed, tmp_path / "renamed.safetensors")
    loaded, _ = load_lora(tmp_path / "renamed.safetensors", model)
    assert relative_error(one_step(loaded), one_step(result.model)) < 1e-3


def test_adapters_change_nothing_at_first(models):
    assert torch.equal(one_step(lora.add_adapters(models[0], SETTINGS)[0]), one_step(models[0]))


def test_motion_modules_learn_or_not(models):
    both = lora.add_adapters(models[0], SETTINGS)[1]
    without = lora.add_adapters(models[0], replace(SETTINGS, motion=False))[1]
    assert any("attn_temporal" in name for name in both)
    assert without and not any("attn_temporal" in name for name in without)


def test_recomputing_blocks_changes_no_gradient(models, clips, tmp_path):
    model, clip, vae = models
    found = encoded.encode_dataset(tmp_path, sorted_clips(clips), vae, clip)
    batches = dit_training.scaled(found.batches(2, 0, 0.0), model)
    files = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        patcher, adapters = lora.add_adapters(model, SETTINGS)
        objective = dit_training.ObjectiveSettings(checkpointing=checkpointing)
        run = DenoiserRun(tmp_path / str(checkpointing), PLAN, objective)
        lora_training.fit_adapters(patcher, adapters, batches, run, {})
        files.append(lora.host_names(adapters))
    assert all(torch.allclose(files[0][k], files[1][k], atol=1e-4) for k in files[0])
    save_file(files[1], tmp_path / "trained.safetensors")  # and the file holds what was trained
    loaded, _ = load_lora(tmp_path / "trained.safetensors", model)
    assert relative_error(one_step(loaded), one_step(patcher)) < 1e-3


@pytest.mark.parametrize(
    ("rank", "alpha", "message"), [(0, 4, "rank is 0; set it to 1 or more"), (4, 0, "alpha is 0; set it above 0")]
)
def test_a_lora_that_changes_nothing_is_an_error(rank, alpha, message):
    with pytest.raises(ValueError, match=message):
        lora.LoraSettings(rank, alpha)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "..", "C:x", "x\\y"])
def test_a_name_never_leaves_the_folder(name):
    with pytest.raises(ValueError, match="can't be the name of a file"):
        node_run._paths(name, "loras")
