"""Footage of any rate becomes clips of the rate asked for, by the times of its frames; sound alone becomes none."""

import logging
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy
import pytest

from support.footage import pan, pictures, texture, write_ramp, write_sound, write_video
from support.pack import HOST, ROOT, part

stages = part("easyanimate_models.data.stages")
split = part("easyanimate_models.data.split")
video_file = part("easyanimate_models.media.video_file")
read_dataset = part("easyanimate_models.training.clips.dataset").read_dataset

UNEVEN = [0, 40, 80, 500, 540, 1000, 1040, 1500, 1960]  # ms
AT_24 = split.SplitSettings(0.5, 4.0, fps=24)


def split_at_24(file: Path, folder: Path) -> list[Path]:
    return split.split(split.read_footage(file, AT_24.fps), folder, file.stem, AT_24)


def greys(clip: Path) -> list[float]:
    return [float(video_file.upright(frame).mean()) for frame in video_file.frames(clip)]


@pytest.mark.parametrize("fps", [12, 25, 30, 60, 120])
def test_clips_are_at_the_rate_asked_for(tmp_path, fps):
    (clip,) = split_at_24(write_ramp(tmp_path / "a.mp4", fps), tmp_path / "clips")
    made = video_file.probe(clip)
    assert (made.fps, made.even, len(greys(clip))) == (24, True, 48)
    for number, grey in enumerate(greys(clip)):
        assert abs(grey - (20 + 100 * (number + 0.5) / 24)) < 100 / min(fps, 24) / 2 + 100 / 48 + 2


def test_uneven_frames_are_evened_out_by_their_times(tmp_path):
    (clip,) = split_at_24(write_ramp(tmp_path / "a.mp4", 25, ticks=UNEVEN), tmp_path / "clips")
    assert video_file.probe(clip).fps == 24 and video_file.probe(clip).even
    for number, grey in enumerate(greys(clip)[:46]):
        on_screen = max(tick for tick in UNEVEN if tick <= (number + 0.5) / 24 * 1000 + 1)
        assert abs(grey - (20 + 100 * on_screen / 1000)) < 3


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(24000, 1001)])
def test_what_is_at_the_rate_is_cut_without_encoding(tmp_path, fps):
    file = write_video(tmp_path / "a.mp4", pan(20, frames=48), fps=fps)
    (clip,) = split_at_24(file, tmp_path / "clips")
    assert video_file.probe(clip).fps == fps
    assert all(numpy.array_equal(a, b) for a, b in zip(pictures(clip), pictures(file), strict=True))


def test_cuts_stay_cuts_at_another_rate(tmp_path):
    shots = [texture(320, 192, seed=1)] * 75, [texture(320, 192, seed=2)] * 75
    clips = split_at_24(write_video(tmp_path / "a.mp4", sum(shots, []), fps=60), tmp_path / "clips")
    assert [len(pictures(clip)) for clip in clips] == [30, 30]
    for clip, (shown, *_) in zip(clips, shots, strict=True):
        assert max(float(numpy.abs(picture.astype(int) - shown).mean()) for picture in pictures(clip)) < 12


def test_the_log_says_what_was_done_to_which_video_also_when_resumed(tmp_path, caplog):
    write_ramp(tmp_path / "footage" / "fast.mp4", 60)
    write_ramp(tmp_path / "footage" / "same.mp4", 24)
    write_ramp(tmp_path / "footage" / "uneven.mp4", 25, ticks=UNEVEN)
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            stages.split_footage(tmp_path / "footage", tmp_path / "set", AT_24, stages.IN_PROCESS)
        said = [line for line in caplog.messages if "is resampled from" in line]
        assert len(said) == 2 and "uneven.mp4 is resampled from" in said[1] and said[1].endswith("(uneven) to 24.")
        assert said[0].endswith("fast.mp4 is resampled from 60 frames per second to 24.")
    caplog.clear()
    assert {(item.fps, item.resampled) for item in read_dataset(tmp_path / "set", fps=24)} == {(24, False)}


def test_another_rate_splits_anew_and_none_is_as_before_there_was_one(tmp_path):
    assert str(split.SplitSettings()) == "SplitSettings(least=3.0, most=10.0)"
    write_ramp(tmp_path / "footage" / "a.mp4", 60)
    frames = []
    for fps in (0, 24, 0):
        settings = split.SplitSettings(0.5, 4.0, fps)
        (row,) = stages.split_footage(tmp_path / "footage", tmp_path / "set", settings, stages.IN_PROCESS)
        frames.append(video_file.count_frames(tmp_path / "set" / row["file"]))
    assert frames == [120, 48, 120]


@pytest.mark.parametrize("wrong", [-1.0, 0.5, 1000.0, float("nan")])
def test_a_rate_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="fps is .*; set it to the frames per second of the model, or to 0"):
        split.SplitSettings(fps=wrong)


def test_from_the_shell_rates_and_sound_without_pictures_are_named(tmp_path):
    """In worker processes, as recipes have it."""
    write_ramp(tmp_path / "films" / "fast.mp4", 60)
    for name, cover in (("sound.mp4", False), ("covered.mp4", True)):
        write_sound(tmp_path / "films" / name, cover)
    recipe = 'source = "films"\nfolder = "set"\n[split]\nleast = 0.5\nfps = 24\n[scores]\ntext_area = false\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    command = [sys.executable, "-m", "easyanimate_models.data", str(tmp_path / "recipe.toml")]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOST), str(ROOT)])}
    done = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fast.mp4 is resampled from 60 frames per second to 24." in done.stderr
    for name in ("sound.mp4", "covered.mp4"):
        assert f"{name} has audio but no video; remove it. The file is skipped." in done.stderr
        assert f"{name} has audio but no video; remove it." in (tmp_path / "set" / "metadata.jsonl").read_text()
        assert name in (tmp_path / "set" / "report.html").read_text()
