"""What `dev.py` says when it cannot do what it is asked, and where tests may write."""

import re
import subprocess
import sys
from pathlib import Path

import folder_paths
import pytest
from conftest import HOST, ROOT, dev


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "python3 dev.py demo"),
        (["test", "--host"], "--host needs a folder: the one that holds ComfyUI's main.py."),
        (
            ["test", "--host", str(ROOT / "tests")],
            "there is no ComfyUI in it; point it to the folder that holds main.py.",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(arguments, sentence):
    done = subprocess.run([sys.executable, ROOT / "dev.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 1 and sentence in done.stderr


def test_without_a_browser_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(dev, "pip", lambda *arguments: None)
    monkeypatch.setattr(dev, "BROWSERS", ())
    monkeypatch.setattr(dev, "BROWSER_PLACES", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt install chromium"):
        dev.bring_browser()


def test_a_test_process_has_folders_of_its_own():
    """Two of them, each with a server, would overwrite each other's files; and a user's ComfyUI stays as it is."""
    assert dev.BASE not in (HOST, ROOT) and dev.BASE.parent == ROOT / "output" / "tests"
    places = folder_paths.models_dir, folder_paths.get_input_directory(), folder_paths.get_output_directory()
    assert [Path(place).parent for place in places] == [dev.BASE] * 3
    assert Path(folder_paths.get_output_directory()) == dev.OUTPUT


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*.py")), ids=lambda path: path.name)
def test_tests_write_nowhere_else(path):
    shared = re.compile(r"\b(HOST / \"(models|input|output|user|temp|custom_nodes)\"|ROOT / \"output\")")
    if path.name not in ("conftest.py", "test_dev.py"):  # which make them
        assert not shared.search(path.read_text(encoding="utf-8")), "take dev.BASE, or dev.OUTPUT"
