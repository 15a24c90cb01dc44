"""A folder of clips and images with captions, as a list of items to train on.

Captions are in a list (`data.dataset_file`), or in a `.txt` file beside each clip, which wins. A list may name a clip
several times with different captions; it is then trained on as often. A TOML file may name several folders
(`dataset_toml`).
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.dataset_file import DatasetError, find_files, is_hidden, read_caption, read_list, read_list_file
from ...data.ledger import Row
from ...media import video_file
from ...media.errors import MediaError
from ...media.frame_rate import is_same_rate
from ...media.image_file import IMAGES, is_image
from ...media.video_file import VIDEOS, count_frames, probe
from ..identity import digest, file_digest, tensor_digest
from .dataset_toml import Part, read_parts, toml_of

NAMED = 3  # files in an error


@dataclass(frozen=True, eq=False)
class Item:
    """A clip, or an image (one frame), with its caption: in a file, or its `pixels` in memory. Sizes are in pixels.

    `start` is the first frame that is trained on. A clip that is `resampled` has its frames at `fps`, whatever rate its
    file has. `control` is the video that it follows, or a file of its camera's poses. One that is `held_out` is for
    validation. A `side` and `most_frames` of its own go before those of the run.
    """

    file: Path
    text: str
    frames: int
    height: int
    width: int
    fps: float
    pixels: Tensor | None = None  # [T, H, W, 3] in 0..1
    start: int = 0
    resampled: bool = False
    control: Path | None = None
    held_out: bool = False
    side: int = 0
    most_frames: int = 0

    def digest(self) -> str:
        """A digest of the clip's contents, whatever it is called. Raises `MediaError` when its file is gone."""
        own = file_digest(self.file) if self.pixels is None else tensor_digest(self.pixels)
        return own if self.control is None else digest([own, file_digest(self.control)])


def in_memory(clips: list[Tensor], texts: list[str]) -> list[Item]:
    """Clips `[T, H, W, 3]` in 0..1 as items; a single text goes with all. Raises `DatasetError` when counts differ."""
    if not clips:
        raise DatasetError("There is nothing to train on; choose a folder, or connect clips and captions.")
    texts = texts * len(clips) if len(texts) == 1 else texts
    if len(texts) != len(clips) or not all(text.strip() for text in texts):
        counts = f"{len(clips)} clips and {len([t for t in texts if t.strip()])} captions"
        raise DatasetError(f"There are {counts}; provide one caption per clip, or one for all of them.")
    return [
        Item(Path(f"clip {i}"), " ".join(text.split()), len(clip), clip.shape[1], clip.shape[2], 24.0, clip[..., :3])
        for i, (clip, text) in enumerate(zip(clips, texts, strict=True))
    ]


def read_dataset(source: str | Path, with_captions: bool = True, fps: float = 0, within: bool = False) -> list[Item]:
    """All clips and images of a folder or a TOML file (see `dataset_toml`) that can be read.

    The folders that a TOML file names may be anywhere, unless they have to be `within` its own. Raises `DatasetError`.
    """
    source = Path(source)
    file = toml_of(source)
    if file is None:
        return _read_part(Part(source), with_captions, fps)
    items: list[Item] = []
    for part in read_parts(file):
        if within and not part.folder.resolve().is_relative_to(file.parent.resolve()):
            raise DatasetError(f"{file} names {part.folder}, which is outside {file.parent}; move it there.")
        found = _read_part(part, with_captions, fps)
        items += [
            replace(item, side=side, most_frames=part.frames)
            for side in part.sides
            for item in found
            for _ in range(part.repeats)
        ]
    return items


def cache_folder(source: Path) -> Path:
    """The folder in which a data set's encoded clips are kept."""
    return source.parent if source.suffix.lower() == ".toml" else source


def _read_part(part: Part, with_captions: bool, fps: float) -> list[Item]:
    """The clips and images of one folder, in the order of their names.

    Clips are resampled to `fps` by the times of their frames, which the log says; 0 leaves each at its own rate.

    A file that can't be read is named in the log and left out. Raises `DatasetError` when the folder is missing, when
    nothing in it can be read, or when a caption is missing, unless none is needed.
    """
    folder = part.folder
    if not folder.is_dir():
        raise DatasetError(f"The folder {folder} does not exist; choose the one that contains the clips.")
    captioned = _captioned_files(folder, part.listed)
    files = sorted({entry.file for entry in captioned})
    silent = sorted({entry.file.name for entry in captioned if not entry.text})
    if silent and with_captions:
        raise DatasetError(
            f"{len(silent)} of {len(files)} files in {folder} have no caption ({', '.join(silent[:NAMED])}); describe "
            "each one in a .txt file of the same name beside it."
        )
    found = {file: item for file in files if (item := _probe(file, fps)) is not None}
    readable = (entry for entry in captioned if entry.file in found)
    items = [replace(found[entry.file], text=entry.text, control=entry.control) for entry in readable]
    if not items:
        raise DatasetError(f"None of the {len(files)} files in {folder} can be read as a video or image; see the log.")
    if lost := len(files) - len(found):
        logging.warning("%d of %d files in %s can't be read and are skipped.", lost, len(files), folder)
    _warn_of_several_rates(folder, items)
    return items


