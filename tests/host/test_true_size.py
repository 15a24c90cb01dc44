"""Published files at their true size: recognised, loaded, run for one step, and freed again. Only with `--true-size`.

A row at a time, on one server, as an artist changes models; the table at the end has a line for each.
"""

import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support import true_size
from support.faults import memory, settle
from support.own_server import own_server
from support.pack import NEIGHBOURS
from tools import comfyui
from tools.workflows import client
from tools.workflows.author import node

GB = 10**9
LEFT = 0.5 * GB  # above the level before the first row, that may stay
SPARE = 4 * GB  # of memory and of disk, beside what a row takes
WAIT, SETTLED = 30, 3  # seconds until memory must have come back, and in which it may still change
DETECTED = re.compile(r"EasyAnimate (?:transformer|VAE) .*: (EasyAnimateV\d)$", re.MULTILINE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A server that has run every release once with small files: its port, process, log, and bytes after `/free`."""
    folder = tmp_path_factory.mktemp("server")
    packs = ("--extra-model-paths-config", str(NEIGHBOURS / "extra_model_paths.yaml"))
    with true_size.small_files(), own_server(folder, *packs) as (port, process):
        for release in ("V1", "V2", "V3"):
            client.run(port, true_size.graph(release))
        yield port, process, folder / "server.log", free(port, process)


@pytest.mark.parametrize("row", true_size.rows(), ids=lambda row: row.name)
def test_a_published_file_loads_runs_and_goes(row, alone, true_size_table):
    port, process, log, before = alone
    require_room(row)
    nodes, logged = true_size.graph(row.release) | row.loaders, log.stat().st_size
    with true_size.written(row):
        try:
            load, loaded = measured(process, lambda: client.run(port, loading(nodes, row.loaders)))
            step, stepped = measured(process, lambda: client.run(port, nodes))
        finally:
            after = free(port, process, before + LEFT)
    found = DETECTED.findall(log.read_bytes()[logged:].decode(errors="replace"))
    sizes = (row.bytes, max(loaded, stepped) - before, after - before)
    size, peak, left = (f"{figure / GB:.2f}" for figure in sizes)
    true_size_table.append((row.name, size, f"{load:.0f}", f"{step:.0f}", peak, left))
    assert row.component not in ("model", "vae") or f"EasyAnimate{row.release}" in found
    assert after - before <= LEFT, f"{left} GB stay, {memory(port)['tensor_bytes'] / GB:.2f} GB of them in tensors"


def require_room(row: true_size.Row) -> None:
    """Skip a row for which memory or disk do not suffice."""
    available, disk = psutil.virtual_memory().available, shutil.disk_usage(comfyui.BASE).free
    if available < row.memory + SPARE or disk < row.bytes + SPARE:
        pytest.skip(f"needs {(row.memory + SPARE) / GB:.0f} GB of memory and {(row.bytes + SPARE) / GB:.0f} GB of disk")


def loading(nodes: dict, loaders: dict) -> dict:
    """A prompt that does nothing but load."""
    loads = [name for name in loaders if nodes[name]["class_type"].startswith("EasyAnimateLoad")]
    shown = {f"show {name}": node("PreviewAny", source=[name, 0]) for name in loads}
    return {name: nodes[name] for name in loads} | shown


def anonymous(process: psutil.Process) -> int:
    """Bytes that a process has to itself; on Linux without the files that it maps."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if not rollup.exists():
        return process.memory_info().rss
    return next(int(line.split()[1]) * 1024 for line in rollup.read_text().splitlines() if line.startswith("Anonymous"))


def free(port: int, process: psutil.Process, goal: float = float("inf")) -> int:
    """Ask the server once to free all memory; the bytes that it keeps, once they are below `goal` or `WAIT` is over."""
    settle(port)
    client.post(port, "/free", {"unload_models": True, "free_memory": True})
    deadline = time.monotonic() + WAIT
    while anonymous(process) > goal and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(SETTLED)
    return anonymous(process)


def measured(process: psutil.Process, work: Callable[[], object]) -> tuple[float, int]:
    """Seconds that `work` takes, and the most bytes that the process had to itself meanwhile."""
    peak, done = [anonymous(process)], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peak.append(anonymous(process))

    thread, start = threading.Thread(target=watch), time.monotonic()
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return time.monotonic() - start, max(peak)
