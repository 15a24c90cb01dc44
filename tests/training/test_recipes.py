"""One file says what is trained: the shipped recipes can be followed, and mistakes in one are named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from support.pack import ROOT, part
from support.stand_ins import write_image_encoder
from support.transformer_files import write_image_transformer, write_transformer

recipes = part("easyanimate_models.training.recipe")
run = part("easyanimate_models.training.recipe_run")
toys = part("easyanimate_models.training.toy.toy_clips")
initialize = part("easyanimate_models.training.initialize")
EasyAnimateV3 = part("easyanimate_models.supported_models").EasyAnimateV3
sd = part("easyanimate_models.sd")
tiny = part("easyanimate_models.training.toy.tiny")
MotionDiT = part("easyanimate_models.dit.motion_dit").MotionDiT
SHIPPED = sorted((ROOT / "easyanimate_models" / "training" / "recipes").glob("*.toml"))
TINY_RECIPE = next(file for file in SHIPPED if file.stem == "lora_tiny")

pytestmark = pytest.mark.usefixtures("gradients")


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A data set with a background of its own."""
    folder = tmp_path_factory.mktemp("clips")
    toys.write_toys(folder, count=3)
    return folder


def short(clips: Path, folder: Path, **changed):
    """The tiny recipe, for three steps."""
    recipe = recipes.read_recipe(TINY_RECIPE)
    plan = replace(recipe.plan, steps=3, warmup=1)
    data = replace(changed.pop("data", recipe.data), batch=2)
    return replace(recipe, clips=clips, folder=folder, plan=plan, data=data, **changed)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_recipe_can_be_read(file):
    recipe = recipes.read_recipe(file)
    assert recipe.kind in file.stem or recipe.kind == "transformer"
    assert (recipe.lora is not None) == (recipe.kind == "lora")


def test_the_toy_clips_are_grey_where_they_say_black(clips):
    dataset = part("easyanimate_models.training.clips.dataset")
    items = dataset.read_dataset(clips)
    assert len(items) == 3 and not any("grey" in item.text for item in items)
    for item in items:
        edge = dataset.read_frames(item, 0, item.frames)[:, 0].median()
        assert abs(float(edge) - 120 / 255) < 0.02
    assert not set(toys.style_scenes(20)[1]) & set(part("easyanimate_models.training.toy.shapes").split_scenes()[1])


def test_the_toy_clips_of_a_word_come_in_several_wordings_among_known_ones(tmp_path):
    toys.write_toys(tmp_path, "word", count=toys.NEW + 2)
    items = part("easyanimate_models.training.clips.dataset").read_dataset(tmp_path)
    new = [item for item in items if toys.NEW_COLOUR in item.text]
    assert len(new) == toys.NEW * toys.WORDINGS and len({item.file for item in new}) == toys.NEW
    assert len(items) - len(new) == 2 and len({item.text for item in new}) > len(new) / 2


def test_a_lora_recipe_makes_a_lora(clips, tmp_path):
    file = run.run_recipe(short(clips, tmp_path / "grey"))
    assert file == tmp_path / "grey" / "grey.safetensors"
    part("easyanimate_models.lora").load_lora(file, sd.load_transformer(tiny.TINY))
    assert (tmp_path / "grey" / "loss.png").exists()


def test_a_recipe_may_leave_blocks_in_ram(clips, tmp_path):
    """With previews meanwhile: what is learnt and what is shown is the same."""
    samples = recipes.SampleSettings(every=2, prompt="a red ball", steps=2, frames=8)
    for name, swapped in (("without", 0), ("with", 3)):
        recipe = short(clips, tmp_path / name, checkpointing=True, samples=samples, blocks_to_swap=swapped)
        run.run_recipe(recipe)
    files = [load_file(tmp_path / name / f"{name}.safetensors") for name in ("without", "with")]
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    shown = [(tmp_path / name / "samples" / "step_000002.webp").read_bytes() for name in ("without", "with")]
    assert shown[0] == shown[1]
    with pytest.raises(ValueError, match="blocks_to_swap is 5, but this transformer has 6 blocks"):
        run.run_recipe(short(clips, tmp_path / "all", checkpointing=True, blocks_to_swap=5))


