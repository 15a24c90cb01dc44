"""The pack as the host loads it (under an alias, by path), on the host that COMFYUI_PATH names, on the CPU."""

import importlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
HOST = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / "0.3.75")
GOLDEN = Path(__file__).parent / "golden"
NEIGHBOURS = Path(__file__).parent / "neighbours"
PACK = "easyanimate_pack"
TOLERANCE = 1e-4  # relative error against the original
SLOWEST = ("training", "training_loop", "workflows", "train_node", "train_vae", "data_set", "benchmarks", "tiny")
IN_BROWSER, LEFT_OUT = ["test_browser.py"], pytest.StashKey[bool]()
sys.path.insert(0, str(HOST))


def _load(name: str, path: Path, **kwargs):
    spec = importlib.util.spec_from_file_location(name, path, **kwargs)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


OFFLINE = Path(__file__).parent / "offline" / "sitecustomize.py"
offline = sys.modules.get("sitecustomize")
if getattr(offline, "__file__", "") != str(OFFLINE):  # a process of several begins with it already
    offline = _load("sitecustomize", OFFLINE)
REFUSED = Path(tempfile.gettempdir()) / f"easyanimate-tests-{os.getpid()}-refused.txt"
os.environ[offline.REFUSED] = str(REFUSED)
PLACES = [str(Path(offline.__file__).parent), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, PLACES))  # every server and subprocess begins with it

dev = _load("dev", ROOT / "dev.py")
dev.BASE = ROOT / "output" / "tests" / os.environ.get("PYTEST_XDIST_WORKER", "alone")  # each process has its own
dev.OUTPUT = dev.BASE / "output"

from comfy.cli_args import args as host_args  # noqa: E402

host_args.base_directory = str(dev.BASE)
host_args.cpu = True
host_args.use_pytorch_cross_attention = True
torch.set_num_threads(1)  # tiny networks: threads only wait for each other

pack = _load(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])


def part(name: str):
    """A module of the pack: `part("easyanimate_models.dit.layers")`."""
    return importlib.import_module(f"{PACK}.{name}")


@dataclass(frozen=True)
class Golden:
    """One recorded model of the original: constructor config, weights, and cases."""

    config: dict
    weights: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]

    def inputs(self, case: str) -> dict[str, torch.Tensor]:
        return self._under(f"inputs.{case}.")

    def outputs(self, case: str) -> dict[str, torch.Tensor]:
        return self._under(f"outputs.{case}.")

    def _under(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def golden(name: str) -> Golden:
    """`tests/golden/NAME.safetensors` with its JSON; float16 storage is lossless and widened."""
    stored = load_file(GOLDEN / f"{name}.safetensors")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return Golden(json.loads((GOLDEN / f"{name}.json").read_text()), weights, tensors)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """||ours - theirs|| / ||theirs||."""
    assert ours.shape == theirs.shape
    return float((ours.float() - theirs).norm() / theirs.norm())


def pytest_configure(config):
    """An empty folder for the models, input and output of this process; not for those it starts, which see it too."""
    shutil.rmtree(dev.BASE, ignore_errors=True)
    for name in ("input", "user", *(f"models/{folder.name}" for folder in (HOST / "models").iterdir())):
        (dev.BASE / name).mkdir(parents=True)
    shutil.copy(HOST / "input" / "example.png", dev.BASE / "input")  # what a new Load Image shows
    dev.link_pack()


def pytest_addoption(parser):
    parser.addoption("--write-docs", action="store_true", help="write this host's column of docs/interop.md")
    parser.addoption("--browser", action="store_true", help="also the tests in a real browser")


def pytest_collection_modifyitems(items):
    """The slowest files first, so that several processes end together."""
    last = len(SLOWEST)
    order = {f"test_{name}": i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, last))


def pytest_ignore_collect(collection_path, config):
    if collection_path.name in IN_BROWSER and not config.getoption("--browser"):
        config.stash[LEFT_OUT] = True
        return True
    return None


def pytest_terminal_summary(terminalreporter, config):
    if config.stash.get(LEFT_OUT, False):
        terminalreporter.write_line(f"Left out: {', '.join(IN_BROWSER)}; `python3 dev.py test --browser` runs it too.")


@pytest.fixture
def agree(record_property):
    """Notes the relative error of `ours`, and fails when it is too large."""

    def compare(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        error = relative_error(ours, theirs)
        record_property(what, error)
        sys.stdout.write(f"{what}: {error:.1e}\n")
        assert error <= TOLERANCE

    return compare


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def refused():
    """Where it is written what reached for the network; a test in which anything did fails, if it did not look."""
    yield REFUSED
    told = REFUSED.read_text(encoding="utf-8") if REFUSED.exists() else ""
    REFUSED.unlink(missing_ok=True)
    assert not told, told


@pytest.fixture(scope="session")
def server():
    """The port of a real ComfyUI with this pack, and beside it those of `neighbours`."""
    with dev.server("--extra-model-paths-config", str(NEIGHBOURS / "extra_model_paths.yaml")) as port:
        yield port
