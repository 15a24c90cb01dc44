"""What `dev.py` says when it cannot do what it is asked."""

import subprocess
import sys

import pytest
from conftest import ROOT


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
