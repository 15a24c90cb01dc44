"""Hooks and fixtures of all tests."""

import shutil

import pytest
import torch

from support import pack
from tools import comfyui

SLOWEST = ("training", "training_loop", "workflows", "train_node", "train_vae", "data_set", "benchmarks", "tiny")
IN_BROWSER, LEFT_OUT = ["test_browser.py"], pytest.StashKey[bool]()


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


@pytest.fixture(scope="module")
def release_files():
    """Tiny V1 and V2 files among the models, as `support.releases` names them."""
    from support.releases import release_files

    with release_files():
        yield
