"""The pack as ComfyUI loads it: by path, under an alias, on the ComfyUI that COMFYUI_PATH names, on the CPU.

`tools` is loaded by path too. The project's folder must not be on `sys.path`, where our `nodes` would hide the host's.
"""

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import torch

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
HOST = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / "0.3.75")
NEIGHBOURS = TESTS / "neighbours"
ALIAS = "easyanimate_pack"


def _load(name: str, file: Path) -> ModuleType:
    """A module or package from its file, importable as `name` from then on."""
    folder = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _guard_network() -> tuple[ModuleType, Path]:
    """Refuse connections to other machines, here and in every process that tests start; refusals go into a file."""
    guard_file = TESTS / "offline" / "sitecustomize.py"
    guard = sys.modules.get("sitecustomize")
    if getattr(guard, "__file__", "") != str(guard_file):  # workers of xdist start with it
        guard = _load("sitecustomize", guard_file)
    refusals = Path(tempfile.gettempdir()) / f"easyanimate-tests-{os.getpid()}-refused.txt"
    os.environ[guard.REFUSALS] = str(refusals)
    paths = [str(guard_file.parent), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return guard, refusals


def part(name: str) -> ModuleType:
    """A module of the pack: `part("easyanimate_models.dit.layers")`."""
    return importlib.import_module(f"{ALIAS}.{name}")


sys.path.insert(0, str(HOST))
offline, REFUSALS = _guard_network()

_load("tools", ROOT / "tools" / "__init__.py")
from tools import comfyui  # noqa: E402

comfyui.BASE = ROOT / "output" / "tests" / os.environ.get("PYTEST_XDIST_WORKER", "alone")  # one for each process
comfyui.OUTPUT = comfyui.BASE / "output"

from comfy.cli_args import args as host_args  # noqa: E402

host_args.base_directory = str(comfyui.BASE)
host_args.cpu = True
host_args.use_pytorch_cross_attention = True
torch.set_num_threads(1)  # the networks of tests are too small to share out

pack = _load(ALIAS, ROOT / "__init__.py")
