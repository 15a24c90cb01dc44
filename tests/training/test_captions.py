"""Captions are learnt as they are written, in UTF-8 or UTF-16; those that the text encoder can't read are named."""

import json
import logging
from pathlib import Path

import pytest

from support.footage import write_image
from support.pack import part

dataset = part("easyanimate_models.training.clips.dataset")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
TEXT = "a white T under a blue sky"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_byte_order_mark_is_not_learnt(tmp_path, encoding, beside):
    write_image(tmp_path / "a.png")
    text = TEXT if beside else json.dumps({"file": "a.png", "text": TEXT})
    content = f"\ufeff{text}".encode(encoding.removesuffix("-mark")) if "mark" in encoding else text.encode(encoding)
    (tmp_path / ("a.txt" if beside else "metadata.jsonl")).write_bytes(content)
    assert [item.text for item in dataset.read_dataset(tmp_path)] == [TEXT]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32", "gb18030"])
def test_other_encodings_are_refused_by_name(tmp_path, encoding):
    write_image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("\u7ea2\u7403 red".encode(encoding))
    with pytest.raises(dataset.DatasetError, match="a.txt is not text in UTF-8 or UTF-16; save it as UTF-8"):
        dataset.read_dataset(tmp_path)


def test_captions_that_the_text_encoder_can_not_read_are_named(tmp_path, encoders, caplog):
    for name, text in (("a", "\u7ea2\u8272\u7684\u7403"), ("b", "a \u7403"), ("c", TEXT)):
        write_image(tmp_path / f"{name}.png")
        Path(tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        latent_cache.log_unreadable_captions(dataset.read_dataset(tmp_path), encoders[0])
    (line,) = caplog.messages
    assert "a.png" in line and "\u7ea2\u8272\u7684\u7403" in line and "write it in English" in line
