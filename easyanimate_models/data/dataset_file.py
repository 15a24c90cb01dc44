"""The list of a data set: `metadata.jsonl`, a line of JSON for each clip, which every stage reads and writes anew.

`file` (below the folder), `text` (the caption), scores, `rejected`: why the trainer leaves the clip out, and `control`:
the video that it follows, or a file of camera poses; `start` and `end` are its seconds in `source`. The original's
`metadata.json` (`file_path`, `text`, `type`, `control_file_path`) is read and written too, and the lists of other
trainers are read (`KEYS`). The one reader of lists and captions, for data preparation and training.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files.atomic import write_text
from ..media.image_file import is_image
from ..media.video_file import VIDEOS
from .ledger import Row

NAME, ORIGINAL, TABLE = "metadata.jsonl", "metadata.json", "metadata.csv"
KEYS = {  # ours first, then those of the original, of Hugging Face's datasets, and of musubi-tuner
    "file": ("file", "file_path", "file_name", "video_path", "image_path"),
    "text": ("text", "caption"),
    "control": ("control", "control_file_path", "control_path"),
}
MEASURES = {"width", "height", "frames", "fps", "seconds", "start", "end"}
SCORES = {"light", "change", "motion", "shake", "text_area", "aesthetics"}
TEXTS = {"text", "rejected", "wrong", "source", "control"}
HASHES, HASH = {"hash", "mirrored"}, re.compile("[0-9a-f]{1,16}")
MAX_NUMBER = 1e12
MAYBE_ANIMATED = {".png", ".webp"}
SHOWN = 80  # letters of an entry in an error
UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)  # the first begins as UTF-16's does
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class DatasetError(ValueError):
    """A folder, list, caption or setting that no data set can be made from or read; the message says why."""


def find_videos(folder: Path) -> list[Path]:
    """All videos below a folder, animated images too, in the order of their names. Raises `DatasetError` for none."""
    if not folder.is_dir():
        raise DatasetError(f"The folder {folder} does not exist; choose the one that contains the videos.")
    animated = [file for file in find_files(folder, MAYBE_ANIMATED) if not is_image(file)]
    found = sorted([*find_files(folder, VIDEOS), *animated])
    if not found:
        raise DatasetError(f"{folder} contains no videos ({', '.join(sorted(VIDEOS))}); add some.")
    return found


def find_files(folder: Path, suffixes: set[str]) -> list[Path]:
    """Files below a folder with one of these suffixes, in the order of their names; nothing that is hidden."""
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
    return [file for file in found if not is_hidden(folder, file)]


def is_hidden(folder: Path, file: Path) -> bool:
    """Whether any part of the way from the folder to the file begins with a dot."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def read_rows(folder: Path) -> list[Row]:
    """The rows of a data set; without a list, a row for each video, with the caption beside it if there is one."""
    rows = read_list(folder)
    if rows is not None:
        return rows
    return [{"file": clip.relative_to(folder).as_posix(), "text": read_caption(clip)} for clip in find_videos(folder)]


def read_list(folder: Path) -> list[Row] | None:
    """The rows of the folder's list, rejected ones included; None without a list.

    Raises `DatasetError` for a list that can't be read, and for an entry that names no file, one outside of the folder,
    or a score or text that can't be one.
    """
    file = next((folder / name for name in (NAME, ORIGINAL, TABLE) if (folder / name).is_file()), None)
    return None if file is None else read_list_file(file)


def read_list_file(file: Path) -> list[Row]:
    """The rows of a list, whatever its name is; see `read_list`."""
    entries = _parse_table(file) if file.suffix.lower() == ".csv" else _parse(file)
    return [_check(entry, file) for entry in entries]


