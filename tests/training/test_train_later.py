"""LoRA and full training of V4, V5 and V5.1 in every variant, tiny: from clips to files that both loaders read."""

import json
from dataclasses import replace

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.footage import write_clip
from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part
from support.recorded import relative_error
from support.stand_in_releases import CLIP_WIDTH, write_v4
from support.stand_ins import write_image_encoder
from support.tiny_networks import HUNYUAN_DIT, random, tiny_hunyuan_dit, tiny_release_vae, tiny_transformer
from support.tiny_text_encoders import BERT, MT5, QWEN, write_bert_and_mt5, write_qwen

sd = part("easyanimate_models.sd")
lora = part("easyanimate_models.training.denoiser.lora")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
transformer = part("easyanimate_models.training.denoiser.transformer")
objective = part("easyanimate_models.training.denoiser.objective")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
given_inputs = part("easyanimate_models.training.clips.given_inputs")
control = part("easyanimate_models.conditioning.control")
camera = part("easyanimate_models.conditioning.camera")
inpainting = part("easyanimate_models.conditioning.inpainting")
poses = part("easyanimate_models.conditioning.poses")
prompt = part("easyanimate_models.text_encoders.prompt")
dataset = part("easyanimate_models.training.clips.dataset")
node_run = part("easyanimate_models.training.node_run")
recipe = part("easyanimate_models.training.recipe")
recipe_run = part("easyanimate_models.training.recipe_run")
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
DenoiserRun = part("easyanimate_models.training.denoiser.run").DenoiserRun
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
load_lora = part("easyanimate_models.lora").load_lora
read_log = part("easyanimate_models.training.journal").read_log
PLAN = TrainingPlan(steps=3, learning_rate=3e-3, warmup=1, ema=0.5, clip=1.0, seed=3, schedule="constant")
SETTINGS = lora.LoraSettings(rank=4, alpha=4)
BOTH_TEXTS = {"caption_channels": BERT["hidden_size"], "caption_channels_2": MT5["d_model"]}
OF_V4 = {
    **BOTH_TEXTS,
    "text_length": 77,
    "text_length_2": 256,
    "resampler": replace(HUNYUAN_DIT.resampler, channels=32),
}
OF_V51 = {"caption_channels": QWEN["hidden_size"]}
MODELS = {
    "V5.1": lambda: tiny_mmdit(**OF_V51),
    "V5.1 InP": lambda: tiny_mmdit(**OF_V51, in_channels=33),
    "V5.1 Control": lambda: tiny_mmdit(**OF_V51, in_channels=48),
    "V5.1 Camera": lambda: tiny_mmdit(**OF_V51, in_channels=38),
    "V5 InP": lambda: tiny_mmdit(**TWO_TEXTS | BOTH_TEXTS, in_channels=33),
    "V5 Control": lambda: tiny_mmdit(**TWO_TEXTS | BOTH_TEXTS, in_channels=32),
    "V4 InP": lambda: tiny_hunyuan_dit(**OF_V4),
}
LENGTHS = {"V4": 16}
POSES = "\n".join(f"{i} .5 .9 .5 .5 0 0 1 0 0 {0.1 * i} 0 1 0 0 0 0 1 0" for i in range(16))


@pytest.fixture(scope="module")
def text_encoders(tmp_path_factory):
    """The text encoder of each release."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("V4", "V5", "V5.1")}
    for name, folder in folders.items():
        write_qwen(folder) if name == "V5.1" else write_bert_and_mt5(folder, name)
    return {
        name: sd.load_text_encoder(folder, release=None if name == "V5.1" else name) for name, folder in folders.items()
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips with captions, edges and poses, in a list."""
    folder = tmp_path_factory.mktemp("clips")
    rows = {"poses": [], "edges": []}
    for name in ("a", "b"):
        write_clip(folder / f"{name}.mp4", frames=16, width=64, height=48)
        write_clip(folder / "edges" / f"{name}.mp4", frames=16, width=64, height=48)
        (folder / f"{name}.poses.txt").write_text(POSES)
        text = {"file": f"{name}.mp4", "text": f"clip {name}"}
        rows["edges"].append({**text, "control": f"edges/{name}.mp4"})
        rows["poses"].append({**text, "control": f"{name}.poses.txt"})

    def items(kind: str):
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[kind]))
        return dataset.read_dataset(folder)

    return items


