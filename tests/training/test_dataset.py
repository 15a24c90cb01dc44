"""Folders of clips as artists have them: captions in three forms, broken files among good ones, any shape."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.footage import write_clip, write_image
from support.pack import part

dataset = part("easyanimate_models.training.clips.dataset")
slicing = part("easyanimate_models.vae.slicing")
video_sizes = part("easyanimate_models.vae.video_sizes")
buckets = part("easyanimate_models.training.clips.buckets")
windows = part("easyanimate_models.training.clips.windows")
kept = part("easyanimate_models.training.clips.tensor_cache")
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
Item, Bucket = dataset.Item, buckets.Bucket


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.mp4", "b c.mp4", "ü/d.mp4"):
        file = write_clip(tmp_path / name)
        file.with_suffix(".txt").write_text(f"clip {name}\n", encoding="utf-8")
    write_image(tmp_path / "still.png").with_suffix(".txt").write_text("a still")
    return tmp_path


def test_clips_and_images_come_with_their_captions(folder):
    items = dataset.read_dataset(folder)
    found = {item.file.name: (item.text, item.frames, item.height, item.width) for item in items}
    assert found == {
        "a.mp4": ("clip a.mp4", 12, 48, 64),
        "b c.mp4": ("clip b c.mp4", 12, 48, 64),
        "d.mp4": ("clip ü/d.mp4", 12, 48, 64),
        "still.png": ("a still", 1, 64, 64),
    }


def test_frames_are_those_asked_for(folder):
    item = dataset.read_dataset(folder)[0]
    frames = dataset.read_frames(item, 2, 4, every=2)
    assert frames.shape == (4, 48, 64, 3)
    grey = frames.mean((1, 2, 3))
    assert torch.allclose(grey, torch.tensor([2.0, 4.0, 6.0, 8.0]) / 11, atol=0.02)
    with pytest.raises(OSError, match="has only 10 of the 12 frames needed"):
        dataset.read_frames(item, 2, 12)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.json"])
def test_a_list_of_captions_is_read_and_a_text_file_wins(folder, name):
    key = "file" if name.endswith("l") else "file_path"
    rows = [{key: "a.mp4", "text": "from the list", "type": "video"}, {key: "ü/d.mp4", "text": "never read"}]
    rows.append({key: "b c.mp4", "text": "", "rejected": "too still"})
    text = "\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows, indent=1)
    (folder / name).write_text(text, encoding="utf-8")
    (folder / "a.txt").unlink()
    assert {i.file.name: i.text for i in dataset.read_dataset(folder)} == {
        "a.mp4": "from the list",
        "d.mp4": "clip ü/d.mp4",
    }


def test_a_list_may_name_a_clip_several_times_in_other_words(folder):
    rows = [{"file": "ü/d.mp4", "text": text} for text in ("one", "two")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "ü" / "d.txt").unlink()
    assert [(i.file.name, i.text) for i in dataset.read_dataset(folder)] == [("d.mp4", "one"), ("d.mp4", "two")]


def test_one_broken_clip_among_good_ones_is_named_and_left_out(folder, caplog):
    broken = folder / "broken.mp4"
    broken.write_bytes(b"not a video at all")
    broken.with_suffix(".txt").write_text("a clip")
    with caplog.at_level(logging.WARNING):
        assert len(dataset.read_dataset(folder)) == 4
    assert "broken.mp4" in caplog.text and "1 of 5 files" in caplog.text


def _empty(folder: Path) -> None:
    for file in folder.rglob("*.*"):
        file.unlink()


def _without_captions(folder: Path) -> None:
    (folder / "a.txt").unlink()


def _all_broken(folder: Path) -> None:
    for file in [*folder.rglob("*.mp4"), *folder.rglob("*.png")]:
        file.write_bytes(b"x")


def _list_that_leaves(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file": "../../secret.mp4", "text": "a"}))


def _list_that_is_none(folder: Path) -> None:
    (folder / "metadata.jsonl").write_text("file,text\na.mp4,a clip")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_empty, "contains no clips or images; add some"),
        (_without_captions, r"1 of 4 files in .* have no caption \(a.mp4\); describe each one in a .txt file"),
        (_all_broken, "None of the 4 files in .* can be read"),
        (_list_that_leaves, "names ../../secret.mp4, which is outside"),
        (_list_that_is_none, "metadata.jsonl has a line that is not valid JSON"),
    ],
)
def test_a_folder_that_teaches_nothing_says_why(folder, spoil, message):
    spoil(folder)
    with pytest.raises(dataset.DatasetError, match=message):
        dataset.read_dataset(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(dataset.DatasetError, match="The folder .*missing does not exist"):
        dataset.read_dataset(tmp_path / "missing")


def test_clips_in_memory_need_a_caption_each():
    clips = [torch.rand(8, 32, 32, 3)] * 2
    assert [i.text for i in dataset.in_memory(clips, ["a ball"])] == ["a ball", "a ball"]
    for few, texts, message in (
        ([], [], "nothing to train on; choose a folder, or connect"),
        (clips, ["a", "b", "c"], "2 clips and 3 captions"),
        (clips, ["a", " "], "2 clips and 1 captions"),
    ):
        with pytest.raises(dataset.DatasetError, match=message):
            dataset.in_memory(few, texts)


def item(frames: int, height: int, width: int, name: str = "x.mp4") -> Item:
    return Item(Path(name), "x", frames, height, width, 24.0)


def test_all_shapes_have_nearly_the_same_area():
    for side in (64, 256, 512):
        for height, width in buckets.shapes(side):
            assert height % 16 == 0 and width % 16 == 0
            assert 0.25 <= height / width <= 4
            assert abs(height * width / side**2 - 1) < 0.35 if side == 64 else 0.1


@pytest.mark.parametrize(
    ("frames", "height", "width", "bucket"),
    [
        (100, 720, 1280, Bucket(96, 384, 688)),
        (1000, 512, 512, Bucket(144, 512, 512)),
        (1, 1024, 1024, Bucket(1, 512, 512)),
        (7, 512, 512, None),  # no whole slice
        (48, 200, 1000, None),  # too wide
        (48, 100, 100, None),  # far too small
    ],
)
def test_a_clip_goes_where_it_fits(frames, height, width, bucket):
    assert buckets.bucket_for(item(frames, height, width), 512, 144) == bucket


def test_every_second_frame_makes_half_as_many():
    assert buckets.bucket_for(item(100, 512, 512), 512, 144, every=2).frames == 48


def test_an_image_and_a_clip_never_share_a_batch(caplog):
    items = [item(48, 512, 512), item(1, 512, 512), item(50, 510, 512), item(3, 512, 512)]
    found = buckets.sort_into_buckets(items, 512, 144)
    assert {b.frames: len(found[b]) for b in found} == {1: 1, 48: 2}
    assert "3 frames) fits none of the training sizes" in caplog.text
    with pytest.raises(dataset.DatasetError, match="None of the 1 clips fit: a clip needs at least 8 frames"):
        buckets.sort_into_buckets(items[3:], 512, 144)


def window_starts(*items: Item, seed: int = 0, **changed) -> list[tuple[int, int]]:
    """(frames, start) of every window of clips that may have 48 frames."""
    settings = DataSettings(512, 48, **changed)
    sorted_items = buckets.sort_into_buckets(items, 512, 48, settings.every)
    cut = windows.cut_into_windows(sorted_items, settings, seed)
    return [(bucket.frames, each.start) for bucket, found in cut.items() for each in found]


def test_one_window_is_the_beginning():
    assert window_starts(item(100, 512, 512), item(60, 512, 512)) == [(48, 0), (48, 0)]


def test_windows_lie_anywhere_and_no_two_are_the_same():
    found = window_starts(item(100, 512, 512), windows=8)
    assert len(found) == len(set(found)) == 8
    assert all(frames == 48 and 0 <= start <= 100 - 48 for frames, start in found)
    assert max(start for _, start in found) - min(start for _, start in found) > 20
    assert all(start + 47 * 2 < 100 for _, start in window_starts(item(100, 512, 512), windows=8, every=2))


def test_windows_come_from_the_seed_and_the_name_alone():
    long, other = item(1000, 512, 512), item(1000, 512, 512, "folder/y.mp4")
    assert window_starts(long, windows=3) == window_starts(item(1000, 512, 512, "elsewhere/x.mp4"), windows=3)
    assert set(window_starts(long, windows=3)) < set(window_starts(other, long, windows=3))
    assert window_starts(long, windows=3) != window_starts(other, windows=3)
    assert window_starts(long, windows=3) != window_starts(long, windows=3, seed=1)


@pytest.mark.parametrize(("frames", "every", "starts"), [(48, 1, [0]), (95, 2, [0]), (50, 1, [0, 1, 2])])
def test_a_short_clip_gives_no_window_twice(frames, every, starts):
    assert window_starts(item(frames, 512, 512), windows=5, every=every) == [(48, start) for start in starts]


def test_some_windows_are_shorter_and_go_where_they_fit():
    found = window_starts(item(5000, 512, 512), item(1, 512, 512), windows=500, lengths="random")
    lengths = [frames for frames, _ in found]
    assert set(lengths) == {1, 8, 16, 24, 32, 40, 48} and lengths.count(1) == 1
    assert 0.85 < lengths.count(48) / 500 < 0.95  # the original's odds
    assert len(set(found)) == len(found) == 501


@pytest.mark.parametrize("frames", [0, 2, 5, 7])
def test_too_few_frames_are_the_fault_of_the_setting_and_of_no_clip(frames):
    """One frame is an image, and a slice has eight."""
    least = 8 if frames > 4 else 5
    with pytest.raises(ValueError, match=f"^frames is {frames}; set it to {least} or more .* or to 1 for images"):
        buckets.sort_into_buckets([item(20, 64, 64)], 64, DataSettings(64, frames).frames)
    assert [DataSettings(64, few).frames for few in (1, 5, 8, 9)] == [1, 5, 8, 9]


def test_clips_of_later_releases_have_4n_and_one_frames():
    lengths = video_sizes.clip_lengths(slicing.CAUSAL)
    found = [buckets.bucket_for(item(frames, 64, 64), 64, 49, 1, lengths) for frames in (1, 4, 5, 8, 9, 48, 200)]
    assert [bucket and bucket.frames for bucket in found] == [1, None, 5, 5, 9, 45, 49]
    sorted_items = buckets.sort_into_buckets([item(60, 64, 64)], 64, 49, 1, lengths)
    cut = windows.cut_into_windows(sorted_items, DataSettings(64, 49, windows=300, lengths="random"), 0, lengths)
    assert {bucket.frames for bucket in cut} <= set(range(5, 50, 4)) and len(cut) > 5
    assert video_sizes.clip_lengths(slicing.SLICES) == video_sizes.clip_lengths(slicing.PAIRS) == buckets.SLICE_LENGTHS


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"side": 0}, "side is 0; set it to 16 or more"),
        ({"every": 0}, "every is 0; set it to 1 or more"),
        ({"batch": 0}, "batch is 0; set it to 1 or more"),
        ({"text_dropout": 1.5}, "text_dropout is 1.5; set it to a share from 0 to 1"),
        ({"clip_dropout": -0.1}, "clip_dropout is -0.1; set it to a share from 0 to 1"),
    ],
)
def test_other_sizes_that_make_no_sense_are_an_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(**{"side": 512, "frames": 48, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"windows": 0}, "windows is 0; set it to 1 or more"), ({"lengths": "any"}, "lengths is 'any'")],
)
def test_windows_that_make_no_sense_are_an_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(512, 48, **wrong)


def test_files_are_read_once_while_there_is_room(tmp_path, monkeypatch):
    files = [tmp_path / name for name in "abc"]
    for i, file in enumerate(files):
        save_file({"x": torch.full([100], float(i))}, file)
    read, load = [], kept.load_file
    monkeypatch.setattr(kept, "load_file", lambda file: read.append(file.name) or load(file))
    small = kept.TensorCache(max_bytes=900)  # two of 400 bytes
    for i in (0, 1, 0, 2, 0, 1):  # the third replaces the second, which was used longest ago
        assert torch.equal(small(files[i])["x"], torch.full([100], float(i)))
        assert small.bytes == 400 * len(small.files) <= 900
    assert "".join(read) == "abcb"
    files[0].write_bytes(b"other")
    with pytest.raises(OSError, match="a can't be read .* delete it and encode the dataset again"):
        kept.TensorCache()(files[0])
