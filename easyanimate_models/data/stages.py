"""The stages over a folder of footage or a data set; each resumes where it was stopped, whatever stopped it.

footage ─ split ─> clips ─ score ─> scores ─ choose ─> kept, rejected ─ describe ─> captions
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files.atomic import remove_stale_parts, short_name
from ..files.messages import shorten
from .dataset_file import DatasetError, find_videos, read_caption, read_rows, write_rows
from .engines import ENGINES, Result, Task
from .filters import Limits, apply_limits
from .ledger import Ledger, Row
from .split import SplitSettings, read_footage, split

CLIPS, DONE = "clips", ".done"  # folders of a data set

Progress = Callable[[int, int], None]  # (files done, of)


@dataclass(frozen=True)
class Execution:
    """How a stage runs: an engine of `engines`, with so many workers."""

    engine: str = "processes"
    workers: int = 2

    def __post_init__(self):
        if self.engine not in ENGINES:
            raise DatasetError(f"There is no engine {shorten(self.engine)}; choose one of {', '.join(ENGINES)}.")
        if self.workers < 1:
            raise DatasetError(f"workers is {self.workers}; set it to 1 or more.")

    def run(self, task: Task, files: list[Path]) -> Iterator[Result]:
        """The task on each file, in any order."""
        return ENGINES[self.engine](task, files, self.workers)


IN_PROCESS = Execution("here")


@dataclass(frozen=True)
class Splitter:
    """Task on a video: its clips in `folder`, named after `stems`."""

    folder: Path
    stems: dict[Path, str]
    settings: SplitSettings

    def __call__(self, file: Path) -> Row:
        footage = read_footage(file, self.settings.fps)
        clips = split(footage, self.folder, self.stems[file], self.settings)
        spans = [footage.seconds(segment) for segment in clips.values()]
        return {"clips": [clip.name for clip in clips], "spans": spans, "resampled": footage.resampling()}


def split_footage(
    source: Path, folder: Path, settings: SplitSettings, execution: Execution, progress: Progress | None = None
) -> list[Row]:
    """Clips of all videos below `source`, in `folder`, with rows; a video that can't be used has a row that says why.

    A caption beside a video is that of its clips.
    """
    videos = find_videos(source)
    captions = {video: read_caption(video) for video in videos}
    remove_stale_parts(folder / CLIPS)
    splitter, ledger = Splitter(folder / CLIPS, _stems(source, videos), settings), Ledger(folder / DONE / "split.jsonl")
    _forget_overwritten(ledger)
    found = _run_on_all(splitter, videos, ledger, execution, progress, str(settings), source)
    for video in videos:
        if resampling := found[video].get("resampled"):
            logging.info("%s is resampled from %s.", video, resampling)
    rows = [row for video in videos for row in _clip_rows(video.relative_to(source), captions[video], found[video])]
    write_rows(folder, rows)
    return rows


def score_clips(folder: Path, scorers: list, execution: Execution, progress: Progress | None = None) -> list[Row]:
    """The rows with the scores of each of `scorers` added; a scorer is a task with a `name`."""
    rows = read_rows(folder)
    for i, scorer in enumerate(scorers):
        rows = _with_results(folder, rows, scorer, execution, _part_of(progress, i, len(scorers)))
        write_rows(folder, rows)
    return rows


def choose_clips(folder: Path, limits: Limits) -> list[Row]:
    """The rows with `rejected` as the limits have it."""
    rows = list(apply_limits(read_rows(folder), limits))
    write_rows(folder, rows)
    return rows


def describe_clips(
    folder: Path, captioner, execution: Execution = IN_PROCESS, progress: Progress | None = None
) -> list[Row]:
    """The rows with captions, from `.txt` files first, else by the `captioner` for clips that are not rejected."""
    rows = [{**row, "text": read_caption(folder / row["file"]) or row.get("text", "")} for row in read_rows(folder)]
    silent = [row for row in rows if not row["text"] and not row.get("rejected") and not row.get("wrong")]
    if captioner is not None and silent:
        captioned = {row["file"]: row for row in _with_results(folder, silent, captioner, execution, progress)}
        rows = [captioned.get(row["file"], row) for row in rows]
    write_rows(folder, rows)
    return rows


def _with_results(folder: Path, rows: list[Row], task, execution: Execution, progress: Progress | None) -> list[Row]:
    """The rows with what the task found for each; a clip that fails has `wrong`."""
    files = {row["file"]: folder / row["file"] for row in rows if _is_usable(folder, row)}
    ledger = Ledger(folder / DONE / f"{task.name}.jsonl")
    found = _run_on_all(task, list(files.values()), ledger, execution, progress, _settings_of(task), folder)
    rows = [{k: v for k, v in row.items() if k != "wrong"} if row["file"] in files else row for row in rows]
    return [{**row, **found[files[row["file"]]]} if row["file"] in files else row for row in rows]


def _is_usable(folder: Path, row: Row) -> bool:
    """Whether there is a clip to try; what was wrong with it may have been mended."""
    return not row.get("wrong") or (folder / row["file"]).is_file()


def _run_on_all(
    task: Task,
    files: list[Path],
    ledger: Ledger,
    execution: Execution,
    progress: Progress | None,
    settings: str,
    root: Path,
) -> dict[Path, Row]:
    """A row for every file, from the ledger where it was done before, else by running the task now."""
    keys = {file: key for file in files if (key := _ledger_key(file, root, settings)) is not None}
    rows = {file: ledger[key] for file, key in keys.items() if key in ledger}
    rows |= {file: {"wrong": f"{file} no longer exists; put it back."} for file in files if file not in keys}
    remaining = [file for file in keys if file not in rows]
    for result in execution.run(task, remaining) if remaining else ():
        rows[result.file] = {"wrong": result.error} if result.row is None else result.row
        if result.row is None:
            logging.warning("%s The file is skipped.", result.error)
        ledger.write(keys[result.file], rows[result.file])
        if progress is not None:
            progress(len(rows), len(files))
    return rows


def _ledger_key(file: Path, root: Path, settings: str) -> str | None:
    """A key that changes with the file and the settings; None when the file is gone."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return f"{file.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns} {settings}"


