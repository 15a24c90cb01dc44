"""Several folders as one data set: a TOML file as musubi-tuner, kohya's scripts or diffusion-pipe have it.

`[[directory]]` with `path`, `num_repeats`, `resolutions` and `frame_buckets`, or `[[datasets]]` with `video_directory`
or `video_jsonl_file` (or those for images), `num_repeats`, `resolution` and `target_frames`. What stands outside of all
tables, or in `[general]`, is for every folder that does not say otherwise.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.dataset_file import DatasetError
from ...files.messages import shorten
from ...files.toml_settings import parse_toml

NAME = "dataset.toml"
TABLES = ("directory", "datasets")
FOLDERS = ("path", "video_directory", "image_directory", "image_dir")
LISTS = ("video_jsonl_file", "image_jsonl_file")
REPEATS, SIZES, SIZE, CAPTIONS = "num_repeats", "resolutions", "resolution", "caption_extension"
FRAMES = ("frame_buckets", "target_frames")
MOST = 10_000  # pixels, frames, repeats
USED = {*FOLDERS, *LISTS, *FRAMES, REPEATS, SIZES, SIZE, CAPTIONS, "subsets"}


@dataclass(frozen=True)
class Part:
    """A folder, or the list of its clips, with how often each clip counts, and in which size it is learnt.

    Clips are learnt once at the area of each of the `sides`; a side or `frames` of 0 is that of the run.
    """

    folder: Path
    listed: Path | None = None
    repeats: int = 1
    sides: tuple[int, ...] = (0,)
    frames: int = 0


def toml_of(source: Path) -> Path | None:
    """The TOML file that describes a data set: `source` itself, or the `dataset.toml` in it; None without one."""
    if source.suffix.lower() == ".toml":
        return source
    return source / NAME if (source / NAME).is_file() else None


def read_parts(file: Path) -> list[Part]:
    """The folders in the file, whose paths are relative to its own. Raises `DatasetError` and `RecipeError`."""
    table = parse_toml(file)
    found = [name for name in TABLES if isinstance(table.get(name), list)]
    if len(found) != 1:
        raise DatasetError(f"{file} lists no folders; give each a table [[directory]] with its path.")
    general = table.get("general", {})
    if not isinstance(general, dict):
        raise DatasetError(f"{file}: general is {shorten(general)}; it must be a section, [general].")
    common = {name: value for name, value in table.items() if name not in (*TABLES, "general")}
    entries = [{**common, **general, **subset} for each in table[found[0]] for subset in _subsets(file, each)]
    if unused := sorted({name for entry in entries for name in entry} - USED):
        logging.warning("%s: this trainer has no use for %s.", file, ", ".join(unused))
    return [_part(file, entry) for entry in entries]


def _subsets(file: Path, entry: Any) -> list[dict]:
    """A table as it is, or once for each of its subsets (kohya's scripts)."""
    subsets = entry.get("subsets", [{}]) if isinstance(entry, dict) else None
    if not isinstance(subsets, list) or not all(isinstance(subset, dict) for subset in subsets):
        raise DatasetError(f"{file} has {shorten(entry)} where a folder is described; give it a table [[directory]].")
    return [{**entry, **subset} for subset in subsets]


def _part(file: Path, entry: dict) -> Part:
    listed, folder = (next((entry[key] for key in keys if key in entry), None) for keys in (LISTS, FOLDERS))
    path = folder if listed is None else listed
    if not path:
        raise DatasetError(f"{file} has a folder without a path; add one ({', '.join((*FOLDERS, *LISTS))}).")
    if entry.get(CAPTIONS, ".txt") != ".txt":
        raise DatasetError(f"{file}: {CAPTIONS} is {shorten(entry[CAPTIONS])}; save captions in .txt files.")
    place, frames = _place(file, path), next((entry[key] for key in FRAMES if key in entry), [0])
    sizes = entry.get(SIZES, [entry[SIZE]] if SIZE in entry else [])
    if not isinstance(sizes, list):
        raise DatasetError(f"{file}: {SIZES} is {shorten(sizes)}; it must be a list, such as [512].")
    return Part(
        place if listed is None else place.parent,
        None if listed is None else place,
        _whole(file, REPEATS, entry.get(REPEATS, 1), 1),
        tuple(_side(file, size) for size in sizes) or (0,),
        max((_whole(file, "frames", n, 0) for n in (frames if isinstance(frames, list) else [frames])), default=0),
    )


def _side(file: Path, size: Any) -> int:
    """The side of a square with the area of a resolution: a side, or width and height."""
    sides = size if isinstance(size, list) and len(size) == 2 else [size, size]
    width, height = (_whole(file, SIZE, side, 1) for side in sides)
    return math.isqrt(width * height)


def _whole(file: Path, name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise DatasetError(f"{file}: {name} is {shorten(value)}; it must be a whole number from {least} to {MOST}.")
    return value


def _place(file: Path, path: Any) -> Path:
    try:
        (file.parent / path).exists()
    except (TypeError, ValueError, OSError) as error:
        raise DatasetError(f"{file} has a folder whose path is {shorten(path)}; give it a valid path.") from error
    return file.parent / path
