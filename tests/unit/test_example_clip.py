"""The templates' clip: brought into the input folder once, and never in the way."""

import folder_paths
import pytest

from support.pack import ROOT, part
from support.videos import read_video

example_clip = part("easyanimate_models.files.example_clip")


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    return tmp_path / "input"


def test_the_clip_is_brought_and_can_be_read(inputs):
    example_clip.bring_example_clip()
    assert [file.name for file in inputs.iterdir()] == [example_clip.NAME]
    assert read_video(inputs / example_clip.NAME).shape == (24, 64, 64, 3)


def test_a_file_of_that_name_stays(inputs):
    inputs.mkdir()
    (inputs / example_clip.NAME).write_text("the user's own")
    example_clip.bring_example_clip()
    assert (inputs / example_clip.NAME).read_text() == "the user's own"


def test_an_input_folder_that_cannot_be_written_hinders_nothing(inputs):
    inputs.write_text("a file in place of the folder")
    example_clip.bring_example_clip()
    assert inputs.is_file()


def test_templates_name_it():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "workflows").glob("*.json")]
    loading = [text for text in texts if '"LoadVideo"' in text]
    assert loading and all(f'"{example_clip.NAME}"' in text for text in loading)