def test_encoders_are_not_needed_once_all_is_encoded(clips, tmp_path, monkeypatch):
    run.run_recipe(short(clips, tmp_path / "first"))
    encoded = part("easyanimate_models.training.clips.latent_cache")
    found = encoded.read_encoded(clips)
    assert sum(map(len, found.examples.values())) == 3


def test_a_lora_recipe_may_teach_the_text_encoder(clips, tmp_path):
    """Once all is encoded, too."""
    for name in ("first", "second"):
        settings = recipes.LoraSettings(rank=2, alpha=2, text=True)
        file = run.run_recipe(short(clips, tmp_path / name, lora=settings))
        _, clip = part("easyanimate_models.lora").load_lora(
            file, sd.load_transformer(tiny.TINY), sd.load_text_encoder(tiny.TINY)
        )
        assert len(clip.patcher.patches) == 14
        assert json.loads((clips / ".easyanimate" / "index.json").read_text())["texts"] == {}


def test_a_recipe_may_show_starts_to_an_image_encoder(clips, tmp_path):
    (tmp_path / "image_encoder").mkdir()
    config = replace(tiny.DIT, in_channels=12, clip_tokens=True)
    models = replace(
        recipes.read_recipe(TINY_RECIPE).models,
        transformer=str(write_transformer(tmp_path / "base", config)),
        image_encoder=str(write_image_encoder(tmp_path / "image_encoder")),
    )
    run.run_recipe(short(clips, tmp_path / "run", models=models))
    rows = json.loads((clips / ".easyanimate" / "index.json").read_text())["examples"]
    assert len({row["seen"] for row in rows}) == 3
    assert all(load_file(clips / ".easyanimate" / row["seen"])["embeds"].shape == (768,) for row in rows)


def test_a_recipe_may_ask_for_windows(clips, tmp_path):
    data = replace(recipes.read_recipe(TINY_RECIPE).data, frames=8, windows=3)
    run.run_recipe(short(clips, tmp_path, data=data))
    rows = json.loads((clips / ".easyanimate" / "index.json").read_text())["examples"]
    assert len({row["latents"] for row in rows}) == 9 and {tuple(row["bucket"]) for row in rows} == {(8, 64, 64)}


def test_a_transformer_recipe_makes_a_folder_that_loads(clips, tmp_path):
    file = run.run_recipe(short(clips, tmp_path, kind="transformer", lora=None, checkpointing=True))
    trained, before = (sd.load_transformer(path).model.diffusion_model for path in (file.parent, tiny.TINY))
    assert trained.config == before.config
    moved = {n for (n, a), b in zip(trained.named_parameters(), before.parameters(), strict=True) if (a - b).norm() > 0}
    assert any("attn_temporal" in name for name in moved) and any("attn1" in name for name in moved)


def test_an_image_transformer_learns_from_frames_and_its_motion_modules_stay(clips, tmp_path):
    file = tmp_path / "image.toml"
    text = TINY_RECIPE.read_text().replace('kind = "lora"', 'kind = "image_transformer"')
    file.write_text(text[: text.index("[lora]")] + text[text.index("[plan]") :])
    read = recipes.read_recipe(file)
    assert read.data.frames == 1
    made = run.run_recipe(short(clips, tmp_path, kind="image_transformer", lora=None, data=read.data))
    trained, before = (sd.load_transformer(path).model.diffusion_model for path in (made.parent, tiny.TINY))
    for (name, a), b in zip(trained.named_parameters(), before.parameters(), strict=True):
        if "attn_temporal" in name:
            assert torch.equal(a, b.bfloat16().to(a.dtype)), name
    assert not torch.equal(trained.pos_embed.proj.weight, before.pos_embed.proj.weight)
    index = json.loads((clips / ".easyanimate" / "index.json").read_text())
    assert {tuple(row["bucket"]) for row in index["examples"]} == {(1, 64, 64)}


