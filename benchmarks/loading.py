"""What loading costs: the file against reading it, memory while it loads, and the import of the pack."""

import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import comfy.model_management as mm
import comfy.ops
import torch
from safetensors.torch import save_file

from easyanimate_models.configs.motion_dit import transformer_config
from easyanimate_models.sd import load_transformer

from .measure import Row, alternating, in_own_process, report
from .networks import V3, transformer

ROOT = Path(__file__).parents[1]
IMPORT = """
import sys, time
from comfy.cli_args import args
args.cpu = True
import nodes, comfy.sd, comfy_api.latest, comfy.context_windows, comfy.clip_vision, latent_preview
sys.path.insert(0, {parent!r})
start = time.perf_counter()
__import__({name!r}, fromlist=["comfy_entrypoint"])
print(time.perf_counter() - start)
"""


def write_release(folder: Path) -> Path:
    """The V3 transformer in bfloat16, as a release has it."""
    import json

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(transformer_config(V3)))
    file = folder / "diffusion_pytorch_model.safetensors"
    save_file(transformer(dtype=torch.bfloat16).state_dict(), file)
    return file


def read(file: Path) -> None:
    """All bytes of a file, once, into memory."""
    with file.open("rb") as f:
        f.readinto(bytearray(file.stat().st_size))


def load(file: Path):
    return load_transformer(file.parent, weight_dtype="bf16")


def loaded(file: Path) -> tuple[int, int, int]:
    """Numbers in the model, their bytes, and the most bytes of our own (not of the file's pages) while they loaded."""
    peak, done = [0], threading.Event()

    def measure() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], _anonymous())

    before = _anonymous()
    thread = threading.Thread(target=measure)
    thread.start()
    patcher = load(file)
    done.set()
    thread.join()
    network = patcher.model.diffusion_model
    return sum(t.numel() for t in network.state_dict().values()), mm.module_size(network), peak[0] - before


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def import_seconds() -> float:
    """The pack's import in a process that has the host."""
    script = IMPORT.format(parent=str(ROOT.parent), name=ROOT.name)
    command, host = [sys.executable, "-c", script], Path(comfy.ops.__file__).parents[1]
    runs = [subprocess.run(command, cwd=host, capture_output=True, text=True, check=True) for _ in range(5)]
    times = [run.stdout.split()[-1] for run in runs]
    return statistics.median(map(float, times))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write_release(Path(folder) / "transformer")
        size = file.stat().st_size
        took = alternating(3, load=lambda: load(file), read=lambda: read(file))
        numbers, weights, peak = in_own_process(loaded, file)
    parameters = sum(p.numel() for p in transformer(device=torch.device("meta")).parameters())
    how = f"V3 transformer, {size / 1e9:.1f} GB in bfloat16, file in the page cache"
    slower, copies, pack = took["load"] / took["read"], peak / weights, import_seconds()
    rows = [
        Row("Load: against reading the file", "≤ 1.2 ×", f"{slower:.2f} × ({took['load']:.2f} s)", slower <= 1.2, how),
        Row("Load: copies of the weights in memory", "1", f"{copies:.2f}", copies <= 1.05, "anonymous memory, peak"),
        Row(
            "Load: numbers kept against numbers parameters",
            "1",
            f"{numbers / parameters:.3f}",
            numbers <= parameters,
            how,
        ),
        Row("Import of the pack on top of the host", "≤ 0.3 s", f"{pack:.2f} s", pack <= 0.3, "median of 5 processes"),
    ]
    report(__file__, rows)


if __name__ == "__main__":
    main()
