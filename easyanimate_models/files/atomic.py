"""The one writer of the package: a file appears whole or not at all, and what goes wrong is said in a sentence."""

import errno
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from .messages import SHOWN

PART = ".part"
STALE_AFTER = 3600  # seconds since a part was last written to; nobody writes to it any more
NAME_BYTES = 200  # of a file's name in the name of its part: most disks take 255
HASH_DIGITS = 12  # of the whole name, in a name that was cut
FULL = {errno.ENOSPC, errno.EDQUOT}
READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors passes on the system's error


class WriteError(OSError):
    """A file can't be written; the message names it, says why and what to do. `errno` is the system's."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to be written to; it becomes `path` when the block ends.

    If anything fails, `path` stays as it was and the temporary file is removed. No two writers share one: a writer that
    was cancelled may still be at work when the next begins. Raises `WriteError` for a full disk, a read-only folder and
    every other `OSError` with a number; give libraries that raise others (`torch.save`) an open file instead.
    """
    part = _temporary_file(path)
    try:
        with explain_write_errors(path):
            yield part
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """For writing to `path` in other ways, such as appending: raises `WriteError` in place of the system's errors."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of this package, a sentence already
            raise
        explained = WriteError(_sentence(path, error))
        explained.errno = error.errno
        raise explained from error


def write_text(path: Path, text: str) -> Path:
    """Write text in UTF-8; it is on the disk when this returns. Raises `WriteError`."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """Write tensors of any device; they are on the disk when this returns. Raises `WriteError`."""
    with atomic_write(path) as part:
        try:
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part, metadata)
        except SafetensorError as error:
            number = OS_ERROR.search(str(error))
            if number is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(part), code) from error  # the last is for Windows' own numbers
    return path


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it where they are missing. Raises `WriteError`."""
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_stale_parts(folder: Path) -> None:
    """Remove what writers that were killed left in a folder."""
    for part in folder.glob(f"*{PART}"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_AFTER:
                part.unlink()


def short_name(name: str, size: int = NAME_BYTES) -> str:
    """A name of at most so many bytes: a longer one is cut, and ends in a hash of the whole, so no two become one."""
    encoded = os.fsencode(name)
    if len(encoded) <= size:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:HASH_DIGITS]
    return encoded[: size - HASH_DIGITS - 1].decode(errors="ignore") + "~" + digest


def _temporary_file(path: Path) -> Path:
    name = os.fsencode(path.name)[:NAME_BYTES].decode(errors="ignore")
    return path.with_name(f"{name}.{uuid.uuid4().hex[:12]}{PART}")


def _sentence(path: Path, error: OSError) -> str:
    if error.errno in FULL:
        return f"The disk that holds {path} is full; free some space and run it again."
    if error.errno in READ_ONLY:
        return f"{path.parent} can't be written to; change its permissions or choose another folder."
    if error.errno == errno.ENAMETOOLONG:
        return f"The name {path.name[:SHOWN]}... is too long for this file system; shorten it."
    return f"{path} can't be written ({error.strerror}); check the folder and the disk, then run it again."