def encoded(name: str, clips, text_encoders, folder, image_encoder=None):
    """A tiny MODEL, its VAE, and the clips encoded for it."""
    release, model = name.split()[0], MODELS[name]()
    vae, given = tiny_release_vae(release), given_inputs.given_inputs(model)
    items, frames = clips("poses" if "Camera" in name else "edges"), LENGTHS.get(release, 9)
    lengths = part("easyanimate_models.vae.video_sizes").clip_lengths(vae.plan)
    sized = part("easyanimate_models.training.clips.buckets").sort_into_buckets(items, 48, frames, 1, lengths)
    start = latent_cache.start_image_encoder(model, image_encoder)
    with torch.no_grad():
        found = latent_cache.encode_dataset(folder, sized, vae, text_encoders[release], given, image_encoder=start)
    assert latent_cache.read_encoded(folder, given) == found
    return model, vae, found


@pytest.mark.parametrize("name", list(MODELS))
def test_a_lora_changes_the_result_the_same_through_both_loaders(name, clips, text_encoders, tmp_path):
    model, _, found = encoded(name, clips, text_encoders, tmp_path / "cache")
    adapters = lora_training.train_adapters(
        model, found, DataSettings(48, 9, batch=2), SETTINGS, DenoiserRun(tmp_path, PLAN)
    )
    assert all(adapter.up.any() for adapter in adapters.values())
    batch = objective.scaled(found.batches(1, 0, 0.0), model)(0, None)
    x = batch.latents if batch.given is None else torch.cat([batch.latents, batch.given], dim=1)

    def predicted(patcher) -> torch.Tensor:
        patcher.patch_model(torch.device("cpu"))
        out = patcher.model.diffusion_model(x, torch.tensor([500.0]), **batch.conditioning())
        patcher.unpatch_model(torch.device("cpu"))
        return out

    before, made = predicted(model), {}
    for naming, names_of in lora.NAMINGS.items():
        file = tmp_path / f"{naming}.safetensors"
        save_file(names_of(adapters), file)
        made[naming] = predicted(load_lora(file, model)[0])
    stock, _ = comfy.sd.load_lora_for_models(model, None, load_file(tmp_path / "comfyui.safetensors"), 1.0, 0.0)
    assert relative_error(made["comfyui"], before) > 1e-4
    assert torch.equal(made["comfyui"], made["original"])
    assert torch.equal(predicted(stock), made["comfyui"])
    assert all("__" in key for key in names_of(adapters)) and torch.equal(predicted(model), before)


@pytest.mark.parametrize("name", ["V5.1 InP", "V5 Control", "V4 InP"])
def test_all_of_a_transformer_learns_and_its_file_loads(name, clips, text_encoders, tmp_path):
    model, _, found = encoded(name, clips, text_encoders, tmp_path / "cache")
    before = {key: tensor.clone() for key, tensor in model.model.diffusion_model.state_dict().items()}
    data, settings = DataSettings(48, 9, batch=2), transformer.TransformerSettings("all")
    network = transformer.train_transformer(model, found, data, settings, DenoiserRun(tmp_path / "run", PLAN))
    release = model.model.model_config
    changed = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed and all(key.startswith(release.trained) for key in changed)
    assert any("blocks.0" in key for key in changed)
    file = transformer.save_transformer(tmp_path / "out" / "transformer", network.state_dict(), network.config, release)
    loaded = sd.load_transformer(file.parent.parent)
    assert type(loaded.model.model_config) is type(release)
    weights = loaded.model.diffusion_model.state_dict()
    assert all(
        torch.equal(weights[key].float(), tensor.bfloat16().float()) for key, tensor in network.state_dict().items()
    )


def test_a_fresh_v4_transformer_begins_with_nothing_and_learns(clips, text_encoders, tmp_path, monkeypatch):
    resampler = replace(HUNYUAN_DIT.resampler, channels=32, projected=True)
    monkeypatch.setitem(MODELS, "V4 InP", lambda: tiny_hunyuan_dit(**{**OF_V4, "resampler": resampler}))
    folder = tmp_path / "image_encoder"
    folder.mkdir()
    clip_vision = sd.load_image_encoder(write_image_encoder(folder))
    model, _, found = encoded("V4 InP", clips, text_encoders, tmp_path / "cache", clip_vision)
    settings, data = transformer.TransformerSettings("all", fresh=True), DataSettings(48, 9, batch=2)
    fresh = transformer.trainable_network(model, settings)
    assert all(weight.isfinite().all() and weight.abs().max() < 10 for weight in fresh.parameters())
    batch = objective.scaled(found.batches(2, 0, 0.0, 0.0), model)(0, None)
    x = torch.cat([batch.latents, batch.given], dim=1)
    assert not fresh(x, torch.tensor([300.0, 700.0]), **batch.conditioning()).any()
    run = DenoiserRun(tmp_path / "run", replace(PLAN, steps=60, learning_rate=5e-3, weight_decay=0.0))
    torch.manual_seed(PLAN.seed)
    before = transformer.trainable_network(model, settings).state_dict()
    network = transformer.train_transformer(model, found, data, settings, run)
    rows = read_log(tmp_path / "run" / "log.csv")
    losses = [float(row["loss"]) for row in rows]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    unchanged = {name for name, weight in network.state_dict().items() if torch.equal(weight, before[name])}
    assert not unchanged


