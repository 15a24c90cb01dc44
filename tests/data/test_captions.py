"""What clips show, in words, by small models of `transformers` made here: alone, several at once, worded anew."""

import json
from pathlib import Path

import pytest

from support.footage import pan, write_video
from support.pack import part
from support.tiny_captioner import write_captioner, write_writer

caption = part("easyanimate_models.data.caption")
engines = part("easyanimate_models.data.engines")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory) -> Path:
    return write_captioner(tmp_path_factory.mktemp("captioner") / "model")


def test_a_local_model_describes_what_it_is_shown(captioner, tmp_path):
    file = write_video(tmp_path / "a.mp4", pan(16, frames=20))
    words = caption.Captioner(captioner, frames=3, longest=6)(file)["text"].split()
    assert 0 < len(words) <= 6 and all(word.startswith("word") for word in words)
    caption.forget_models()
    again = caption.Captioner(captioner, frames=3, longest=6)(file)["text"].split()
    assert again == words


def test_clips_are_described_several_at_once_as_alone(captioner, footage):
    """With one among them that can't be read."""
    clips = [footage / "pan.mp4", footage / "broken.mp4", footage / "日本 ü.mp4", footage / "sub" / "pan.mp4"]
    alone = caption.Captioner(captioner, frames=2, longest=5)
    done = list(engines.run_in_process(caption.Captioner(captioner, frames=2, longest=5, batch=3), clips))
    assert [one.file for one in done] == clips and "can't be read" in done[1].error
    assert [one.row for one in done if one.row] == [alone(clip) for i, clip in enumerate(clips) if i != 1]


def test_a_second_model_words_it_anew(captioner, footage, tmp_path):
    writer = write_writer(tmp_path / "writer")
    reworded = caption.Captioner(captioner, frames=2, longest=5, rewriter=writer)(footage / "pan.mp4")["text"]
    plain = caption.Captioner(captioner, frames=2, longest=5)(footage / "pan.mp4")["text"]
    assert reworded and reworded != plain


def test_folders_without_a_model_say_so(tmp_path):
    file = write_video(tmp_path / "a.mp4", pan(16, frames=5))
    with pytest.raises(ValueError, match="contains no model"):
        caption.Captioner(tmp_path)(file)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such thing"}))
    with pytest.raises(ValueError, match="can't be used for image-text-to-text"):
        caption.Captioner(tmp_path)(file)


def test_rewriting_must_say_where_the_description_goes(tmp_path):
    with pytest.raises(ValueError, match=r"must contain \{text\}"):
        caption.Captioner(tmp_path, rewriter=tmp_path, rewriting="make it better")