def _forget_overwritten(ledger: Ledger) -> None:
    """Forget all but the last split of each video: its clips have taken the place of those of other settings."""
    last = {key.partition(f" {SplitSettings.__name__}(")[0].rsplit(" ", 2)[0]: key for key in ledger.rows}
    ledger.rows = {key: ledger.rows[key] for key in last.values()}


def _settings_of(task) -> str:
    """The settings of a task, without the objects it works with. Part of ledger keys: fields must keep their names."""
    plain = {k: v for k, v in vars(task).items() if isinstance(v, str | int | float | Path | None)}
    return " ".join(f"{name}={value}" for name, value in sorted(plain.items()))


def _stems(source: Path, videos: list[Path]) -> dict[Path, str]:
    """A name for the clips of each video, from its path below `source`; no two are the same on any file system."""
    stems, taken = {}, set()
    for video in videos:
        plain = re.sub(r'[\\/:*?"<>|\s]+', "_", str(video.relative_to(source).with_suffix("")))
        plain = short_name(plain)
        stem, number = plain, 2
        while stem.casefold() in taken:
            stem, number = f"{plain}~{number}", number + 1
        taken.add(stem.casefold())
        stems[video] = stem
    return stems


def _clip_rows(name: Path, caption: str, found: Row) -> list[Row]:
    """The rows of a video's clips, or one that says what is wrong with it."""
    if "wrong" in found:
        return [{"file": name.as_posix(), "source": name.as_posix(), "text": "", **found, "rejected": found["wrong"]}]
    spans = found.get("spans") or [()] * len(found["clips"])  # splits of older versions have none
    return [
        {
            "file": f"{CLIPS}/{clip}",
            "source": name.as_posix(),
            **dict(zip(("start", "end"), span, strict=False)),
            "text": caption,
        }
        for clip, span in zip(found["clips"], spans, strict=True)
    ]


def _part_of(progress: Progress | None, index: int, count: int) -> Progress | None:
    """Progress of one of several passes."""
    return progress and (lambda done, total: progress(index * total + done, count * total))
