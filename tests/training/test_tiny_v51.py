"""The second built-in model's training at toy size: every stage, its files, and what a text tower knows."""

import json
import random
import shutil
from dataclasses import replace

import pytest
import torch
from comfy_extras.nodes_camera_trajectory import WanCameraEmbedding
from PIL import Image

from support.pack import part

model_files = part("easyanimate_models.files.model_files")
scenes = part("easyanimate_models.training.toy.scenes")
camera = part("easyanimate_models.conditioning.camera")
scene_camera = part("easyanimate_models.training.toy.scene_camera")
scene_clips = part("easyanimate_models.training.toy.scene_clips")
scene_evaluation = part("easyanimate_models.training.toy.scene_evaluation")
scene_latents = part("easyanimate_models.training.toy.scene_latents")
text_tower = part("easyanimate_models.training.toy.text_tower")
tiny_v51 = part("easyanimate_models.training.toy.tiny_v51")
evaluation = part("easyanimate_models.training.toy.evaluation")
sd = part("easyanimate_models.sd")
prompt = part("easyanimate_models.text_encoders.prompt")
initialize = part("easyanimate_models.training.initialize")
mmdit = part("easyanimate_models.dit.mmdit")
stages = part("easyanimate_models.training.toy.stages")
tiny = part("easyanimate_models.training.toy.tiny")
read_tensors = tiny.read_tensors
SMALL_VAE = replace(tiny_v51.VAE, channels=(4, 4, 8, 8))
SMALL_DIT = replace(tiny_v51.DIT, width=32, depth=2, heads=2)
KNOWN = "A red ball moves left, the camera is still."


