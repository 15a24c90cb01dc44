"""A run's folder is for one run at a time: a second one would write every row of its log twice."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"


@contextmanager
def locked(folder: Path, enabled: bool = True) -> Iterator[None]:
    """Hold the folder of a run; raises `ValueError` while another run does. The system lets go when a process ends."""
    if not enabled:
        yield
        return
    with (folder / LOCK).open("a") as file:
        if not _lock(file):
            raise ValueError(
                f"Another run is training in {folder} right now; wait until it has ended, or choose another name."
            )
        yield


def _lock(file: IO) -> bool:
    """Whether the lock is held now; on a disk without locks, it always is."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True
