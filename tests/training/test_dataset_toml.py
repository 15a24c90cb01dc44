"""Several folders as one data set, as other trainers describe them, and what becomes of captions."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given

from support.footage import write_clip, write_image
from support.mutations import answered, fuzzed, tomls
from support.pack import part

dataset = part("easyanimate_models.training.clips.dataset")
dataset_toml = part("easyanimate_models.training.clips.dataset_toml")
buckets = part("easyanimate_models.training.clips.buckets")
captions = part("easyanimate_models.training.clips.captions")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
RecipeError = part("easyanimate_models.files.toml_settings").RecipeError

DIFFUSION_PIPE = """
resolutions = [64]
frame_buckets = [1, 8]
enable_ar_bucket = true
[[directory]]
path = "films"
num_repeats = 3
[[directory]]
path = "stills"
resolutions = [32, [64, 16]]
"""
MUSUBI = """
[general]
resolution = [128, 32]
caption_extension = ".txt"
batch_size = 1
[[datasets]]
video_directory = "films"
target_frames = [1, 8]
num_repeats = 2
[[datasets]]
video_jsonl_file = "films/list.jsonl"
resolution = 32
target_frames = [8]
"""
KOHYA = """
[[datasets]]
resolution = 64
[[datasets.subsets]]
image_dir = "stills"
num_repeats = 2
[[datasets.subsets]]
image_dir = "stills"
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    write_clip(tmp_path / "films" / "a.mp4", frames=9, width=64, height=64).with_suffix(".txt").write_text("a film")
    (tmp_path / "stills").mkdir()
    write_image(tmp_path / "stills" / "b.png").with_suffix(".txt").write_text("a still")
    (tmp_path / "films" / "list.jsonl").write_text(json.dumps({"video_path": "a.mp4", "caption": "listed"}))
    return tmp_path


def read(folder: Path, text: str) -> list[tuple]:
    (folder / "dataset.toml").write_text(text)
    items = dataset.read_dataset(folder)
    assert [vars(item) for item in dataset.read_dataset(folder / "dataset.toml")] == [vars(item) for item in items]
    return [(item.file.name, item.side, item.most_frames) for item in items]


def test_diffusion_pipes_folders_are_read(folder, caplog):
    assert read(folder, DIFFUSION_PIPE) == [("a.mp4", 64, 8)] * 3 + [("b.png", 32, 8), ("b.png", 32, 8)]
    assert "has no use for enable_ar_bucket" in caplog.text


def test_musubis_folders_and_lists_are_read(folder, caplog):
    assert read(folder, MUSUBI) == [("a.mp4", 64, 8)] * 2 + [("a.mp4", 32, 8)]
    assert "has no use for batch_size" in caplog.text


def test_kohyas_subsets_are_read(folder):
    assert read(folder, KOHYA) == [("b.png", 64, 0)] * 3


def test_each_folder_has_its_own_size_and_counts_so_often(folder):
    (folder / "dataset.toml").write_text(DIFFUSION_PIPE)
    found = buckets.sort_into_buckets(dataset.read_dataset(folder), side=16, max_frames=1)
    sizes = {(bucket.frames, bucket.height, bucket.width): len(items) for bucket, items in found.items()}
    assert sizes == {(8, 64, 64): 3, (1, 32, 32): 2}
    contents = latent_cache.contents_of(dataset.read_dataset(folder), with_captions=True)
    (folder / "dataset.toml").write_text(DIFFUSION_PIPE.replace("[64]", "[48]"))
    assert latent_cache.contents_of(dataset.read_dataset(folder), with_captions=True) != contents


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1", "dataset.toml lists no folders; give each a table"),
        ("[[directory]]\nnum_repeats = 2", "has a folder without a path"),
        (
            '[[directory]]\npath = "films"\nnum_repeats = 0',
            "num_repeats is 0; it must be a whole number from 1 to 10000",
        ),
        ('[[directory]]\npath = "films"\nresolutions = 512', "resolutions is 512; it must be a list"),
        ('[[directory]]\npath = "films"\nresolutions = ["big"]', "resolution is 'big'; it must be a whole number"),
        ('[[directory]]\npath = "films"\nframe_buckets = [-1]', "frames is -1; it must be a whole number from 0"),
        ('[[datasets]]\nimage_directory = "x"\ncaption_extension = ".cap"', "'.cap'; save captions in .txt files"),
        ('[[directory]]\npath = "gone"', "The folder .*gone does not exist"),
        (
            '[[directory]]\npath = "films"\nresolutions = [100000000]',
            "resolution is 100000000; it must be a whole number",
        ),
        ("[[directory]]\npath = 5", "has a folder whose path is 5; give it a valid path"),
        (f'[[directory]]\npath = "{"x" * 5000}"', "has a folder whose path is 'xxx"),
        ("general = 1\ndirectory = []", "general is 1; it must be a section"),
        ("directory = [1]", "has 1 where a folder is described"),
    ],
)
def test_what_is_wrong_is_said(folder, text, message):
    (folder / "dataset.toml").write_text(text)
    with pytest.raises(dataset.DatasetError, match=message):
        dataset.read_dataset(folder)