def test_a_fresh_transformer_has_forgotten_everything(clips, tmp_path):
    runs = part("easyanimate_models.training.denoiser.transformer")
    model = sd.load_transformer(tiny.TINY)
    fresh = runs.trainable_network(model, runs.TransformerSettings("image", fresh=True))
    assert fresh.config == model.model.diffusion_model.config
    assert fresh.proj_out.weight.abs().max() == 0
    learning = runs.trained_names(fresh, runs.TransformerSettings("image", fresh=True), EasyAnimateV3)
    assert "caption_projection.linear_1.weight" in learning and not any("attn_temporal" in name for name in learning)
    run.run_recipe(short(clips, tmp_path, kind="image_transformer", lora=None, fresh=True))


def test_motion_modules_learn_alone(clips, tmp_path):
    base = write_image_transformer(tmp_path / "base")
    models = replace(recipes.read_recipe(TINY_RECIPE).models, transformer=str(base))
    file = run.run_recipe(short(clips, tmp_path / "walk", kind="motion_module", lora=None, models=models))
    assert file.name == "walk_mm.safetensors"
    assert all(".attn_temporal." in key for key in load_file(file) if key != "easyanimate_config")
    elsewhere = file.rename(tmp_path / file.name)  # it holds the kind of its motion modules
    both = sd.load_transformer(base, elsewhere).model.diffusion_model
    frozen = load_file(base)
    assert all(torch.equal(both.state_dict()[key], value) for key, value in frozen.items())
    outputs = [p for n, p in both.named_parameters() if n.endswith("temporal_transformer.proj_out.weight")]
    assert outputs and all(p.abs().max() > 0 for p in outputs)


def test_a_recipe_may_ask_for_samples(clips, tmp_path):
    file = tmp_path / "samples.toml"
    file.write_text(TINY_RECIPE.read_text() + '\n[samples]\nevery = 3\nprompt = "a red ball"\nsteps = 1\n')
    settings = recipes.read_recipe(file).samples
    run.run_recipe(short(clips, tmp_path, kind="motion_module", lora=None, samples=settings))
    with Image.open(tmp_path / "samples" / "step_000003.webp") as video:
        assert (video.size, video.n_frames) == ((64, 64), 24)
    assert any(b"sample" in events.read_bytes() for events in (tmp_path / "tensorboard").iterdir())


