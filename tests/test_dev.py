"""What `dev.py` says when it cannot do what it is asked."""

import subprocess
import sys

import pytest
from conftest import ROOT, dev


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
