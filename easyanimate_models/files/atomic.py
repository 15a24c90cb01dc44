"""Writing without leaving half a file, and what to say when there is no room."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part"
LEFT = 3600  # seconds after which nobody writes to such a place any more


def tidy(folder: Path) -> None:
    """Remove what killed writers left."""
    for partial in folder.glob(f"*{PART}"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > LEFT:
                partial.unlink()


@contextmanager
def in_full(file: Path) -> Iterator[Path]:
    """A place to write to, which becomes `file` in the end; if anything fails, `file` stays as it was.

    No two writers have the same place: one that was cancelled may still be at work when the next begins.
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}{PART}")
    try:
        with room_for(file):
            yield partial
            partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def room_for(file: Path) -> Iterator[None]:
    """Raises `OSError` in a sentence when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        told = f"The disk that holds {file} is full; make room and run it again."
        raise OSError(errno.ENOSPC, told) from error


def write_text(file: Path, text: str) -> Path:
    """The whole text, on the disk when this returns."""
    with in_full(file) as partial, partial.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    return file
