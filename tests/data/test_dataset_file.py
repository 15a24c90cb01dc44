"""Lists and captions as editors and programs write them, read alike for preparing data and for training."""

import json
from pathlib import Path

import pytest

from support.footage import texture, write_video
from support.pack import part

dataset_file = part("easyanimate_models.data.dataset_file")
read_dataset = part("easyanimate_models.training.clips.dataset").read_dataset

CAPTION = "a café, 日本"
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


@pytest.fixture
def folder(tmp_path) -> Path:
    write_video(tmp_path / "a.mp4", [texture(64, 48)] * 3)
    return tmp_path


def encoded(text: str, encoding: str) -> bytes:
    """With a byte order mark wherever the encoding needs one."""
    marks = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
    return marks.get(encoding, b"") + text.encode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_captions_are_read_as_editors_save_them(folder, encoding):
    (folder / "a.txt").write_bytes(encoded(f"{CAPTION}\r\nand more\r\n", encoding))
    assert dataset_file.read_rows(folder)[0]["text"] == f"{CAPTION} and more"
    assert [item.text for item in read_dataset(folder)] == [f"{CAPTION} and more"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", [dataset_file.NAME, dataset_file.ORIGINAL])
def test_lists_are_read_as_editors_save_them(folder, encoding, name):
    key = "file" if name == dataset_file.NAME else "file_path"
    (folder / name).write_bytes(encoded(json.dumps({key: "a.mp4", "text": CAPTION}, ensure_ascii=False), encoding))
    assert [row["text"] for row in dataset_file.read_rows(folder)] == [CAPTION]
    assert [item.text for item in read_dataset(folder)] == [CAPTION]


LISTS_OF_OTHERS = {
    "hf.jsonl": ("metadata.jsonl", '{"file_name": "a.mp4", "text": "a café, 日本"}\n'),
    "hf.csv": ("metadata.csv", 'file_name,frames,text\na.mp4,many,"a café, 日本"\n'),
    "musubi.jsonl": ("metadata.jsonl", '{"video_path": "a.mp4", "caption": "a café, 日本", "control_path": "a.mp4"}\n'),
}


@pytest.mark.parametrize(("name", "content"), LISTS_OF_OTHERS.values(), ids=list(LISTS_OF_OTHERS))
def test_lists_of_other_trainers_are_read(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    (row,) = dataset_file.read_rows(folder)
    assert (row["file"], row["text"]) == ("a.mp4", CAPTION)
    (item,) = read_dataset(folder)
    assert item.text == CAPTION and (item.control is not None) == ("control" in row)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "video,words\na.mp4,x\n", "An entry in .*metadata.csv names no file"),
        ("metadata.csv", "file_name,text\n../b.mp4,x\n", "names ../b.mp4, which is outside"),
        ("metadata.jsonl", '{"video_path": "a.mp4", "caption": ["x"]}', "says that text of a.mp4 is .* not valid"),
        ("metadata.jsonl", '{"file": "", "text": "x"}', "names no file"),
    ],
)
def test_what_is_wrong_with_them_is_said(folder, name, content, message):
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(dataset_file.DatasetError, match=message):
        dataset_file.read_rows(folder)


@pytest.mark.parametrize(
    "content",
    [CAPTION.encode("latin-1", errors="ignore"), CAPTION.encode("shift-jis", errors="ignore"), b"\xff\xfea", b"a\0b\0"],
)
@pytest.mark.parametrize("name", ["a.txt", dataset_file.NAME])
def test_other_encodings_are_refused_by_name(folder, content, name):
    (folder / name).write_bytes(content)
    for read in (dataset_file.read_rows, read_dataset):
        with pytest.raises(dataset_file.DatasetError, match=f"{name} is not text in UTF-8 or UTF-16; save it as UTF-8"):
            read(folder)


def test_utf_32_is_not_taken_for_utf_16(folder):
    (folder / "a.txt").write_bytes("a ball".encode("utf-32"))
    with pytest.raises(dataset_file.DatasetError, match="a.txt is not text in UTF-8"):
        read_dataset(folder)


@pytest.mark.parametrize("name", [dataset_file.NAME, dataset_file.ORIGINAL])
def test_a_list_may_be_lines_or_an_array(folder, name):
    rows = [{"file": "a.mp4", "text": "one\u2028line"}, {"file_path": "./a.mp4", "text": "two"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for text in (lines, json.dumps(rows), json.dumps(rows, indent=2)):
        (folder / name).write_text(text, encoding="utf-8")
        assert [row["text"] for row in dataset_file.read_rows(folder)] == ["one\u2028line", "two"]
        assert [(item.file, item.text) for item in read_dataset(folder)] == [
            (folder / "a.mp4", "one line"),
            (folder / "a.mp4", "two"),
        ]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"file": "a.mp4", "text": 3}, "says that text of a.mp4 is '3', which is not valid"),
        ({"file": "a.mp4", "text": "a", "motion": "fast"}, "says that motion of a.mp4 is 'fast'"),
        ({"file": "../a.mp4", "text": "a"}, "names ../a.mp4, which is outside"),
        ({"text": "a"}, "names no file"),
    ],
)
def test_training_is_as_strict_with_a_list_as_the_data_nodes(folder, row, why):
    (folder / dataset_file.NAME).write_text(json.dumps(row))
    for read in (dataset_file.read_rows, read_dataset):
        with pytest.raises(dataset_file.DatasetError, match=why):
            read(folder)


def test_a_list_of_which_all_is_rejected_is_not_passed_over(folder):
    (folder / "a.txt").write_text("a caption")
    (folder / dataset_file.NAME).write_text(json.dumps({"file": "a.mp4", "rejected": "motion 1 is below 3"}))
    assert len(dataset_file.read_rows(folder)) == 1
    with pytest.raises(dataset_file.DatasetError, match="All clips in the list of .* are rejected; loosen the limits"):
        read_dataset(folder)
