"""A server for one test module, whose memory is measured from outside."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from tools import comfyui

from .pack import HOST


@contextlib.contextmanager
def own_server(folder: Path, *options: str, **variables: str) -> Iterator[tuple[int, psutil.Process]]:
    """Its port and its process; the log goes into `folder`."""
    port, log = comfyui.free_port(), folder / "server.log"
    options = ("--database-url", "sqlite:///:memory:", *options)
    with log.open("w") as out:
        process = subprocess.Popen(
            comfyui.server_command(port, *options),
            stdout=out, stderr=subprocess.STDOUT, cwd=HOST, env={**os.environ, **variables},
        )  # fmt: skip
        try:
            comfyui.wait_for(process, port, log)
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()
