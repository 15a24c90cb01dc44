"""From a folder of footage to a data set that the trainer reads: killed, resumed, full disks, bad files, captions."""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from support.footage import pan, real_clip, write_video
from support.pack import HOST, ROOT, part

stages = part("easyanimate_models.data.stages")
filters = part("easyanimate_models.data.filters")
ledger = part("easyanimate_models.data.ledger")
files = part("easyanimate_models.data.dataset_file")
engines = part("easyanimate_models.data.engines")
video_file = part("easyanimate_models.media.video_file")
split = part("easyanimate_models.data.split")
PixelScores = part("easyanimate_models.data.pixel_scores").PixelScores
Motion = part("easyanimate_models.data.motion").Motion
read_dataset = part("easyanimate_models.training.clips.dataset").read_dataset

HERE, SHORT = stages.IN_PROCESS, split.SplitSettings(0.5, 2.0)
ANY = filters.Limits(motion=(None, None))


def test_footage_becomes_clips_with_the_captions_beside_it(footage, tmp_path):
    rows = stages.split_footage(footage, tmp_path / "set", SHORT, HERE)
    good = [row for row in rows if not row.get("wrong")]
    assert {row["file"]: row["text"] for row in good} == {
        "clips/pan_001.mp4": "a slow pan",
        "clips/sub_pan_001.mp4": "",
        "clips/sub_pan_002.mp4": "",
        "clips/日本_ü_001.mp4": "",
    }
    wrong = {row["file"]: row["wrong"] for row in rows if row.get("wrong")}
    assert set(wrong) == {"broken.mp4", "empty.mov"} and all(
        "can't be read as a video" in why for why in wrong.values()
    )
    assert files.read_rows(tmp_path / "set") == rows
    spans = {row["file"]: (row["start"], row["end"]) for row in good if row["source"] == "sub/pan.mp4"}
    assert spans == {"clips/sub_pan_001.mp4": (0.0, 0.8), "clips/sub_pan_002.mp4": (0.8, 1.6)}
    again = stages.split_footage(footage, tmp_path / "set", SHORT, HERE)
    assert again == rows


def test_no_two_videos_share_clips(tmp_path):
    names = ("a/b.mp4", "a_b.mp4", "A_B.mov", "a/b.mkv")
    called = stages._stems(tmp_path, [tmp_path / name for name in names])
    assert len({name.casefold() for name in called.values()}) == len(names)


class Counting:
    """A work that counts its calls, and can be killed."""

    name = "counting"

    def __init__(self, dies_at: int | None = None):
        self.files, self.dies_at = [], [dies_at]  # no setting: those are plain

    def __call__(self, file: Path) -> dict:
        if [len(self.files)] == self.dies_at:
            raise KeyboardInterrupt
        self.files.append(file.name)
        return {"count": len(file.name)}


def test_what_was_done_before_a_kill_is_not_done_again(footage, tmp_path):
    home = tmp_path / "set"
    stages.split_footage(footage, home, SHORT, HERE)
    first, second = Counting(dies_at=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        stages.score_clips(home, [first], HERE)
    torn = home / stages.DONE / "counting.jsonl"
    torn.write_bytes(torn.read_bytes() + b'{"key": "clip')  # a line that the crash cut off
    rows = stages.score_clips(home, [second], HERE)
    assert len(first.files) == 2 and len(second.files) == 2 and not set(first.files) & set(second.files)
    assert sorted(row["count"] for row in rows if "count" in row) == sorted(map(len, first.files + second.files))
    assert len(ledger.Ledger(torn).rows) == 4


def test_a_clip_that_changed_is_measured_anew(footage, tmp_path):
    home = tmp_path / "set"
    stages.split_footage(footage, home, SHORT, HERE)
    stages.score_clips(home, [Counting()], HERE)
    write_video(home / "clips" / "pan_001.mp4", pan(8, frames=30))
    again = Counting()
    stages.score_clips(home, [again], HERE)
    assert again.files == ["pan_001.mp4"]


def test_videos_are_not_split_twice(footage, tmp_path, monkeypatch):
    home = tmp_path / "set"
    rows = stages.split_footage(footage, home, SHORT, HERE)
    monkeypatch.setattr(stages, "split", lambda *_: pytest.fail("split again"))
    assert stages.split_footage(footage, home, SHORT, HERE) == rows


def test_copies_of_a_video_in_two_folders_keep_their_own_clips(footage, tmp_path):
    home = tmp_path / "set"
    shutil.copytree(footage / "sub", footage / "again")  # name, size and time are the same
    rows = stages.split_footage(footage, home, SHORT, HERE)
    assert {row["file"] for row in rows} >= {"clips/sub_pan_001.mp4", "clips/again_pan_001.mp4"}
    assert stages.split_footage(footage, home, SHORT, HERE) == rows


def test_a_full_disk_stops_everything_and_loses_nothing(footage, tmp_path, monkeypatch):
    home = tmp_path / "set"
    rows = stages.split_footage(footage, home, SHORT, HERE)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="The disk that holds .* is full; free some space and run it again"):
            stages.score_clips(home, [Counting()], HERE)
        with pytest.raises(OSError, match="The disk that holds .* is full"):
            files.write_rows(home, [])
    assert files.read_rows(home) == rows and not list(home.rglob("*.part"))
    assert sum("count" in row for row in stages.score_clips(home, [Counting()], HERE)) == 4