def test_whatever_is_in_the_file_is_answered_in_a_sentence(folder):
    @fuzzed
    @given(content=tomls(MUSUBI))
    def test(content):
        (folder / "dataset.toml").write_bytes(content)
        answered(lambda: buckets.sort_into_buckets(dataset.read_dataset(folder), 64, 8))

    test()


def test_a_file_that_is_no_toml_is_named(folder):
    (folder / "dataset.toml").write_text("[[")
    with pytest.raises(RecipeError, match="dataset.toml can't be read"):
        dataset.read_dataset(folder)


def test_a_node_reads_nothing_outside_of_the_folder(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "dataset.toml").write_text(f'[[directory]]\npath = "{elsewhere.as_posix()}"')
    with pytest.raises(dataset.DatasetError, match="which is outside .*; move it there"):
        dataset.read_dataset(folder, within=True)
    (folder / "dataset.toml").write_text(DIFFUSION_PIPE)
    assert len(dataset.read_dataset(folder, within=True)) == 5


def test_a_trigger_word_is_in_every_caption_once():
    texts = ("a film", "a sks film", "film of [trigger], [trigger]", "")
    assert [captions.with_trigger(text, "sks") for text in texts] == [
        "sks, a film",
        "a sks film",
        "film of sks, sks",
        "sks",
    ]
    assert captions.with_trigger("a film", "") == "a film"


def test_tags_come_in_so_many_orders_and_the_first_stay():
    text, order = "sks, a, b,c, d", captions.TagOrder(shuffles=5, keep=1)
    variants = order.variants(text)
    assert len(variants) == 5 and len(set(variants)) > 1 and variants == order.variants(text)
    assert all(v.startswith("sks, ") and sorted(v.split(", ")) == ["a", "b", "c", "d", "sks"] for v in variants)
    assert {order.draw(text, random.Random(seed)) for seed in range(40)} == set(variants)
    assert captions.AS_WRITTEN.variants(text) == [text]
    untouched, rng = random.Random(0), random.Random(0)
    assert captions.AS_WRITTEN.draw(text, rng) == text and rng.random() == untouched.random()


def test_all_orders_are_encoded_and_drawn(encoders, folder):
    clip, vae = encoders
    data = DataSettings(side=32, frames=8, trigger_word="sks", caption_shuffles=4)
    items = captions.add_trigger(dataset.read_dataset(folder / "films"), data.trigger_word)
    items[0] = dataset.replace(items[0], text="sks, red, blue, grey, green")
    found = buckets.sort_into_buckets(items, 32, 8)
    encoded = latent_cache.encode_dataset(folder, found, vae, clip, data=data)
    assert set(encoded.texts) == {"", *data.tag_order.variants(items[0].text)}
    batches = encoded.batches(1, 0, 0.0, order=data.tag_order)
    drawn = {tuple(batches(step, None).context.flatten()[:400].tolist()) for step in range(24)}
    assert len(drawn) == len(encoded.texts) - 1
