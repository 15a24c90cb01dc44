"""The stages over a folder of footage or a data set; each goes on where it was stopped, whatever stopped it.

footage ─ split ─> clips ─ score ─> scores ─ choose ─> kept, rejected ─ describe ─> captions
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.atomic import remove_stale_parts
from .dataset_file import DatasetError, find_videos, read_caption, read_rows, write_rows
from .engines import ENGINES, Done, Work
from .filters import Limits, judged
from .ledger import Ledger, Row
from .split import SplitSettings, split

CLIPS, DONE = "clips", ".done"  # folders of a data set

Progress = Callable[[int, int], None]  # (files done, of)


@dataclass(frozen=True)
class Hands:
    """Who does the work: an engine of `engines`, with so many workers."""

    engine: str = "processes"
    workers: int = 2

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise DatasetError(f"There is no engine {self.engine!r}; choose one of {', '.join(ENGINES)}.")
        if self.workers < 1:
            raise DatasetError(f"{self.workers} workers do nothing; set workers to 1 or more.")

    def each(self, work: Work, files: list[Path]) -> Iterator[Done]:
        """The work on each file, in any order."""
        run: Any = ENGINES[self.engine]
        return run(work, files) if self.engine == "here" else run(work, files, self.workers)


HERE = Hands("here")


@dataclass(frozen=True)
class Splitter:
    """Work on a video: its clips in `folder`, called as `names` says."""

    folder: Path
    names: dict[Path, str]
    settings: SplitSettings

    def __call__(self, file: Path) -> Row:
        clips = split(file, self.folder, self.names[file], self.settings)
        return {"clips": [clip.name for clip in clips]}


def split_footage(
    source: Path, folder: Path, settings: SplitSettings, hands: Hands, progress: Progress | None = None
) -> list[Row]:
    """Clips of all videos below `source`, in `folder`, with rows; a video that can't be used has a row that says why.

    A caption beside a video is that of its clips.
    """
    videos = find_videos(source)
    remove_stale_parts(folder / CLIPS)
    work = Splitter(folder / CLIPS, _names(source, videos), settings)
    found = _all(work, videos, Ledger(folder / DONE / "split.jsonl"), hands, progress, str(settings), source)
    rows = [row for video in videos for row in _clips_of(video, video.relative_to(source), found[video])]
    write_rows(folder, rows)
    return rows


def score_clips(folder: Path, works: list, hands: Hands, progress: Progress | None = None) -> list[Row]:
    """What each of `works` measures, added to the rows."""
    rows = read_rows(folder)
    for i, work in enumerate(works):
        rows = _added(folder, rows, work, hands, _part(progress, i, len(works)))
        write_rows(folder, rows)
    return rows


def choose_clips(folder: Path, limits: Limits) -> list[Row]:
    """The rows with `rejected` as the limits have it."""
    rows = list(judged(read_rows(folder), limits))
    write_rows(folder, rows)
    return rows


def describe_clips(folder: Path, captioner, hands: Hands = HERE, progress: Progress | None = None) -> list[Row]:
    """Captions for what is kept; those given by hand win. Without a `captioner` there are only those."""
    rows = [{**row, "text": read_caption(folder / row["file"]) or row.get("text", "")} for row in read_rows(folder)]
    silent = [row for row in rows if not row["text"] and not row.get("rejected") and not row.get("wrong")]
    if captioner is not None and silent:
        told = {row["file"]: row for row in _added(folder, silent, captioner, hands, progress)}
        rows = [told.get(row["file"], row) for row in rows]
    write_rows(folder, rows)
    return rows


def _added(folder: Path, rows: list[Row], work, hands: Hands, progress: Progress | None) -> list[Row]:
    """The rows with what the work says of each; a clip that fails has `wrong`."""
    files = {row["file"]: folder / row["file"] for row in rows if _may_work(folder, row)}
    ledger = Ledger(folder / DONE / f"{work.name}.jsonl")
    found = _all(work, list(files.values()), ledger, hands, progress, _settings(work), folder)
    rows = [{k: v for k, v in row.items() if k != "wrong"} if row["file"] in files else row for row in rows]
    return [{**row, **found[files[row["file"]]]} if row["file"] in files else row for row in rows]


def _may_work(folder: Path, row: Row) -> bool:
    """Whether there is a clip; what was wrong with it may have been mended."""
    return not row.get("wrong") or (folder / row["file"]).is_file()


def _all(
    work: Work, files: list[Path], ledger: Ledger, hands: Hands, progress: Progress | None, settings: str, root: Path
) -> dict[Path, Row]:
    """A row for every file, from the ledger where it was done before, else by doing it now."""
    keys = {file: key for file in files if (key := _key(file, root, settings)) is not None}
    rows = {file: ledger[key] for file, key in keys.items() if key in ledger}
    rows |= {file: {"wrong": f"{file} is not there any more; put it back."} for file in files if file not in keys}
    left = [file for file in keys if file not in rows]
    for done in hands.each(work, left) if left else ():
        rows[done.file] = {"wrong": done.wrong} if done.row is None else done.row
        if done.row is None:
            logging.warning("%s It is left out.", done.wrong)
        ledger.write(keys[done.file], rows[done.file])
        if progress is not None:
            progress(len(rows), len(files))
    return rows


def _key(file: Path, root: Path, settings: str) -> str | None:
    """Another one for another file, or when it or the settings have changed; None when the file is gone."""
    try:
        seen = file.stat()
    except OSError:
        return None
    return f"{file.relative_to(root).as_posix()} {seen.st_size} {seen.st_mtime_ns} {settings}"


def _settings(work) -> str:
    """What a work was told, with nothing of the objects it works with."""
    plain = {k: v for k, v in vars(work).items() if isinstance(v, str | int | float | Path | None)}
    return " ".join(f"{name}={value}" for name, value in sorted(plain.items()))


def _names(source: Path, videos: list[Path]) -> dict[Path, str]:
    """A name for the clips of each video, from where it lies; no two are the same, whatever the file system."""
    names, taken = {}, set()
    for video in videos:
        plain = re.sub(r'[\\/:*?"<>|\s]+', "_", str(video.relative_to(source).with_suffix("")))
        name, number = plain, 2
        while name.casefold() in taken:
            name, number = f"{plain}~{number}", number + 1
        taken.add(name.casefold())
        names[video] = name
    return names


def _clips_of(video: Path, name: Path, found: Row) -> list[Row]:
    if "wrong" in found:
        return [{"file": name.as_posix(), "source": name.as_posix(), "text": "", **found, "rejected": found["wrong"]}]
    told = {"source": name.as_posix(), "text": read_caption(video)}
    return [{"file": f"{CLIPS}/{clip}", **told} for clip in found["clips"]]


def _part(progress: Progress | None, index: int, of: int) -> Progress | None:
    """Progress of one of several passes."""
    return progress and (lambda done, total: progress(index * total + done, of * total))
