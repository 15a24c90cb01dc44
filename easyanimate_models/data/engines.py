"""A task over many files: in this process, in threads, in worker processes, or by Ray over a cluster."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..files.packages import require_package
from ..media.errors import MediaError
from .ledger import Row

Task = Callable[[Path], Row]
QUEUED = 4  # files per worker that are handed out ahead


@dataclass(frozen=True)
class Result:
    """What came of a file: a row, or an error."""

    file: Path
    row: Any
    error: str = ""


def run_task(task: Callable[[Path], Any], file: Path) -> Result:
    """The task on one file. Only an unusable file (`MediaError`) becomes an error in the result; all else is raised."""
    try:
        return Result(file, task(file))
    except MediaError as error:
        return Result(file, None, str(error))


def run_in_process(task: Any, files: list[Path], workers: int = 1) -> Iterator[Result]:
    """One after the other, for tasks that fill a device alone; a task with a `batch` gets so many files at once.

    Such a task has `load(file)` and `process(loaded)`, the rows of a batch.
    """
    size = getattr(task, "batch", 1)
    if size == 1:
        yield from (run_task(task, file) for file in files)
        return
    for start in range(0, len(files), size):
        loaded = [run_task(task.load, file) for file in files[start : start + size]]
        batch = [result.row for result in loaded if result.row is not None]
        rows = iter(task.process(batch) if batch else ())
        yield from (result if result.row is None else Result(result.file, next(rows)) for result in loaded)


def run_in_threads(task: Task, files: list[Path], workers: int = 2) -> Iterator[Result]:
    """In threads, in the order in which they finish, for tasks that release Python's lock (decoding, flow, OCR)."""
    with ThreadPoolExecutor(workers) as pool:
        yield from _as_completed(pool, task, files, workers)


def run_in_processes(task: Task, files: list[Path], workers: int = 2) -> Iterator[Result]:
    """In worker processes, in the order in which they finish."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from _as_completed(pool, task, files, workers)


def run_on_ray(task: Task, files: list[Path], workers: int = 2) -> Iterator[Result]:
    """By Ray Data, on the cluster that is there, else on this machine; all must see the files under the same paths."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    data = require_package("ray.data")

    def run(item: dict[str, str]) -> dict[str, str]:
        result = run_task(task, Path(item["file"]))
        return {"file": item["file"], "row": json.dumps(result.row), "error": result.error}

    items = data.from_items([{"file": str(file)} for file in files], override_num_blocks=len(files))
    for result in items.map(run, concurrency=workers).iter_rows():
        yield Result(Path(result["file"]), json.loads(result["row"]), result["error"])


ENGINES = {"here": run_in_process, "threads": run_in_threads, "processes": run_in_processes, "ray": run_on_ray}


def _as_completed(pool: Executor, task: Task, files: list[Path], workers: int) -> Iterator[Result]:
    """However many files there are, few are queued; closing the iterator cancels the rest."""
    remaining: Iterator[Path] = iter(files)
    running: set[Future[Result]] = set()
    try:
        while True:
            running |= {
                pool.submit(run_task, task, file) for file in islice(remaining, workers * QUEUED - len(running))
            }
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
