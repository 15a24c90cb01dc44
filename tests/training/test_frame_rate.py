"""Clips of any rate are learnt at the rate that is asked for, by the times of their frames."""

import logging
import re

import pytest
import torch

from support.footage import write_image, write_ramp
from support.pack import part

dataset = part("easyanimate_models.training.clips.dataset")
buckets = part("easyanimate_models.training.clips.buckets")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
checkpoints = part("easyanimate_models.training.checkpoints")
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
sd = part("easyanimate_models.sd")
TINY = part("easyanimate_models.files.model_files").TINY


def greys(item, count: int) -> list[float]:
    return (dataset.read_frames(item, 0, count).mean((1, 2, 3)) * 255).tolist()


@pytest.mark.parametrize(("fps", "frames"), [(12, 48), (24, 48), (30, 48), (60, 48)])
def test_a_clip_is_learnt_at_the_rate_asked_for(tmp_path, fps, frames, caplog):
    file = write_ramp(tmp_path / "a.mp4", fps)
    with caplog.at_level(logging.INFO):
        (item,) = dataset.read_dataset(tmp_path, fps=24)
    assert (item.frames, item.fps) == (frames, 24)
    for number, grey in enumerate(greys(item, 40)):
        assert abs(grey - (20 + 100 * (number + 0.5) / 24)) < 100 / min(fps, 24) / 2 + 100 / 48 + 2
    said = [line for line in caplog.messages if "is resampled from" in line]
    assert said == (
        [] if fps == 24 else [f"{file} is resampled from {fps} frames per second to 24, which makes 48 frames."]
    )


def test_uneven_frames_are_evened_out_by_their_times(tmp_path, caplog):
    ticks = [0, 40, 80, 500, 540, 1000, 1040, 1500, 1960]
    write_ramp(tmp_path / "a.mp4", 25, ticks=ticks)
    with caplog.at_level(logging.INFO):
        (item,) = dataset.read_dataset(tmp_path, fps=24)
    assert "(uneven) to 24" in caplog.text and item.frames >= 46
    for number, grey in enumerate(greys(item, 40)):
        on_screen = max(tick for tick in ticks if tick <= (number + 0.5) / 24 * 1000 + 1)
        assert abs(grey - (20 + 100 * on_screen / 1000)) < 3


def test_without_a_rate_clips_and_images_are_as_they_are(tmp_path):
    write_ramp(tmp_path / "a.mp4", 12)
    write_image(tmp_path / "b.png").with_suffix(".txt").write_text("red")
    assert [(item.frames, item.resampled) for item in dataset.read_dataset(tmp_path)] == [(24, False), (1, False)]
    assert [(item.frames, item.resampled) for item in dataset.read_dataset(tmp_path, fps=24)] == [
        (48, True),
        (1, False),
    ]


def test_several_rates_are_named_unless_all_are_learnt_at_one(tmp_path, caplog):
    for name, fps in (("a", 12), ("b", 24)):
        write_ramp(tmp_path / f"{name}.mp4", fps)
    write_image(tmp_path / "c.png").with_suffix(".txt").write_text("red")
    dataset.read_dataset(tmp_path)
    assert f"The clips in {tmp_path} have 12 to 24 frames per second; set fps (24 for V3)" in caplog.text
    caplog.clear()
    dataset.read_dataset(tmp_path, fps=24)
    (tmp_path / "b.mp4").unlink()
    dataset.read_dataset(tmp_path)
    assert not caplog.text
    write_ramp(tmp_path / "b.mp4", 12, ticks=[0, 40, 80, 500, 540, 1000])
    dataset.read_dataset(tmp_path)
    assert re.search(r"b\.mp4 has .* frames per second \(uneven\); set fps", caplog.text)


def test_other_rates_are_other_files(tmp_path):
    write_ramp(tmp_path / "a.mp4", 12)
    vae, latents = sd.load_vae(TINY), []
    for fps in (0, 24, 48):
        found = buckets.sort_into_buckets(dataset.read_dataset(tmp_path, fps=fps), 64, 8)
        with torch.no_grad():
            encoded = latent_cache.encode_dataset(tmp_path, found, vae, None)
        latents.append(next(iter(encoded.examples.values()))[0].latents)
    assert len(set(latents)) == 3


def test_a_rate_that_makes_no_sense_is_an_error_and_older_runs_had_none(tmp_path):
    for wrong in (-1.0, 1000.0, float("nan")):
        with pytest.raises(ValueError, match="fps is .*; set it to the frames per second of the model, or to 0"):
            DataSettings(64, 8, fps=wrong)
    assert checkpoints.OLDER_DEFAULTS["fps"] == DataSettings(64, 8).fps == 0
