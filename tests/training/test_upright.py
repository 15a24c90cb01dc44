"""Clips of phones are learnt as they are seen: turned, with sound only, too bright for a screen, trimmed, broken."""

import logging
from pathlib import Path

import av
import numpy
import pytest
import torch
from PIL import Image

from support.pack import part

dataset = part("easyanimate_models.training.clips.dataset")
buckets = part("easyanimate_models.training.clips.buckets")
latent_cache = part("easyanimate_models.training.clips.latent_cache")

HEIGHT, WIDTH = 32, 64


def frame_of(i: int) -> numpy.ndarray:
    """White above, black below on the left, and brighter on the right with every frame."""
    pixels = numpy.zeros((HEIGHT, WIDTH, 3), numpy.uint8)
    pixels[: HEIGHT // 2], pixels[:, WIDTH // 2 :] = 255, 8 * i
    return pixels


def clip(file: Path, frames: int = 9, turned: int = 0, prepare=None, pix_fmt: str = "yuv420p") -> Path:
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"g": "4", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if turned:
            stream.set_display_rotation(turned)
        if prepare:
            prepare(stream)
        for i in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame_of(i), format="rgb24")))
        out.mux(stream.encode())
    file.with_suffix(".txt").write_text("a wall")
    return file


def photo(file: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(frame_of(3)).save(file, exif=exif)
    file.with_suffix(".txt").write_text("a wall")
    return file


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_turned_clip_is_learnt_upright(tmp_path, turned):
    plain, seen = clip(tmp_path / "plain.mp4"), clip(tmp_path / "turned.mp4", turned=turned)
    plain, seen = (next(i for i in dataset.read_dataset(tmp_path) if i.file == f) for f in (plain, seen))
    upright = torch.rot90(dataset.read_frames(plain, 1, 3, 2), turned // 90, (1, 2))
    assert torch.equal(dataset.read_frames(seen, 1, 3, 2), upright)
    assert (seen.frames, seen.height, seen.width) == (9, *upright.shape[1:3])
    bucket = buckets.bucket_for(seen, 48, 8)
    assert (bucket.height > bucket.width) == (turned != 180)


@pytest.mark.parametrize(("orientation", "turns"), [(6, 3), (8, 1)])
def test_a_turned_photo_is_learnt_upright(tmp_path, orientation, turns):
    photo(tmp_path / "a.png", orientation)
    (item,) = dataset.read_dataset(tmp_path)
    upright = torch.from_numpy(numpy.rot90(frame_of(3), turns).copy())[None].float() / 255
    assert torch.equal(dataset.read_frames(item, 0, 1), upright)
    assert (item.frames, item.height, item.width) == (1, WIDTH, HEIGHT)


def test_a_trimmed_clip_is_as_long_as_it_is_seen(tmp_path):
    """Cut without encoding: frames before the first stay in the file, and a note says that they are not shown."""
    whole = clip(tmp_path / "whole.mp4", frames=30)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as out:
        stream = source.streams.video[0]
        copy, offset = out.add_stream_from_template(stream), int(10 / 24 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
                out.mux(packet)
    whole.unlink()
    (tmp_path / "cut.txt").write_text("a wall")
    (item,) = dataset.read_dataset(tmp_path)
    assert item.frames == 20


def test_what_cannot_be_learnt_from_is_named_with_the_reason_and_left_out(tmp_path, caplog):
    def hdr(stream):
        stream.codec_context.color_trc = 16

    clip(tmp_path / "good.mp4")
    clip(tmp_path / "hdr.mp4", prepare=hdr, pix_fmt="yuv420p10le")
    for name in ("broken.mp4", "broken.png", "sound.mp4"):
        (tmp_path / name).write_bytes(b"neither clip nor image")
        (tmp_path / name).with_suffix(".txt").write_text("a wall")
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(numpy.zeros((1, 1024), numpy.float32), format="fltp", layout="mono")
        sound.rate = 44100
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    with caplog.at_level(logging.WARNING):
        assert [item.file.name for item in dataset.read_dataset(tmp_path)] == ["good.mp4"]
    for said in (
        "hdr.mp4 is HDR (PQ); convert it to SDR first",
        "sound.mp4 has audio but no video; remove it.",
        "broken.mp4 can't be read as a video",
        "broken.png can't be read as an image",
        "4 of 5 files",
    ):
        assert said in caplog.text


class Recording:
    """Stands for a VAE: keeps what it is asked to encode."""

    def __init__(self):
        self.first_stage_model, self.seen = torch.nn.Linear(1, 1), []

    def encode(self, pixels):
        self.seen.append(pixels)
        return torch.zeros(1, 4, 1, 1, 1)


def test_a_turned_clip_is_encoded_upright(tmp_path):
    (tmp_path / "a").mkdir()
    clip(tmp_path / "a" / "plain.mp4")
    clip(tmp_path / "a" / "turned.mp4", turned=180)
    vae, items = Recording(), dataset.read_dataset(tmp_path / "a")
    latent_cache.encode_dataset(tmp_path, buckets.sort_into_buckets(items, 48, 8), vae, None)
    plain, turned = vae.seen
    assert torch.allclose(turned, plain.flip(1, 2), atol=1e-5)  # scaled from the other side


def test_a_full_disk_stops_the_encoding(tmp_path, monkeypatch):
    """A clip that can't be read is left out; a disk that can't be written to is no clip's fault."""
    clip(tmp_path / "a.mp4")
    atomic = part("easyanimate_models.files.atomic")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    found = buckets.sort_into_buckets(dataset.read_dataset(tmp_path), 32, 8)
    with pytest.raises(atomic.WriteError, match="The disk that holds .* is full"):
        latent_cache.encode_dataset(tmp_path, found, Recording(), None)


def test_names_as_long_as_the_disk_takes_are_encoded(tmp_path):
    clip(tmp_path / f"{'ü' * 125}.mp4")
    found = buckets.sort_into_buckets(dataset.read_dataset(tmp_path), 32, 8)
    encoded = latent_cache.encode_dataset(tmp_path, found, Recording(), None)
    (file,) = (example.latents for examples in encoded.examples.values() for example in examples)
    assert file.is_file() and file.name.endswith(".safetensors") and len(file.name.encode()) < 120


def test_a_clip_that_vanishes_is_named_and_left_out(tmp_path, caplog):
    gone = clip(tmp_path / "gone.mp4")
    clip(tmp_path / "here.mp4")
    found = buckets.sort_into_buckets(dataset.read_dataset(tmp_path), 32, 8)
    gone.unlink()
    with caplog.at_level(logging.WARNING):
        assert latent_cache.encode_dataset(tmp_path, found, Recording(), None).count == 1
    assert "gone.mp4 no longer exists" in caplog.text