def test_silent_motion_modules_change_no_frame(tmp_path):
    base = write_image_transformer(tmp_path / "base")
    model = sd.load_transformer(base)
    runs = part("easyanimate_models.training.denoiser.transformer")
    network = runs.trainable_network(model, runs.TransformerSettings("motion"))
    x, context = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 3, 32)
    with torch.no_grad():
        alone = [
            model.model.diffusion_model(x[:, :, f : f + 1], torch.tensor([500]), context=context) for f in range(3)
        ]
        assert torch.allclose(network(x, torch.tensor([500]), context=context), torch.cat(alone, dim=2), atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'kind = "lora"',
            'kind = "dance"',
            "kind is 'dance'; it must be one of lora, motion_module, image_transformer",
        ),
        ("[lora]", "[loar]", "a recipe has no setting loar; it can have"),
        ("rank = 8", "rnak = 8", r"\[lora\] has no setting rnak; it can have alpha, motion, rank, start, text"),
        ("rank = 8", "", r"\[lora\] is missing rank"),
        ("rank = 8", "rank = 0", r"\[lora\] rank is 0; set it to 1 or more"),
        ("learning_rate = 3e-3", "learning_rate = 0.0", r"\[plan\] learning_rate is 0.0; it must be above 0"),
        ("steps = 300", "steps = ", "can't be read as a recipe"),
        ("steps = 300", 'steps = "many"', r"\[plan\] "),
        ('clips = "../../../runs/clips"', "", "set folder .* and clips .* at the top"),
        ('vae = "built-in"', "", r"\[models\] is missing vae"),
        ("[plan]", "[samples]\nevery = 5\n[plan]", r"\[samples\] Samples need a prompt"),
        ("[data]", 'weight_dtype = "int3"\n[data]', r"\[models\] weight_dtype is 'int3'; it must be one of default, "),
        ("batch = 4", 'trigger_word = "sks"\nkeep_tags = -1', r"\[data\] keep_tags is -1; set it to 0 or more"),
        ("[models]", "blocks_to_swap = 2\n[models]", "blocks_to_swap needs checkpointing; remove one of the two"),
        ('kind = "lora"', 'kind = "transformer"\nblocks_to_swap = 2', "blocks_to_swap is for LoRAs, whose base is"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, message):
    text = TINY_RECIPE.read_text()
    assert old in text
    file = tmp_path / "wrong.toml"
    file.write_text(text.replace(old, new))
    with pytest.raises(recipes.RecipeError, match=message):
        recipes.read_recipe(file)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("windows = 4", r"a VAE is trained on any part of a clip; remove windows from \[data\]"),
        ('lengths = "random"', r"remove lengths from \[data\]"),
        ("[samples]\nevery = 5", r"a VAE can't generate videos; remove \[samples\]"),
        ('trigger_word = "x"', r"a VAE reads no captions; remove trigger_word from \[data\]"),
    ],
)
def test_what_is_not_for_a_vae_is_named(tmp_path, more, message):
    file = tmp_path / "wrong.toml"
    file.write_text(TINY_RECIPE.with_stem("vae_tiny_decoder").read_text().replace("[plan]", f"{more}\n\n[plan]"))
    with pytest.raises(recipes.RecipeError, match=message):
        recipes.read_recipe(file)


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(recipes.RecipeError, match=re.escape("missing.toml")):
        recipes.read_recipe(tmp_path / "missing.toml")


def test_the_same_toys_come_again(tmp_path):
    for name in ("a", "b"):
        toys.write_toys(tmp_path / name, count=1)
    first, second = ((tmp_path / name / "toy_0001.txt").read_text() for name in ("a", "b"))
    assert first == second


@pytest.mark.parametrize(("name", "message"), [("colour", "cyan"), ("shape", "cross|plus")])
def test_new_things_are_shown_and_said(tmp_path, name, message):
    toys.write_toys(tmp_path, name, 3)
    dataset = part("easyanimate_models.training.clips.dataset")
    judging = part("easyanimate_models.training.toy.judging")
    for item in dataset.read_dataset(tmp_path):
        assert re.search(message, item.text)
        judged = judging.classify(dataset.read_frames(item, 0, item.frames), (toys.NEW_COLOUR, toys.NEW_SHAPE))
        assert re.search(message, f"{judged.colour} {judged.shape}")


def test_clips_without_loss_come_back_bit_by_bit(tmp_path):
    frames = torch.randint(0, 256, (3, 16, 16, 3)) / 255
    toys.write_clip(tmp_path / "a.mkv", frames)
    (tmp_path / "a.txt").write_text("noise")
    dataset = part("easyanimate_models.training.clips.dataset")
    (item,) = dataset.read_dataset(tmp_path)
    assert torch.allclose(dataset.read_frames(item, 0, 3), frames, atol=1e-6)


def test_a_set_of_toys_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no set of toy clips named 'dogs'; choose one of look, colour"):
        toys.write_toys(tmp_path, "dogs")


def test_weights_that_learn_have_no_other_precision(tmp_path):
    file = tmp_path / "wrong.toml"
    text = TINY_RECIPE.with_stem("transformer_tiny").read_text()
    file.write_text(text.replace("[data]", 'weight_dtype = "bf16"\n\n[data]'))
    with pytest.raises(recipes.RecipeError, match="weight_dtype is for LoRAs, as weights that learn are float32"):
        recipes.read_recipe(file)
