"""Commands that run a module of this project: `train`, `data`, `clips`, `bench`. Standard library only.

Files and folders are relative to where the command is given, though the modules run in the project's folder.
"""

import sys
from pathlib import Path

from .environment import ROOT, pip, run_module

BENCHMARK_PACKAGES = ROOT / ".bench"  # a peer to compare with, and real clips; nothing else needs them
ORIGINAL_PACKAGES = ROOT / ".bench_original"  # what the original's code imports beside them
PEERS = ["diffusers==0.35.2", "importlib_metadata", "zipp", "sk-video==1.1.10"]
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}  # glibc reuses it


def train(arguments: list[str]) -> int:
    """Train as a recipe says, or the built-in model in a run folder."""
    if not arguments:
        sys.exit("train needs a recipe (RECIPE.toml), or a run folder to train the built-in tiny model in.")
    first, *others = arguments
    is_path = len(Path(first).parts) > 1 or first.startswith(".") or Path(first).suffix or Path(first).exists()
    return run_module("easyanimate_models.training", [_absolute(first) if is_path else first, *others], KEEP_MEMORY)


def data(arguments: list[str]) -> int:
    """Make a data set as a recipe says."""
    if not arguments:
        sys.exit("data needs a recipe (RECIPE.toml) that says where the footage lies.")
    return run_module("easyanimate_models.data", [_absolute(file) for file in arguments])


def clips(arguments: list[str]) -> int:
    """Write toy clips with captions."""
    if not arguments:
        sys.exit("clips needs a folder to write to, such as a new one in ComfyUI's input folder.")
    return run_module("easyanimate_models.training.toy.toy_clips", [_absolute(arguments[0]), *arguments[1:]])


def bench(arguments: list[str]) -> int:
    """Run all benchmarks, or those named; `--original FOLDER` is a checkout to compare with."""
    folders = [BENCHMARK_PACKAGES]
    if not (BENCHMARK_PACKAGES / "diffusers").exists():
        pip("install", "--no-deps", "--target", str(BENCHMARK_PACKAGES), *PEERS)
    if "--original" in arguments[:-1]:
        at = arguments.index("--original") + 1
        arguments = [*arguments[:at], _absolute(arguments[at]), *arguments[at + 1 :]]
        folders.append(ORIGINAL_PACKAGES)
        if not ORIGINAL_PACKAGES.exists():
            pip("install", "--no-deps", "--target", str(ORIGINAL_PACKAGES), "setuptools==80.9.0")
    return run_module("benchmarks", arguments, None, *folders)


def _absolute(path: str) -> str:
    return str(Path(path).resolve())
