"""Files appear whole or not at all, and what stops a writer is said in a sentence."""

import errno
import os
from pathlib import Path

import av
import numpy
import pytest
import torch
from safetensors.torch import load_file

from support.pack import part

atomic = part("easyanimate_models.files.atomic")


def failing(number: int):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_what_was_written_is_there_and_nothing_else(tmp_path):
    atomic.write_text(tmp_path / "a.txt", "one\ntwo ü\n")
    atomic.write_safetensors(tmp_path / "a.safetensors", {"x": torch.arange(6).view(2, 3).T}, {"format": "pt"})
    assert (tmp_path / "a.txt").read_bytes() == "one\ntwo ü\n".encode()
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "a.txt"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    file = atomic.write_text(tmp_path / "a.txt", "before")
    with pytest.raises(KeyboardInterrupt), atomic.atomic_write(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_no_two_writers_of_a_file_share_a_part(tmp_path):
    with atomic.atomic_write(tmp_path / "a") as one, atomic.atomic_write(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other
    assert (tmp_path / "a").read_text() == "one" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"The disk that holds .*a\.txt is full; free some space and run it again"),
        (errno.EROFS, "can't be written to; change its permissions or choose another folder"),
        (errno.EACCES, "can't be written to; change its permissions or choose another folder"),
        (errno.EIO, r"a\.txt can't be written \(Input/output error\); check the folder and the disk"),
    ],
)
def test_what_stops_a_writer_is_said(tmp_path, monkeypatch, number, said):
    monkeypatch.setattr(os, "fsync", failing(number))
    for write in (
        lambda: atomic.write_text(tmp_path / "a.txt", "text"),
        lambda: atomic.write_safetensors(tmp_path / "a.txt", {"x": torch.zeros(2)}),
    ):
        with pytest.raises(atomic.WriteError, match=said) as error:
            write()
        assert error.value.errno == number and not list(tmp_path.iterdir())


def test_what_safetensors_says_of_the_disk_is_understood(tmp_path, monkeypatch):
    def full(*_):
        raise atomic.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(atomic, "save_file", full)
    with pytest.raises(atomic.WriteError, match="The disk that holds .* is full"):
        atomic.write_safetensors(tmp_path / "a", {"x": torch.zeros(2)})


def test_a_disk_that_fills_up_under_a_video_is_named(tmp_path):
    """What FFmpeg raises has the system's number too."""
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(atomic.WriteError, match=r"The disk that holds .*a\.mp4 is full"),
        atomic.explain_write_errors(tmp_path / "a.mp4"),
        av.open(str(full), "w", format="mp4") as out,
    ):
        stream = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(numpy.zeros((64, 64, 3), numpy.uint8))))
        out.mux(stream.encode())


def test_names_as_long_as_the_disk_takes_can_be_written_and_longer_ones_are_named(tmp_path):
    name = "ü" * 127
    assert atomic.write_text(tmp_path / name, "text").read_text() == "text"
    with pytest.raises(atomic.WriteError, match="The name ü+... is too long for this file system; shorten it"):
        atomic.write_text(tmp_path / (2 * name), "text")


def test_folders_that_cannot_be_made_are_named(tmp_path):
    assert atomic.make_folder(tmp_path / "a" / "b").is_dir()
    atomic.write_text(tmp_path / "file", "text")
    with pytest.raises(atomic.WriteError, match="file.* can't be written"):
        atomic.make_folder(tmp_path / "file" / "folder")


def test_a_sentence_that_is_one_already_stays(tmp_path):
    with pytest.raises(OSError, match="^clip.mp4 is broken; replace it.$"), atomic.atomic_write(tmp_path / "a"):
        raise OSError("clip.mp4 is broken; replace it.")


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    old, new = tmp_path / "a.1.part", tmp_path / "b.2.part"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    atomic.remove_stale_parts(tmp_path)
    assert not old.exists() and new.exists()
