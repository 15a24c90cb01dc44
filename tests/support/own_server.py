"""A ComfyUI of a test's own, whose memory is watched from outside."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
from conftest import HOST, dev


@contextlib.contextmanager
def own_server(folder: Path, *options: str, **environment: str) -> Iterator[tuple[int, psutil.Process]]:
    """Its port and its process; the log and the database lie in `folder`."""
    port, log = dev.free_port(), folder / "server.log"
    options = ("--database-url", "sqlite:///:memory:", *options)
    with log.open("w") as out:
        process = subprocess.Popen(
            dev.server_command(port, *options),
            stdout=out, stderr=subprocess.STDOUT, cwd=HOST, env={**os.environ, **environment},
        )  # fmt: skip
        try:
            dev.wait_for(process, port, log)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()
