"""Time and memory, measured so that the figures of one run can be compared with each other."""

import ctypes
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

RESULTS = Path(__file__).parent / "results"
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


@dataclass(frozen=True)
class Row:
    """One line of RESULTS.md: the question, the target, and the figure that was measured."""

    question: str
    target: str
    figure: str
    met: bool | None  # None: nothing was promised
    how: str


def report(script: str, rows: list[Row], beside: str = "") -> None:
    """Store the rows of a benchmark with the machine, and further text for `beside` the table, for RESULTS.md."""
    RESULTS.mkdir(exist_ok=True)
    found = {"machine": machine(), "rows": [asdict(row) for row in rows], "beside": beside}
    (RESULTS / f"{Path(script).stem}.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    for row in rows:
        verdict = "" if row.met is None else "met" if row.met else "NOT MET"
        sys.stdout.write(f"{row.question}: {row.figure} (target {row.target or 'none'}) {verdict}\n")


def machine() -> str:
    """What a figure depends on."""
    if CUDA:
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{torch.get_num_threads()} CPU threads, {capability}, torch {torch.__version__}"


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes once."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def alternating(repetitions: int = 5, /, **works: Callable[[], object]) -> dict[str, float]:
    """The median seconds of each of `works`, run in turn after one round that does not count."""
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(t) for name, t in times.items()}


Make = Callable[[], Callable[[], object]]  # what makes a work, with its network and inputs


@dataclass(frozen=True)
class Comparison:
    """Seconds of ours and of a peer's, and the median of their ratios, pair by pair."""

    ours: float
    theirs: float
    gain: float

    def row(self, question: str, least: float, how: str) -> Row:
        """The line of RESULTS.md; `least` is the gain that was promised."""
        figure = f"{self.gain:.2f} × ({self.ours:.2f} s against {self.theirs:.2f} s)"
        return Row(question, f"≥ {least} ×", figure, self.gain >= least, how)


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int = 3) -> Comparison:
    """Both, in turn, after one round that does not count."""
    ours()
    theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(pairs)]
    gain = statistics.median(b / a for a, b in times)
    return Comparison(*(statistics.median(t) for t in zip(*times, strict=True)), gain)


def against(peer: str, what: str, least: float, ours: Make, theirs: Make, how: str) -> list[Row]:
    """Speed of the works that both make, in pairs, and the peak of each in a process of its own."""
    speed = compare(ours(), theirs()).row(f"{what}: against {peer}", least, how)
    peaks = peak_of(ours) / 1e6, peak_of(theirs) / 1e6
    figure = f"{peaks[0]:.0f} MB, {peer} {peaks[1]:.0f} MB"
    return [speed, Row("… peak above the weights", f"≤ {peer}", figure, peaks[0] <= peaks[1], how)]


def peak_of(make: Make) -> int:
    """Bytes above the weights of the work that `make` (of a module) returns, the second time, in its own process."""
    return in_own_process(_second_peak, make)


@torch.no_grad()
def _second_peak(make: Make) -> int:
    work = make()
    work()
    return peak_above(work)


def peak_above(work: Callable[[], object]) -> int:
    """Bytes by which memory rose, at most, while `work` ran."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident()
    work()
    return resident("VmHWM") - before


def in_own_process(function: Callable, *arguments):
    """What `function` (of a module) returns in a fresh process, so that nobody else's memory counts.

    There, the C library hands freed tensors back at once: the peak is of what is alive.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = str(2**16)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def matrix_product(rows: int = 2048, inner: int = 2048, columns: int = 2048, dtype=torch.float32):
    """A product as large as those of the network: the work, and its floating point operations."""
    a, b = (torch.randn(s, device=DEVICE, dtype=dtype) for s in ((rows, inner), (inner, columns)))
    return lambda: a @ b, 2 * rows * inner * columns


@dataclass(frozen=True)
class MatrixShare:
    """How near a step comes to the rate of a large product, in seconds and GFLOP/s of one run."""

    seconds: float
    rate: float
    limit: float
    size: int  # of the product's sides

    def row(self, step: str, dtype: torch.dtype, how: str) -> Row:
        """The line of RESULTS.md about this `step`; `how` says what it was."""
        share = self.rate / self.limit
        figure = f"{share:.0%} ({self.seconds:.2f} s; {self.rate:,.0f} of {self.limit:,.0f} GFLOP/s)"
        question = f"{step}, {str(dtype).removeprefix('torch.')}: share of the matrix-product rate"
        how = f"{how}; a {self.size}² product in the same run"
        return Row(question, "≥ 85 %", figure, share >= 0.85, how)


def matrix_share(step: Callable[[], object], dtype: torch.dtype) -> MatrixShare:
    """A step of a network, in turn with a product, in a process that keeps freed memory."""
    _keep_freed_memory()
    size = 8192 if CUDA else 2048
    product, operations = matrix_product(size, size, size, dtype)
    with FlopCounterMode(display=False) as counter:
        step()
    took = alternating(3, step=step, product=product)
    rate, limit = counter.get_total_flops() / took["step"] / 1e9, operations / took["product"] / 1e9
    return MatrixShare(took["step"], rate, limit, size)


def _keep_freed_memory() -> None:
    """As a GPU's allocator does. By itself, glibc has the system clear new pages for every large tensor."""
    if not CUDA and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def convolution(channels: int = 128, frames: int = 8, side: int = 128, dtype=torch.float32):
    """A large 3-D convolution in the layout that suits it best: the work, and its floating point operations."""
    shape = (1, channels, frames, side, side)
    x = torch.randn(shape, device=DEVICE, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    w = torch.randn(channels, channels, 3, 3, 3, device=DEVICE, dtype=dtype)
    w = w.contiguous(memory_format=torch.channels_last_3d)
    return lambda: F.conv3d(x, w, padding=1), 2 * 27 * channels * channels * frames * side * side


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in RAM, pages of mapped files among them; now, or at most with VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