def test_a_clip_that_vanishes_is_named_and_the_rest_goes_on(footage, tmp_path):
    home = tmp_path / "set"
    stages.split_footage(footage, home, SHORT, HERE)
    (home / "clips" / "pan_001.mp4").unlink()
    rows = {row["file"]: row for row in stages.score_clips(home, [Counting()], HERE)}
    assert "no longer exists" in rows["clips/pan_001.mp4"]["wrong"]
    assert sum("count" in row for row in rows.values()) == 3
    write_video(home / "clips" / "pan_001.mp4", pan(8, frames=30))  # put back
    (back,) = (row for row in stages.score_clips(home, [Counting()], HERE) if row["file"] == "clips/pan_001.mp4")
    assert "wrong" not in back and back["count"]


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(footage, tmp_path):
    clips = tmp_path / "set" / "clips"
    clips.mkdir(parents=True)
    old, new = clips / "a.mp4.1-2.part", clips / "b.mp4.3-4.part"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    stages.split_footage(footage, tmp_path / "set", SHORT, HERE)
    assert not old.exists() and new.exists()


def test_limits_choose_and_choose_anew_without_measuring(footage, tmp_path):
    home = tmp_path / "set"
    stages.split_footage(footage, home, SHORT, HERE)
    stages.score_clips(home, [PixelScores(), Motion()], HERE)
    strict = {row["file"]: row["rejected"] for row in stages.choose_clips(home, filters.Limits())}
    assert strict["clips/pan_001.mp4"] == "" and re.match("motion .* is below 3", strict["clips/日本_ü_001.mp4"])
    loose = filters.Limits(motion=(None, None), change=(None, None))
    assert sum(not row["rejected"] for row in stages.choose_clips(home, loose)) == 4
    names = [item.file.name for item in read_dataset_of(home, filters.Limits())]
    assert "pan_001.mp4" in names and "日本_ü_001.mp4" not in names


def read_dataset_of(home: Path, limits):
    stages.choose_clips(home, limits)
    stages.describe_clips(home, Saying("a thing"))
    return read_dataset(home)


class Saying(Counting):
    """A captioner that always says the same."""

    name = "saying"

    def __init__(self, text: str):
        super().__init__()
        self.text = text

    def __call__(self, file: Path) -> dict:
        super().__call__(file)
        return {"text": self.text}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"motion": 2.0}, "motion 2 is below 3"),
        ({"motion": 9.0}, "motion 9 is above 8"),
        ({"text_area": 0.021}, "text_area 0.021 is above 0.02"),
        ({"aesthetics": 3.9}, "aesthetics 3.9 is below 4"),
        ({"light": 0.01}, "light 0.01 is below 0.03"),
        ({"change": 0.001}, "change 0.001 is below 0.002"),
        ({"wrong": "a.mp4 is broken"}, "a.mp4 is broken"),
        ({}, ""),
        ({"motion": 3.0, "text_area": 0.02, "aesthetics": 4.0}, ""),
    ],
)
def test_each_limit_names_what_it_found(row, reason):
    (judged,) = filters.apply_limits([{"file": "a.mp4", **row}], filters.Limits())
    assert judged["rejected"] == reason