def read_frames(item: Item, start: int, count: int, every: int = 1) -> Tensor:
    """`count` frames from `start` on, every so many, `[T, H, W, 3]` in 0..1. Raises `MediaError`."""
    if item.pixels is not None:
        return item.pixels[start : start + count * every : every]
    fps = item.fps if item.resampled else None
    return torch.from_numpy(video_file.read_frames(item.file, start, count, every, fps)).float() / 255


def read_image(file: Path) -> Tensor:
    """An image, or the first frame of a clip, `[1, H, W, 3]` in 0..1. Raises `MediaError`."""
    return torch.from_numpy(video_file.read_frames(file, 0, 1, 1, None)).float() / 255


def read_control(item: Item, control: Path, count: int, every: int = 1) -> Tensor:
    """`count` frames of an item's `control` video from its start on, as `read_frames`. Raises `MediaError`."""
    fps = item.fps if item.resampled else None
    return torch.from_numpy(video_file.read_frames(control, item.start, count, every, fps)).float() / 255


def fit_into(pixels: Tensor, height: int, width: int) -> Tensor:
    """A clip `[T, H, W, 3]` scaled so that it covers this size, and cut to it in the middle."""
    scale = max(height / pixels.shape[1], width / pixels.shape[2])
    size = [max(least, round(side * scale)) for side, least in zip(pixels.shape[1:3], (height, width), strict=True)]
    if scale != 1:
        frames = pixels.movedim(-1, 1)
        frames = torch.nn.functional.interpolate(frames, size=size, mode="bicubic", antialias=True)
        pixels = frames.clamp(0, 1).movedim(1, -1)
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


class _Entry(NamedTuple):
    """A file with its caption, "" without one, and the control video or poses that belong to it."""

    file: Path
    text: str
    control: Path | None


def _captioned_files(folder: Path, listed: Path | None) -> list[_Entry]:
    """The files in the list of the folder, or in `listed`, else all clips and images below it."""
    rows = read_list(folder) if listed is None else read_list_file(listed)
    if rows is None:
        captioned = [_Entry(file, "", None) for file in find_files(folder, VIDEOS | IMAGES)]
    else:
        accepted = [_entry(folder, row) for row in rows if not row.get("rejected")]
        captioned = [entry for entry in accepted if not is_hidden(folder, entry.file)]
    if rows and not captioned:
        raise DatasetError(f"All clips in the list of {folder} are rejected; loosen the limits, or remove the list.")
    if not captioned:
        raise DatasetError(f"{folder} contains no clips or images; add some, each with its caption in a .txt file.")
    described = (each._replace(text=read_caption(each.file) or " ".join(each.text.split())) for each in captioned)
    return sorted(described, key=lambda each: each[:2])


def _entry(folder: Path, row: Row) -> _Entry:
    control = row.get("control")
    return _Entry(_path(folder, row["file"]), row.get("text", ""), _path(folder, control) if control else None)


def _path(folder: Path, name: str) -> Path:
    """Where a list's entry lies, the same for every way to write its name."""
    return folder / (folder / name).resolve().relative_to(folder.resolve())


def _probe(file: Path, fps: float) -> Item | None:
    """The item without its caption, None when it can't be read: each frame is decoded once, to be sure and to count."""
    try:
        video = probe(file)
        if not fps and not video.even:
            logging.warning("%s has %s; set fps, or its motion is learnt unevenly.", file, video.rate())
        if not fps or is_image(file) or video.is_at(fps):
            return Item(file, "", count_frames(file), video.height, video.width, float(video.fps))
        count = count_frames(file, fps)
        logging.info("%s is resampled from %s to %g, which makes %d frames.", file, video.rate(), fps, count)
        return Item(file, "", count, video.height, video.width, fps, resampled=True)
    except MediaError as error:
        logging.warning("%s The clip is skipped.", error)
        return None


def _warn_of_several_rates(folder: Path, items: list[Item]) -> None:
    """Say so if clips are to be learnt at rates of their own that differ: the same motion would have several speeds."""
    rates = [item.fps for item in items if item.frames > 1]
    if rates and not is_same_rate(max(rates), min(rates)):
        logging.warning(
            "The clips in %s have %.4g to %.4g frames per second; set fps (24 for V3), or the same motion is learnt at "
            "several speeds.",
            folder,
            min(rates),
            max(rates),
        )