def test_a_recipe_trains_v4_from_scratch(tmp_path):
    release, clips = write_v4(tmp_path / "v4", CLIP_WIDTH), tmp_path / "clips"
    write_clip(clips / "a.mp4", frames=16, width=64, height=48)
    (clips / "a.txt").write_text("clip a")
    models, data = recipe.Models(*[str(release)] * 3), DataSettings(48, 8)
    fresh = recipe.Recipe("transformer", tmp_path / "run", clips, models, data, PLAN, None, True, fresh=True)
    file = recipe_run.run_recipe(fresh)
    assert type(sd.load_transformer(file).model.model_config).__name__ == "EasyAnimateV4"
    before, after = load_file(release / "transformer" / file.name), load_file(file)
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name].bfloat16(), after[name]) for name in before if name.endswith("to_q.weight"))


def rows_of(found, model, steps: int = 24):
    batches = objective.scaled(found.batches(1, 0, 0.0, 0.0), model)
    return [batches(step, None) for step in range(steps)]


def test_inpainting_is_given_what_the_node_gives(clips, text_encoders, tmp_path):
    """Nothing is zeros; frames at the start, and at both ends, are encoded with all of the clip."""
    model, vae, found = encoded("V5.1 InP", clips, text_encoders, tmp_path)
    files = [load_file(example.latents) for few in found.examples.values() for example in few]
    item = clips("edges")[0]
    pixels = dataset.fit_into(dataset.read_frames(item, 0, 9), 48, 64)[:, :48]
    bucket = next(iter(found.examples))
    pixels = dataset.fit_into(dataset.read_frames(item, 0, 9), bucket.height, bucket.width)
    for name, ends in (("start", [(1, 0), (4, 0)]), ("both", [(1, 1), (4, 4)])):
        for row, (first, last) in zip(files[0][name], ends, strict=True):
            mask = torch.ones(pixels.shape[:3])
            mask[:first] = mask[9 - last :] = 0
            assert relative_error(row.float(), inpainting.inpaint_latents(vae, pixels, mask)[0]) < 2e-3
    kinds = {"none": 0, "some": 0}
    for batch in rows_of(found, model):
        kinds["some" if batch.given.any() else "none"] += 1
    assert min(kinds.values()) > 2