def test_of_copies_the_first_is_kept_unless_they_are_wanted():
    rows = [{"file": name, "hash": hash_} for name, hash_ in (("a", "00ff"), ("b", "00fe"), ("c", "ff00"))]
    assert [row["rejected"] for row in filters.apply_limits(rows, ANY)] == ["", "copy of a", ""]
    limits = filters.Limits(copies=True)
    assert all(not row["rejected"] for row in filters.apply_limits(rows, limits))


def test_mirrored_copies_are_copies(tmp_path):
    film = pan(16, frames=20)
    other = [picture[::-1] for picture in film]
    clips = {"a": film, "mirrored": [picture[:, ::-1] for picture in film], "upside_down": other}
    rows = [{"file": n, **PixelScores()(write_video(tmp_path / f"{n}.mp4", f))} for n, f in clips.items()]
    limits = filters.Limits(change=(None, None))
    assert [row["rejected"] for row in filters.apply_limits(rows, limits)] == ["", "copy of a", ""]


@pytest.mark.parametrize("letters", [78, 83])
def test_long_names_become_clips(tmp_path, letters):
    """Legal names of up to 255 bytes; those of clips are longer by their number."""
    source = tmp_path / "source"
    for last in "一二":
        name = "長" * (letters - 1) + last
        write_video(source / f"{name}.mp4", pan(16, frames=20)).with_suffix(".txt").write_text(last, encoding="utf-8")
    rows = stages.split_footage(source, tmp_path / "set", SHORT, HERE)
    assert [row["text"] for row in rows] == ["一", "二"] and len({row["file"] for row in rows}) == 2
    assert all((tmp_path / "set" / row["file"]).is_file() and not row.get("wrong") for row in rows)
    assert len(stages.score_clips(tmp_path / "set", [PixelScores()], HERE)) == 2


def test_animated_images_are_clips_or_named(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    first, *more = [Image.fromarray(picture) for picture in pan(16, frames=20)]
    for suffix in ("webp", "png"):
        first.save(source / f"a.{suffix}", save_all=True, append_images=more, duration=40)
        first.save(source / f"still.{suffix}")
    wrong, clip = sorted(stages.split_footage(source, tmp_path / "set", SHORT, HERE), key=lambda row: row["file"])
    assert clip["file"] == "clips/a_001.mp4" and clip["source"] == "a.png"
    assert "is an animated WebP, which can't be decoded here; convert it" in wrong["wrong"]


def test_a_read_only_folder_is_named(footage, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match="can't be written to; change its permissions or choose another folder"):
        stages.split_footage(footage, tmp_path / "set", SHORT, HERE)


def test_copies_are_found_wherever_their_hashes_differ():
    rng = random.Random(1)
    for _ in range(200):
        one = rng.getrandbits(64)
        for bits, same in ((filters.SAME, True), (filters.SAME + 1, False)):
            other = one ^ sum(1 << bit for bit in rng.sample(range(64), bits))
            rows = [{"file": "a", "hash": f"{one:016x}"}, {"file": "b", "hash": f"{other:016x}"}]
            assert bool(list(filters.apply_limits(rows, ANY))[1]["rejected"]) == same


def test_limits_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="motion can't be at least 8 and at most 3; swap them"):
        filters.Limits(motion=(8.0, 3.0))


def test_captions_by_hand_win_and_only_silent_clips_are_described(footage, tmp_path):
    home = tmp_path / "set"
    stages.split_footage(footage, home, SHORT, HERE)
    (home / "clips" / "sub_pan_001.txt").write_text("by hand")
    stages.choose_clips(home, filters.Limits(motion=(None, None), change=(None, None)))
    says = Saying("a blotchy wall")
    rows = {row["file"]: row for row in stages.describe_clips(home, says)}
    assert sorted(says.files) == ["sub_pan_002.mp4", "日本_ü_001.mp4"]
    assert rows["clips/pan_001.mp4"]["text"] == "a slow pan" and rows["clips/sub_pan_001.mp4"]["text"] == "by hand"
    assert rows["clips/sub_pan_002.mp4"]["text"] == "a blotchy wall"


