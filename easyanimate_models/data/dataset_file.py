"""`metadata.jsonl`: a line of JSON for each clip, which every stage reads, adds to, and writes anew as a whole.

`file` (below the folder), `text`, what was measured, and `rejected`: why it is left out. The trainer reads it as it is.
The original's `metadata.json` (`file_path`, `text`, `type`) can be read and written too.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files.atomic import write_text
from ..media.video_file import VIDEOS
from .ledger import Row

NAME, ORIGINAL = "metadata.jsonl", "metadata.json"
NUMBERS = {
    "width",
    "height",
    "frames",
    "fps",
    "seconds",
    "light",
    "change",
    "motion",
    "shake",
    "text_area",
    "aesthetics",
}
WORDS = {"text", "rejected", "wrong", "source"}
HASH = re.compile("[0-9a-f]{1,16}")
MOST = 1e12  # of a number
SHOWN = 80  # letters of an entry in an error


class DataError(ValueError):
    """A folder or setting that no data set can be made from; the message says why and what to do."""


def videos_in(folder: Path) -> list[Path]:
    """All videos below a folder, in the order of their names. Raises `DataError` when there are none."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give the one that holds the videos.")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in VIDEOS and file.is_file())
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    if not found:
        raise DataError(f"{folder} holds no videos ({', '.join(sorted(VIDEOS))}); put some there.")
    return found


def read_rows(folder: Path) -> list[Row]:
    """The rows of a data set; of a plain folder of clips, a row each with its caption if there is one."""
    file = folder / NAME
    if file.is_file():
        return [_checked(row, file) for row in _lines(file)]
    if (folder / ORIGINAL).is_file():
        return read_original(folder / ORIGINAL)
    return [{"file": clip.relative_to(folder).as_posix(), "text": beside(clip)} for clip in videos_in(folder)]


def write_rows(folder: Path, rows: Iterable[Row]) -> Path:
    """All of them or, when the disk is full, what was there before."""
    return write_text(folder / NAME, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_original(file: Path) -> list[Row]:
    """Rows of the original's list."""
    try:
        listed = _whole(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error}); mend it, or remove it.") from error
    listed = listed if isinstance(listed, list) else [listed]
    return [_checked({**row, "file": row.get("file_path")} if isinstance(row, dict) else row, file) for row in listed]


def write_original(folder: Path, rows: Iterable[Row]) -> Path:
    """What is kept, as the original's trainer reads it."""
    kept = [row for row in rows if not row.get("rejected")]
    listed = [{"file_path": row["file"], "text": row.get("text", ""), "type": "video"} for row in kept]
    return write_text(folder / ORIGINAL, json.dumps(listed, indent=2, ensure_ascii=False) + "\n")


def beside(clip: Path) -> str:
    """The caption in a `.txt` file of the same name, in one line; empty without one."""
    file = clip.with_suffix(".txt")
    return " ".join(file.read_text(encoding="utf-8", errors="replace").split()) if file.is_file() else ""


def lies_in(folder: Path, name: str) -> bool:
    """Whether a name leads to something below the folder; what no system takes for a name leads nowhere."""
    try:
        place = (folder / name).resolve()
        place.exists()
    except (OSError, ValueError, RuntimeError):  # too long, no letters, links in a circle
        return False
    return place != folder.resolve() and place.is_relative_to(folder.resolve())


def _lines(file: Path) -> list[object]:
    try:
        return [_whole(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} has a line that is not JSON ({error}); mend it, or start with a new name.") from error


def _whole(told: object) -> object:
    """The same without halves of letters, which JSON can name and no file can hold."""
    return json.loads(json.dumps(told, ensure_ascii=False).encode(errors="replace"))


def _checked(row: Any, file: Path) -> Row:
    """A row whose clip lies in the folder, with scores that are numbers and words that are text; nothing unsaid."""
    name = row.get("file") if isinstance(row, dict) else None
    if not isinstance(name, str):
        raise DataError(f"An entry of {file} names no file: {str(row)[:SHOWN]}; mend it.")
    if not lies_in(file.parent, name):
        raise DataError(f"{file} names {name[:SHOWN]}, which lies outside of {file.parent}; move it in.")
    said = {key: value for key, value in row.items() if value is not None}
    wrong = next((key for key, value in said.items() if not _fits(key, value)), None)
    if wrong is not None:
        raise DataError(
            f"{file} says that {wrong} of {name[:SHOWN]} is {str(said[wrong])[:SHOWN]!r}, which it can't be; mend it, "
            "or take it out."
        )
    return said


def _fits(key: str, value: object) -> bool:
    if key in NUMBERS:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST
    if key == "hash":
        return isinstance(value, str) and HASH.fullmatch(value) is not None
    return key not in WORDS or isinstance(value, str)