@pytest.fixture(scope="module")
def vocabulary():
    return text_tower.Vocabulary()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder in which every stage has taken a step or two."""
    folder = tmp_path_factory.mktemp("tiny_v51")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_v51, "VAE", SMALL_VAE)
        patch.setattr(tiny_v51, "DIT", SMALL_DIT)
        patch.setattr(scene_latents, "SHARD", 2)
        patch.setattr(scene_evaluation, "RECONSTRUCTED", 1)
        tiny_v51.train_vae_stills(folder, steps=1)
        tiny_v51.train_vae(folder, steps=1)
        tiny_v51.train_text(folder, steps=2, batch=4)
        tiny_v51.encode_latents(folder, count=1)
        tiny_v51.encode_small_latents(folder, count=1)
        tiny_v51.train_stills(folder, steps=1, batch=2)
        tiny_v51.train_small(folder, steps=1, batch=1)
        tiny_v51.train_videos(folder, steps=1, batch=1)
        tiny_v51.fine_tune(folder, steps=1, batch=1)
        tiny_v51.export(folder)
        yield folder


def test_the_loaders_read_what_it_writes(run):
    model, vae = sd.load_transformer(run / "model"), sd.load_vae(run / "model")
    assert type(model.model.model_config).__name__ == "EasyAnimateV51"
    assert model.model.diffusion_model.config == SMALL_DIT
    assert model.model.model_config.cfg == tiny_v51.CFG
    assert (vae.video.width, vae.video.height, vae.video.length, vae.video.fps) == (128, 128, 25, 12)
    trained, loaded = read_tensors(run / "fine_tune.safetensors"), model.model.diffusion_model.state_dict()
    assert all(torch.equal(loaded[name].bfloat16(), tensor.bfloat16()) for name, tensor in trained.items())


def test_its_text_encoder_gives_what_the_transformer_was_trained_on(run, vocabulary):
    tower = text_tower.new_tower(vocabulary)
    tower.load_state_dict({k: v.bfloat16().float() for k, v in read_tensors(run / "text.safetensors").items()})
    trained = text_tower.encode(tower, *vocabulary([KNOWN]))
    clip = sd.load_text_encoder(run / "model")
    context, options = prompt.encode_prompt(clip, [KNOWN])[0]
    assert context.shape == (1, 256, text_tower.SIZES["hidden_size"])
    torch.testing.assert_close(context.float(), trained.detach(), atol=2e-2, rtol=2e-2)
    assert torch.equal(options["attention_mask"], vocabulary([KNOWN])[1])


def test_its_latents_have_the_scale_that_the_transformer_was_trained_on(run):
    rng = random.Random((tiny_v51.SEED + 1) * 1_000_003)
    shown = [scenes.draw_scene(scenes.split_things()[0], rng) for _ in range(2)]
    pixels, _ = scene_clips.render(shown, rng)
    clips, vae = scene_latents.SceneLatents(run / "latents"), sd.load_vae(run / "model")
    assert clips.scenes == shown
    encoded = vae.encode((pixels[0].movedim(0, -1) + 1) / 2)
    scaled = sd.load_transformer(run / "model").model.process_latent_in(encoded)
    assert float((scaled - clips.standardised([0], None)).square().mean().sqrt()) < 0.06
    assert abs(float(clips.standardised([0, 1], None).std()) - 1) < 0.05


def test_it_is_judged_on_objects_that_training_never_saw(run):
    sheet = run / "sheet.png"
    result = scene_evaluation.evaluate_scenes(run / "model", sheet, count=1, settings=evaluation.Settings(steps=1))
    assert result["psnr"] > 0 and set(result) == {"psnr", *scene_evaluation.KINDS, scene_evaluation.BY_PATH}
    assert all(0 <= result["one"][name] <= 1 for name in ("colour", "motion", "shape", "objects", "camera"))
    assert Image.open(sheet).height > 3 * 128
    judged = [scene for kind in scene_evaluation.KINDS for scene in scene_evaluation.held_out_scenes(9, kind)]
    assert {thing for scene in judged for thing in scene.things} <= set(scenes.split_things()[1])


def test_its_decoder_learns_alone(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_v51, "VAE", SMALL_VAE)
    shutil.copy(run / "vae.safetensors", tmp_path)
    with torch.enable_grad():
        tiny_v51.train_decoder(tmp_path, steps=1)
    before, after = (read_tensors(folder / "vae.safetensors") for folder in (run, tmp_path))
    learnt = {name.partition(".")[0] for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert learnt == {"decoder", "post_quant_conv"}
    assert torch.equal(
        tiny_v51._trained_vae(tmp_path).state_dict()["decoder.conv_out.weight"], after["decoder.conv_out.weight"]
    )


def test_live_previews_have_its_colours(run):
    latent_format = sd.load_transformer(run / "model").model.latent_format
    assert len(latent_format.latent_rgb_factors) == 16 and len(latent_format.latent_rgb_factors_bias) == 3


def test_small_latents_are_those_of_smaller_clips(run):
    whole, small = (
        scene_latents.SceneLatents(run / name, like=run / "latents") for name in ("latents", "small_latents")
    )
    assert whole.latents.shape[2:] == (7, 16, 16) and small.latents.shape[2:] == (7, 8, 8)
    assert torch.equal(whole.mean, small.mean) and torch.equal(whole.deviation, small.deviation)


def test_small_clips_have_one_object_which_is_as_large_as_each_of_two(run):
    clips = scene_latents.SceneLatents(run / "small_latents")
    assert {len(scene.things) for scene in clips.scenes} == {1}
    moved, rng = scenes.Thing("red", "ball", "left"), random.Random(3)
    alone, beside = (
        float(scene_clips.draw_paths(scenes.Scene(things, "black"), rng).things[0, 0, 2])
        for things in ((moved,), (moved, moved))
    )
    smallest, largest = scene_clips.RADIUS
    assert smallest / largest <= alone / 2 / beside <= largest / smallest


@pytest.mark.parametrize(
    ("preset", "pan", "zoom"), [("Pan Right", 35.0, 1.0), ("Pan Left", -35.0, 1.0), ("Zoom In", 0, 1.625)]
)
def test_a_usual_camera_has_the_rays_of_the_host_at_speed_1(preset, pan, zoom):
    """Its path is even in space; that of a zoom in clips is even in size, so only its end is the same."""
    t = torch.linspace(0, 1, scene_clips.FRAMES)
    ours = scene_camera.camera_rays(torch.stack([pan * (t - 0.5), 1 + (zoom - 1) * t], -1), torch.Size((7, 16, 16)))
    size = scene_clips.SIZE
    embedding = WanCameraEmbedding.execute(preset, size, size, scene_clips.FRAMES).result[0]
    theirs = camera.camera_latents(embedding, torch.Size((1, 6, 7, 16, 16)))[0]
    torch.testing.assert_close(ours[:, [0, -1]], theirs[:, [0, -1]], atol=0.3, rtol=0)
    assert float((ours[:3, -1]).abs().max()) > 5


def test_some_clips_come_with_their_camera_or_their_first_frame(run, monkeypatch):
    monkeypatch.setattr(scene_latents, "TEXT_DROPOUT", 0.0)
    clips, texts = scene_latents.SceneLatents(run / "latents"), []
    batches = scene_latents.SceneBatches(clips, None, None)
    monkeypatch.setattr(batches, "_context", lambda all_texts, rows, rng: texts.extend(all_texts) or (None, None))
    batch = batches.videos(400, rows=48)(0, random.Random(0))
    rays, reference = batch.given[:, :6], batch.given[:, 6:]
    with_rays, with_reference = (part.flatten(1).any(1) for part in (rays, reference))
    assert 90 < int(with_rays.sum()) < 150 and 40 < int(with_reference.sum()) < 80
    assert any(torch.equal(rays[with_rays][0], each) for each in clips.rays.float())
    assert torch.equal(reference[with_reference][:, :, 0], batch.latents[with_reference][:, :, 0])
    assert not reference[:, :, 1:].any()
    still = batches.videos(2, rows=48)(9, random.Random(0))
    assert still.latents.shape[2] == 1 and not still.given.any()


def test_a_caption_may_leave_a_given_camera_out():
    scene, rng = scenes.Scene((scenes.Thing("red", "ball", "left"),), "black", "zoom in"), random.Random(0)
    assert all("camera" in scenes.caption(scene, rng) for _ in range(20))
    assert not any("camera" in scenes.caption(scene, rng, camera=False) for _ in range(20))
    assert scenes.describe(scene, rng, camera=False).camera == scenes.STILL


def test_encoding_goes_on_where_it_stopped(run, monkeypatch):
    folder = run / "latents"
    monkeypatch.setattr(scene_latents, "SHARD", 2)
    before = (folder / "0000.safetensors").stat().st_mtime_ns
    vae = tiny_v51._trained_vae(run)
    scene_latents.encode_shards(folder, vae, scenes.split_things()[0], 2, seed=1)
    assert (folder / "0000.safetensors").stat().st_mtime_ns == before
    both = scene_latents.SceneLatents(folder)
    assert len(both.scenes) == len(both.latents) == 4
    assert torch.equal(both.mean, both.latents[:2].float().mean((0, 2, 3, 4)))


def test_training_goes_on_from_shipped_weights(run, tmp_path, monkeypatch):
    """With the same words, latents around 0 with a deviation of 1, and a transformer that `videos` takes up."""
    for name, value in (("VAE", SMALL_VAE), ("DIT", SMALL_DIT)):
        monkeypatch.setattr(tiny_v51, name, value)
    monkeypatch.setattr(scene_latents, "SHARD", 2)
    tiny_v51.restore(tmp_path, run / "model")
    words, restored = (read_tensors(folder / "text.safetensors") for folder in (run, tmp_path))
    assert words.keys() == restored.keys()
    assert all(torch.equal(words[name].bfloat16().float(), tensor) for name, tensor in restored.items())
    tiny_v51.encode_latents(tmp_path, count=1)
    before, after = (scene_latents.SceneLatents(folder / "latents") for folder in (run, tmp_path))
    assert float(after.mean.abs().max()) < 0.05 and float((after.deviation - 1).abs().max()) < 0.05
    assert float((after.standardised([0, 1], None) - before.standardised([0, 1], None)).abs().max()) < 0.1
    started = tiny_v51._trained_vae(tmp_path).state_dict()
    with torch.enable_grad():
        tiny_v51.train_videos(tmp_path, steps=1, batch=1)
        tiny_v51.export(tmp_path)
        tiny_v51.train_vae(tmp_path, steps=1)
    assert sd.load_transformer(tmp_path / "model").model.diffusion_model.config == SMALL_DIT
    trained = tiny_v51._trained_vae(tmp_path).state_dict()
    assert all(float((trained[name] - tensor).abs().max()) < 0.01 for name, tensor in started.items())


def test_the_vae_that_is_shipped_keeps_clips_to_their_end():
    """Two objects that training never saw; a VAE that learnt from short clips had 19 dB in the last frames."""
    vae, rng = sd.load_vae(model_files.TINY_V51), random.Random(9)
    (scene,) = scene_evaluation.held_out_scenes(1, "two", seed=1)
    frames = (scene_clips.render([scene], rng)[0].movedim(1, -1) + 1) / 2
    error = (vae.decode(vae.encode(frames)) - frames).square().flatten(2, 4).mean(-1)[0]
    assert -10 * float(error.mean().log10()) > 27
    assert -10 * float(error[-4:].mean().log10()) > 26


def test_words_that_it_was_not_taught_are_nothing_to_it(run, vocabulary):
    embeddings = read_tensors(run / "model" / "text_encoder" / "model.safetensors")["model.embed_tokens.weight"]
    known = embeddings.abs().amax(1) > 0
    assert set(known.nonzero()[:, 0].tolist()) == set(vocabulary.tokens.tolist())
    rng = random.Random(5)
    texts = [scenes.caption(scenes.draw_scene(scenes.split_things()[0], rng), rng) for _ in range(200)]
    ids, mask = vocabulary(texts)
    assert (ids != text_tower.UNKNOWN).all() and int(mask.sum(1).max()) <= tiny_v51.SHORT_TEXT
    assert (vocabulary(["a red dragon"])[0] == text_tower.UNKNOWN).any()


def test_a_phrase_is_judged_where_it_ends(vocabulary):
    thing = scenes.Thing("orange", "star", "bounce")
    text = "The orange star bounces up and down on a black background."
    caption = scenes.Caption(text, (thing,), (text.index(" on"),), "black", "still", True)
    wanted = text_tower.targets([caption], vocabulary, 60)
    tokens = [token for token, *_ in vocabulary.tokenizer.tokenize_with_weights(text)[0]]
    (place,) = (wanted["motion"][0] != text_tower.IGNORED).nonzero()[:, 0].tolist()
    (behind,) = (wanted["background"][0] != text_tower.IGNORED).nonzero()[:, 0].tolist()
    decode = vocabulary.tokenizer.tokenizer.decode
    assert decode([tokens[place]]) == " down" and decode([tokens[behind]]) == "<|im_end|>"
    assert wanted["motion"][0, place] == text_tower.CLASSES["motion"].index("bounce")
    assert wanted["background"][0, behind] == text_tower.CLASSES["background"].index("black")


def test_stages_are_chosen_by_name():
    assert stages.chosen_stages(["v51"]) == list(tiny_v51.STAGES.values())
    assert stages.chosen_stages(["v51", "text", "vae"]) == [tiny_v51.train_text, tiny_v51.train_vae]
    assert stages.chosen_stages(["restore", "vae"]) == [tiny.restore, tiny.train_tiny_vae]
    assert tiny.restore not in stages.chosen_stages([])
    assert stages.chosen_stages(["v51", "restore", "vae"]) == [tiny_v51.restore, tiny_v51.train_vae]
    with pytest.raises(ValueError, match="no stage named images; choose among vae_stills, vae, decoder, text, latents"):
        stages.chosen_stages(["v51", "images"])


def test_a_prompt_is_told_which_words_its_text_encoder_was_not_taught(run):
    clip = sd.load_text_encoder(run / "model")
    assert prompt.lost_text(clip, KNOWN) == []
    (note,) = prompt.lost_text(clip, "a red dragon flies, dragon!")
    assert "not taught" in note and "dragon, flies, !. It knows only: ball, circle, " in note
    for phrase in ("star, red, ", "sky, stays still, moves left, ", "the camera pans left, ", "the camera zooms in."):
        assert phrase in note


def test_a_list_of_words_that_is_none_does_not_stop_a_text_encoder(run, tmp_path):
    folder = shutil.copytree(run / "model" / "text_encoder", tmp_path / "model" / "text_encoder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"taught_words": 5}))
    (note,) = prompt.lost_text(sd.load_text_encoder(tmp_path / "model"), "a red dragon")
    assert note.endswith("ignores them: dragon.")


def test_a_transformer_from_scratch_begins_with_blocks_that_change_nothing():
    torch.manual_seed(0)
    network = initialize.reset_parameters(mmdit.MMDiT(SMALL_DIT, **tiny.OPS))
    network.initialize_weights()
    tokens = {"img": torch.randn(1, 12, 32), "txt": torch.randn(1, 3, 32)}
    place = network.positions(1, 3, 4, {}, None)
    img, txt = network.transformer_blocks[0](tokens["img"].clone(), tokens["txt"], torch.randn(1, 64), place, {})
    assert torch.equal(img, tokens["img"]) and torch.equal(txt, tokens["txt"])
    given_too = torch.randn(1, SMALL_DIT.in_channels, 2, 4, 4)
    out = network(given_too, torch.tensor([500.0]), torch.randn(1, 3, 24))
    assert out.shape == (1, 16, 2, 4, 4) and not out.any()
