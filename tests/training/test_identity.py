"""A run and what is cached are known by what is in the files: other clips, captions or models under old names show."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.footage import write_image
from support.pack import part

recipes = part("easyanimate_models.training.recipe")
run = part("easyanimate_models.training.recipe_run")
dataset = part("easyanimate_models.training.clips.dataset")
buckets = part("easyanimate_models.training.clips.buckets")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
identity = part("easyanimate_models.training.identity")
lora = part("easyanimate_models.lora")
sd = part("easyanimate_models.sd")
TINY = part("easyanimate_models.files.model_files").TINY
TINY_RECIPE = Path(recipes.__file__).parent / "recipes" / "lora_tiny.toml"

pytestmark = pytest.mark.usefixtures("gradients")


def write_still(file: Path, red: int = 255, caption: str = "a picture") -> Path:
    """A picture whose size and time are those of every other of its sides."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_image(file)
    colours = bytes(value for i in range(64 * 64) for value in (i % 64, i // 64, red))
    file.write_bytes(file.read_bytes()[:54] + colours)
    os.utime(file, (1, 1))
    file.with_suffix(".txt").write_text(caption)
    return file


@pytest.fixture
def clips(tmp_path) -> Path:
    write_still(tmp_path / "clips" / "a.bmp")
    write_still(tmp_path / "clips" / "b.bmp", 60, "another")
    return tmp_path / "clips"


def recipe(clips: Path, folder: Path, **changed):
    read = recipes.read_recipe(TINY_RECIPE)
    plan, data = replace(read.plan, steps=2, warmup=1), replace(read.data, batch=1)
    return replace(read, clips=clips, folder=folder, plan=plan, data=data, **changed)


def _other_clip(clips: Path) -> None:
    write_still(clips / "a.bmp", 10)


def _other_caption(clips: Path) -> None:
    (clips / "a.txt").write_text("a figure.")


def _swapped_captions(clips: Path) -> None:
    for name, text in (("a", "another"), ("b", "a picture")):
        (clips / f"{name}.txt").write_text(text)


@pytest.mark.parametrize(
    ("change", "what", "text"),
    [
        (_other_clip, "the clips", False),
        (_other_caption, "the captions", False),
        (_swapped_captions, "the captions", True),
    ],
)
def test_a_finished_run_on_other_contents_is_not_given_again(clips, tmp_path, change, what, text):
    read = recipes.read_recipe(TINY_RECIPE)
    short = recipe(clips, tmp_path / "run", lora=replace(read.lora, rank=2, alpha=2, text=text))
    made = run.run_recipe(short).read_bytes()
    assert run.run_recipe(short).read_bytes() == made
    change(clips)
    with pytest.raises(ValueError, match=f"run was started before {what} changed; .* or choose another name"):
        run.run_recipe(short)


@pytest.mark.parametrize(
    ("name", "what"), [("transformer", "the transformer"), ("vae", "the VAE"), ("text_encoder", "the text encoder")]
)
def test_another_model_under_the_same_name_is_another_run(clips, tmp_path, name, what):
    shutil.copytree(TINY / name, tmp_path / "models" / name)
    models = replace(recipes.read_recipe(TINY_RECIPE).models, **{name: str(tmp_path / "models" / name)})
    short = recipe(clips, tmp_path / "run", models=models)
    run.run_recipe(short)
    file = next((tmp_path / "models" / name).glob("*.safetensors"))
    save_file({key: tensor * 1.01 for key, tensor in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=f"run was started before {what} changed"):
        run.run_recipe(short)


def test_a_vae_is_known_by_its_clips(clips, tmp_path):
    read = recipes.read_recipe(TINY_RECIPE.with_stem("vae_tiny_decoder"))
    settings = replace(read.vae, perceptual=0.0, adversary=0.0)
    plan = replace(read.plan, steps=2, warmup=1)
    short = replace(recipe(clips, tmp_path / "run", kind="vae", vae=settings, lora=None), plan=plan)
    run.run_recipe(short)
    _other_clip(clips)
    with pytest.raises(ValueError, match="run was started before the clips changed"):
        run.run_recipe(short)


def test_a_run_of_an_older_version_resumes(clips, tmp_path, caplog):
    short = recipe(clips, tmp_path / "run")
    made = run.run_recipe(short).read_bytes()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert set(plan.pop("contents")) == {"clips", "captions", "VAE", "text encoder", "transformer"}
    (tmp_path / "run" / "plan.json").write_text(json.dumps(plan))
    with caplog.at_level("INFO"):
        assert run.run_recipe(short).read_bytes() == made
    assert "was started by an older version" in caplog.text


def test_clips_that_share_a_name_a_size_and_a_time_are_encoded_apart(tmp_path):
    files = [write_still(tmp_path / folder / "0001.bmp", red) for folder, red in (("red", 255), ("blue", 10))]
    assert files[0].stat().st_size == files[1].stat().st_size
    found = buckets.sort_into_buckets(dataset.read_dataset(tmp_path), 64, 1)
    with torch.no_grad():
        encoded = latent_cache.encode_dataset(tmp_path, found, sd.load_vae(TINY), None)
    first, second = (load_file(e.latents)["latents"] for e in next(iter(encoded.examples.values())))
    assert not torch.equal(first, second)


def test_a_clip_that_is_renamed_is_known_again(clips, tmp_path):
    short = recipe(clips, tmp_path / "run")
    run.run_recipe(short)
    for ending in (".bmp", ".txt"):
        (clips / "a").with_suffix(ending).rename((clips / "aa").with_suffix(ending))
    run.run_recipe(short)


def test_a_model_is_known_by_its_loras_too_loaded_or_not(clips, tmp_path):
    file = run.run_recipe(recipe(clips, tmp_path / "grey"))
    model = sd.load_transformer(TINY)
    plain = identity.model_fingerprint(model)
    for strength in (1.0, 0.5):
        patched, _ = lora.load_lora(file, model, strength_model=strength)
        before = identity.model_fingerprint(patched)
        assert before != plain
        patched.patch_model()
        assert identity.model_fingerprint(patched) == before
        assert identity.model_fingerprint(model) == plain
        patched.unpatch_model()
    assert len({identity.model_fingerprint(lora.load_lora(file, model, strength_model=s)[0]) for s in (1, 0.5)}) == 2