def test_the_originals_list_is_read_and_written(footage, tmp_path):
    home = tmp_path / "set"
    rows = stages.split_footage(footage, home, SHORT, HERE)
    files.write_original(home, rows)
    listed = json.loads((home / files.ORIGINAL).read_text(encoding="utf-8"))
    assert {"file_path": "clips/pan_001.mp4", "text": "a slow pan", "type": "video"} in listed
    (home / files.NAME).unlink()
    assert [row["file"] for row in files.read_rows(home)] == [row["file_path"] for row in listed]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"file": "../secret.mp4"}', "is outside"),
        ('{"text": "no file"}', "names no file"),
        ("[1, 2", "a line that is not valid JSON"),
    ],
)
def test_a_list_that_cannot_be_trusted_is_refused(tmp_path, text, why):
    (tmp_path / files.NAME).write_text(text + "\n")
    with pytest.raises(files.DatasetError, match=why):
        files.read_rows(tmp_path)


@pytest.mark.parametrize("name", ["", "nothing here"])
def test_folders_without_videos_are_named(tmp_path, name):
    (tmp_path / "note.txt").write_text("no video")
    with pytest.raises(files.DatasetError, match="contains no videos" if not name else "does not exist"):
        stages.split_footage(tmp_path / name, tmp_path / "set", SHORT, HERE)


ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HOST), str(ROOT), os.environ["PYTHONPATH"]]),
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


def command_for(tmp_path: Path, engine: str, footage: Path, more: str = "") -> list[str]:
    """What follows a recipe with that engine."""
    recipe = tmp_path / f"{engine}.toml"
    recipe.write_text(
        f'source = "{footage.as_posix()}"\nfolder = "{engine}"\noriginal = true\n[split]\nleast = 1.0\nmost = 2.5\n'
        f'[scores]\ntext_area = false\nmotion = false\n[run]\nengine = "{engine}"\nworkers = 2\n{more}'
    )
    return [sys.executable, "-m", "easyanimate_models.data", str(recipe)]


def follow(tmp_path: Path, engine: str, footage: Path, more: str = "") -> subprocess.CompletedProcess:
    command = command_for(tmp_path, engine, footage, more)
    return subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Clips and lists; what was done when is of no concern."""
    found = [*sorted((folder / "clips").iterdir()), folder / files.NAME, folder / files.ORIGINAL]
    return {file.name: file.read_bytes() for file in found}


@pytest.fixture
def films(tmp_path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("bikes", "carphone_pristine"):
        (folder / f"{name}.mp4").write_bytes(real_clip(name).read_bytes())
    return folder


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_two_workers_make_what_one_makes(engine, films, tmp_path, refused):
    for name in ("here", engine):
        done = follow(tmp_path, name, films)
        assert done.returncode == 0, done.stderr[-2000:]
    if engine == "ray" and refused.exists():  # it always asks whether it runs in a cloud
        assert all("ray/dashboard/dashboard.py" in line for line in refused.read_text().splitlines())
        refused.unlink()
    assert contents(tmp_path / engine) == contents(tmp_path / "here")


def test_killed_in_the_middle_and_started_again_it_makes_the_same(films, tmp_path):
    """kill -9, as soon as the first video is split."""
    whole = follow(tmp_path, "here", films)
    assert whole.returncode == 0, whole.stderr[-2000:]
    process = subprocess.Popen(command_for(tmp_path, "threads", films), cwd=tmp_path, env=ENVIRONMENT)
    done = tmp_path / "threads" / stages.DONE / "split.jsonl"
    while process.poll() is None and not (done.exists() and done.stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.wait()
    first = done.read_bytes()
    assert follow(tmp_path, "threads", films).returncode == 0
    assert contents(tmp_path / "threads") == contents(tmp_path / "here")
    assert done.read_bytes().startswith(first) and len(done.read_bytes().splitlines()) == 2


def test_recipes_say_what_is_wrong_with_them(films, tmp_path):
    done = follow(tmp_path, "horses", films)
    assert done.returncode == 1 and "There is no engine 'horses'" in done.stderr
    done = follow(tmp_path, "here", films, more="[limits]\nbeauty = 3\n")
    assert done.returncode == 1 and "[limits] has no setting beauty" in done.stderr


def test_threads_stop_when_nobody_listens(tmp_path):
    clips = [tmp_path / f"{i}.mp4" for i in range(50)]
    work = Counting()
    for i, _ in enumerate(engines.run_in_threads(work, clips, 2)):
        if i == 3:
            break
    assert len(work.files) < 30
