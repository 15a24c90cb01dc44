"""What tests of data preparation share."""

from pathlib import Path

import pytest

from support.footage import pan, texture, write_video


@pytest.fixture
def footage(tmp_path) -> Path:
    """Three videos, names in any script, one with a caption; a broken one and an empty one."""
    folder = tmp_path / "footage"
    write_video(folder / "pan.mp4", pan(20, frames=40)).with_suffix(".txt").write_text("a slow  pan\n")
    write_video(folder / "日本 ü.mp4", pan(0, frames=30))
    write_video(folder / "sub" / "pan.mp4", [texture(64, 48, seed=i // 20) for i in range(40)])
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "empty.mov").write_bytes(b"")
    return folder
