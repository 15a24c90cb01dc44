"""A ComfyUI server with this pack. Standard library only.

Tests set `BASE` and `OUTPUT` to folders of their own.
"""

import contextlib
import functools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .environment import HOST, PYTHON, ROOT, print_line
from .workflows import client

PACK = "ComfyUI-EasyAnimate"
BASE = HOST  # the folder of models, input, user and custom_nodes
OUTPUT = ROOT / "output"
START_SECONDS = 300


def link_pack() -> None:
    """Link the pack into custom_nodes: a symlink, or on Windows a junction, which needs no special rights."""
    link = BASE / "custom_nodes" / PACK
    if link.exists() or ROOT.parent == link.parent:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(ROOT), str(link))
    else:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)


@functools.cache
def has_gpu() -> bool:
    """Whether torch in `.venv` has a GPU to run on."""
    probe = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return "True" in subprocess.run([str(PYTHON), "-c", probe], capture_output=True, text=True).stdout


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def server_command(port: int, *options: str) -> list[str]:
    """The command line that starts ComfyUI."""
    command = [str(PYTHON), str(HOST / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(BASE), "--database-url", f"sqlite:///{BASE / 'user' / 'comfyui.db'}"]
    command += ["--output-directory", str(OUTPUT), "--disable-auto-launch", *options]
    return command if has_gpu() else [*command, "--cpu", "--use-pytorch-cross-attention"]


@contextlib.contextmanager
def server(*options: str) -> Iterator[int]:
    """A running ComfyUI with further command line options; yields its port."""
    port, log = free_port(), OUTPUT / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        process = subprocess.Popen(server_command(port, *options), stdout=out, stderr=subprocess.STDOUT, cwd=HOST)
        try:
            wait_for(process, port, log)
            yield port
        finally:
            process.terminate()
            process.wait()


def wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    """Until the server answers; exits when it ends instead, or takes longer than `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            client.get(port, "/system_stats")
            return
        time.sleep(0.2)
    taken = " The port is taken; try again." if "address already in use" in log.read_text(errors="replace") else ""
    sys.exit(f"ComfyUI did not start; the reason is at the end of {log.relative_to(ROOT)}.{taken}")


def our_nodes(port: int) -> dict[str, dict]:
    """The nodes of this pack as `/object_info` describes them, by id."""
    object_info = client.get(port, "/object_info")
    return {name: node for name, node in object_info.items() if node["python_module"] == f"custom_nodes.{PACK}"}


def saved_video(outputs: dict) -> Path:
    """The first file that a workflow saved."""
    saved = next(file for node in outputs.values() for file in node.get("images", ()) if file["type"] == "output")
    return OUTPUT / saved["subfolder"] / saved["filename"]


def serve(arguments: list[str]) -> int:
    """`dev.py serve`: a server for working in the browser; `arguments` are further options of ComfyUI."""
    port = free_port()
    print_line(f"ComfyUI at http://127.0.0.1:{port} (Ctrl+C stops it)")
    return subprocess.run(server_command(port, *arguments), cwd=HOST).returncode