def test_control_and_reference_are_given_as_by_the_node_and_left_out_at_times(clips, text_encoders, tmp_path):
    model, vae, found = encoded("V5.1 Control", clips, text_encoders, tmp_path)
    item, bucket = clips("edges")[0], next(iter(found.examples))
    video = dataset.fit_into(dataset.read_control(item, item.control, 9), bucket.height, bucket.width)
    first = dataset.fit_into(dataset.read_frames(item, 0, 1), bucket.height, bucket.width)
    size = (3, bucket.height // 8, bucket.width // 8)
    made = control.control_latents(vae, size, video, first)
    noise = torch.zeros(1, 16, *size)
    expected = model.model.model_config.variant.concat(noise, {"concat_latent_image": made}, model.model.latent_format)
    seen = {(bool(batch.given[:, :16].any()), bool(batch.given[:, 16:].any())) for batch in rows_of(found, model, 60)}
    assert seen == {(True, True), (True, False), (False, True), (False, False)} or len(seen) == 3
    whole = [b.given for b in rows_of(found, model, 60) if b.given[:, :16].any() and b.given[:, 16:].any()]
    assert min(relative_error(given, expected) for given in whole) < 2e-3


def test_a_camera_is_given_as_by_the_node(clips, text_encoders, tmp_path):
    model, _, found = encoded("V5.1 Camera", clips, text_encoders, tmp_path)
    bucket = next(iter(found.examples))
    path = poses.parse_poses(POSES)
    part_of = poses.CameraPath(path.times[:9], path.intrinsics[:9], path.camera_to_world[:9])
    maps = camera.plucker_maps(part_of, bucket.height, bucket.width, 64 / 48)
    embedding = camera.pack(maps.movedim(-1, 1))
    noise = torch.zeros(1, 16, 3, bucket.height // 8, bucket.width // 8)
    conds = {"camera_conditions": embedding}
    expected = model.model.model_config.variant.concat(noise, conds, model.model.latent_format)
    for batch in rows_of(found, model, 6):
        assert relative_error(batch.given[:, :6], expected[:, :6]) < 2e-3 and batch.camera is None


@pytest.mark.parametrize("name", ["V5.1 Control", "V5.1 Camera"])
def test_a_clip_without_its_control_is_named(name, clips, text_encoders, tmp_path):
    model, vae = MODELS[name](), tiny_release_vae("V5.1")
    (item, _), given = clips("edges"), given_inputs.given_inputs(model)
    sized = part("easyanimate_models.training.clips.buckets").sort_into_buckets(
        [replace(item, control=None)], 48, 9, 1, part("easyanimate_models.vae.video_sizes").clip_lengths(vae.plan)
    )
    with pytest.raises(dataset.DatasetError, match="a.mp4 has no (control video|camera path).*in metadata.jsonl"):
        latent_cache.encode_dataset(tmp_path, sized, vae, None, given)


@pytest.mark.parametrize("name", ["V5.1", "V5 InP", "V4 InP"])
def test_texts_are_those_of_the_release_with_their_masks(name, clips, text_encoders, tmp_path):
    release = name.split()[0]
    model, _, found = encoded(name, clips, text_encoders, tmp_path)
    clip = text_encoders[release]
    batch = found.batches(1, 0, text_dropout=1.0)(0, None)
    ((context, options),) = prompt.encode_prompt(clip, [""])
    assert relative_error(batch.context, context) < 2e-3 and torch.equal(batch.mask, options["attention_mask"].float())
    if release != "V5.1":
        assert relative_error(batch.context_2, options[prompt.SECOND]) < 2e-3
        assert torch.equal(batch.mask_2, options[prompt.SECOND_MASK].float())


def test_v4_sees_the_start_through_clip(clips, text_encoders, tmp_path):
    folder = tmp_path / "image_encoder"
    folder.mkdir()
    clip_vision = sd.load_image_encoder(write_image_encoder(folder))
    model, _, found = encoded("V4 InP", clips, text_encoders, tmp_path / "cache", clip_vision)
    seen = [batch for batch in rows_of(found, model) if batch.clip_mask.any()]
    assert seen and seen[0].clip_embeds.shape[-1] == 32 and seen[0].clip_mask.shape == (1, 4)
    item, bucket = clips("edges")[0], next(iter(found.examples))
    first = dataset.fit_into(dataset.read_frames(item, 0, 1), bucket.height, bucket.width)
    expected = clip_vision.encode_image(first)["last_hidden_state"][:, 1:]
    assert min(relative_error(batch.clip_embeds, expected) for batch in seen) < 2e-3


def test_large_numbers_of_a_text_encoder_do_not_overflow_in_the_cache():
    assert latent_cache._compact(random(4)).dtype == torch.float16
    assert torch.equal(latent_cache._compact(1e5 * torch.ones(3)), 1e5 * torch.ones(3))


RELEASES = {
    "V3": tiny_transformer,
    "V4": tiny_hunyuan_dit,
    "V5": lambda: tiny_mmdit(**TWO_TEXTS),
    "V5.1": tiny_mmdit,
}


@pytest.mark.parametrize(
    ("of_vae", "of_transformer"), [("V3", "V5.1"), ("V5", "V5.1"), ("V5.1", "V5"), ("V3", "V4"), ("V4", "V3")]
)
def test_a_vae_of_another_release_is_named(of_vae, of_transformer):
    message = f"The VAE is that of {of_vae}, but the transformer is {of_transformer}; load the VAE of the transformer's"
    with pytest.raises(ValueError, match=message):
        latent_cache.require_latents_of(RELEASES[of_transformer](), tiny_release_vae(of_vae))


@pytest.mark.parametrize("release", RELEASES)
def test_the_vae_of_the_release_is_taken(release, caplog):
    latent_cache.require_latents_of(RELEASES[release](), tiny_release_vae(release))
    assert not caplog.records


def test_a_v2_vae_that_looks_like_v3s_is_explained():
    with pytest.raises(ValueError, match=r"release \(without its config.json, a V2 VAE is loaded as V3\)"):
        latent_cache.require_latents_of(tiny_transformer(), tiny_release_vae("V2"))


def test_an_image_transformer_may_learn_the_latents_of_another_vae(caplog):
    image = tiny_transformer(motion=())
    image.model.latent_format = part("easyanimate_models.latent_formats").ImageLatents()
    latent_cache.require_latents_of(image, tiny_release_vae("V3"))
    assert "The VAE is that of V3, which an image transformer has to be adapted to first" in caplog.text
    with pytest.raises(ValueError, match="The VAE is that of V5.1, but the transformer is V1"):
        latent_cache.require_latents_of(image, tiny_release_vae("V5.1"))
