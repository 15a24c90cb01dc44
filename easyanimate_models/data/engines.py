"""One function over many files: in this process, in worker processes, or by Ray over a cluster."""

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

Work = Callable[[Path], Row]
WAITING = 4  # files per worker that are handed out ahead


@dataclass(frozen=True)
class Done:
    """What came of a file: a row, or what is wrong with it."""

    file: Path
    row: Row | None
    wrong: str = ""


def attempt(work: Work, file: Path) -> Done:
    """The work on one file; a file that can't be used is no reason to stop, all else is."""
    try:
        return Done(file, work(file))
    except MediaError as error:
        return Done(file, None, str(error))


def in_order(work: Any, files: list[Path]) -> Iterator[Done]:
    """Here, for work that fills a device by itself; as many files at once as its `batch` says, if it has one."""
    size = getattr(work, "batch", 1)
    if size == 1:
        yield from (attempt(work, file) for file in files)
        return
    for start in range(0, len(files), size):
        seen = [attempt(work.seen, file) for file in files[start : start + size]]
        rows = iter(work.told([done.row for done in seen if done.row is not None]))
        yield from (done if done.row is None else Done(done.file, next(rows)) for done in seen)


def by_threads(work: Work, files: list[Path], workers: int = 2) -> Iterator[Done]:
    """Here, as they are done, where the work leaves Python's lock alone (decoding, flow, an OCR)."""
    with ThreadPoolExecutor(workers) as pool:
        yield from _as_done(pool, work, files, workers)


def by_processes(work: Work, files: list[Path], workers: int = 2) -> Iterator[Done]:
    """In processes of their own, as they are done."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from _as_done(pool, work, files, workers)


def by_ray(work: Work, files: list[Path], workers: int = 2) -> Iterator[Done]:
    """By Ray Data, on the cluster that is there, else on this machine; all must see the files under the same paths."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that this machine works
    data = require_package("ray.data")

    def one(given: dict[str, str]) -> dict[str, str]:
        done = attempt(work, Path(given["file"]))
        return {"file": given["file"], "row": json.dumps(done.row), "wrong": done.wrong}

    handed_out = data.from_items([{"file": str(file)} for file in files], override_num_blocks=len(files))
    for done in handed_out.map(one, concurrency=workers).iter_rows():
        yield Done(Path(done["file"]), json.loads(done["row"]), done["wrong"])


ENGINES = {"here": in_order, "threads": by_threads, "processes": by_processes, "ray": by_ray}


def _as_done(pool: Executor, work: Work, files: list[Path], workers: int) -> Iterator[Done]:
    """However many files there are, few wait; whoever stops listening stops the rest."""
    left: Iterator[Path] = iter(files)
    running: set[Future[Done]] = set()
    try:
        while True:
            running |= {pool.submit(attempt, work, file) for file in islice(left, workers * WAITING - len(running))}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