def write_rows(folder: Path, rows: Iterable[Row]) -> Path:
    """`metadata.jsonl` with these rows; when writing fails, what was there before. Raises `WriteError`."""
    return write_text(folder / NAME, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_original(folder: Path, rows: Iterable[Row]) -> Path:
    """`metadata.json` with the rows that are not rejected, as the original's trainer reads it. Raises `WriteError`."""
    kept = [row for row in rows if not row.get("rejected")]
    entries = [_original(row) for row in kept]
    return write_text(folder / ORIGINAL, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def _original(row: Row) -> Row:
    entry = {"file_path": row["file"], "text": row.get("text", ""), "type": "video"}
    return {**entry, "control_file_path": row["control"]} if "control" in row else entry


def read_caption(clip: Path) -> str:
    """The caption in a `.txt` file beside a clip, in one line; empty without one. Raises `DatasetError`."""
    file = clip.with_suffix(".txt")
    return " ".join(read_text(file).split()) if file.is_file() else ""


def read_text(file: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, or in UTF-16 with one. Raises `DatasetError`."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} can't be read ({error.strerror}); check its permissions.") from error
    try:
        text = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig")
    except UnicodeError:
        text = "\0"
    if content.startswith(UTF_32) or "\0" in text:  # as of UTF-16 without a mark
        raise DatasetError(f"{file} is not text in UTF-8 or UTF-16; save it as UTF-8.")
    return text


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name leads to something below the folder; what no system takes for a name leads nowhere."""
    try:
        path = (folder / name).resolve()
        path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, no letters, links in a circle
        return False
    return path != folder.resolve() and path.is_relative_to(folder.resolve())


def _parse(file: Path) -> list[Any]:
    """The entries of a list: a JSON array, or a JSON object on each line."""
    text = read_text(file)
    try:
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = [json.loads(line) for line in text.split("\n") if line.strip()]  # captions may hold other breaks
        entries = parsed if isinstance(parsed, list) else [parsed]
        return json.loads(json.dumps(entries, ensure_ascii=False).encode(errors="replace"))  # no halves of letters
    except (ValueError, RecursionError) as error:
        lines = file.suffix == ".jsonl"
        what, else_ = ("has a line that is", "start with a new name") if lines else ("is", "remove it")
        raise DatasetError(f"{file} {what} not valid JSON ({error}); fix it, or {else_}.") from error


def _parse_table(file: Path) -> list[Any]:
    """The rows of a table with a line of headings; of its columns, those that a list has."""
    known = {key for keys in KEYS.values() for key in keys}
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    try:
        return [{name: value for name, value in row.items() if name in known and value} for row in rows]
    except csv.Error as error:
        raise DatasetError(f"{file} is not a valid table ({error}); fix it, or remove it.") from error


def _check(entry: Any, file: Path) -> Row:
    """An entry of a list as a row, without keys that are null."""
    entry = entry if isinstance(entry, dict) else {"": entry}
    named = {ours: next((entry[key] for key in keys if entry.get(key)), entry.get(ours)) for ours, keys in KEYS.items()}
    name = named["file"]
    if not isinstance(name, str) or not name:
        raise DatasetError(f"An entry in {file} names no file: {str(entry.get('', entry))[:SHOWN]}; fix it.")
    for path in (name, named["control"]):
        if isinstance(path, str) and not is_inside(file.parent, path):
            raise DatasetError(f"{file} names {path[:SHOWN]}, which is outside {file.parent}; move it there.")
    row = {key: value for key, value in {**entry, **named}.items() if value is not None}
    wrong = next((key for key, value in row.items() if not _fits(key, value)), None)
    if wrong is not None:
        raise DatasetError(
            f"{file} says that {wrong} of {name[:SHOWN]} is {str(row[wrong])[:SHOWN]!r}, which is not valid; fix or "
            "remove it."
        )
    return row


def _fits(key: str, value: object) -> bool:
    if key in MEASURES | SCORES:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
    if key in HASHES:
        return isinstance(value, str) and HASH.fullmatch(value) is not None
    return key not in TEXTS or isinstance(value, str)
