"""Hooks and fixtures of all tests."""

import shutil

import pytest
import torch

from support import pack
from tools import comfyui

SLOWEST = ("training", "training_loop", "workflows", "train_node", "train_vae", "data_set", "benchmarks", "tiny")
ON_DEMAND = {"test_browser.py": "--browser", "test_true_size.py": "--true-size"}  # file -> option that runs it too
LEFT_OUT, TRUE_SIZE_ROWS = pytest.StashKey[set](), pytest.StashKey[list]()
TRUE_SIZE_COLUMNS = ("file", "GB", "load, s", "step, s", "peak, GB", "after /free, GB")


def pytest_configure(config):
    """An empty folder for the models, input and output of this process; not for those it starts, which see it too."""
    shutil.rmtree(comfyui.BASE, ignore_errors=True)
    for name in ("input", "user", *(f"models/{folder.name}" for folder in (pack.HOST / "models").iterdir())):
        (comfyui.BASE / name).mkdir(parents=True)
    shutil.copy(pack.HOST / "input" / "example.png", comfyui.BASE / "input")  # what a new Load Image shows
    comfyui.link_pack()


def pytest_addoption(parser):
    parser.addoption("--write-docs", action="store_true", help="write this host's column of docs/interop.md")
    parser.addoption("--browser", action="store_true", help="also the tests in a real browser")
    parser.addoption("--true-size", action="store_true", help="also published files at their true size")


def pytest_collection_modifyitems(items):
    """The slowest files first, so that several processes end together."""
    last = len(SLOWEST)
    order = {f"test_{name}": i for i, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, last))


def pytest_ignore_collect(collection_path, config):
    option = ON_DEMAND.get(collection_path.name)
    if option and not config.getoption(option):
        config.stash.setdefault(LEFT_OUT, set()).add(option)
        return True
    return None


def pytest_terminal_summary(terminalreporter, config):
    for option in sorted(config.stash.get(LEFT_OUT, ())):
        files = ", ".join(file for file, runs_with in ON_DEMAND.items() if runs_with == option)
        terminalreporter.write_line(f"Left out: {files}; `python3 dev.py test {option}` runs it.")
    rows = config.stash.get(TRUE_SIZE_ROWS, [])
    for cells in [TRUE_SIZE_COLUMNS, ["---"] * len(TRUE_SIZE_COLUMNS), *rows] if rows else ():
        terminalreporter.write_line(f"| {' | '.join(cells)} |")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def refused():
    """The file of refused connections. A test that leaves one there fails; those that expect it delete the file."""
    yield pack.REFUSALS
    refusals = pack.REFUSALS.read_text(encoding="utf-8") if pack.REFUSALS.exists() else ""
    pack.REFUSALS.unlink(missing_ok=True)
    assert not refusals, refusals


@pytest.fixture(scope="session")
def server():
    """The port of a real ComfyUI with this pack, and beside it those of `neighbours`."""
    with comfyui.server("--extra-model-paths-config", str(pack.NEIGHBOURS / "extra_model_paths.yaml")) as port:
        yield port


@pytest.fixture(scope="session")
def true_size_table(pytestconfig):
    """Rows of the table that is printed at the end, each as it is measured."""
    return pytestconfig.stash.setdefault(TRUE_SIZE_ROWS, [])


@pytest.fixture(scope="module")
def release_files():
    """Tiny V1 and V2 files among the models, as `support.releases` names them."""
    from support.releases import release_files

    with release_files():
        yield


@pytest.fixture(scope="module")
def stand_in_releases():
    """Tiny V4 and V5.1 files among the models, for the nodes of `support.stand_in_releases.loaders_for`."""
    from support.stand_in_releases import releases

    with releases():
        yield
