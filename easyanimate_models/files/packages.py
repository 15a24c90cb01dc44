"""Packages that training and data preparation need: there, or one sentence that says how to get them."""

import importlib
from types import ModuleType

CALLED = {"cv2": "opencv-python-headless"}  # where the package to install has another name


class ExtraMissing(ImportError):
    """A package that inference does without is not installed."""


def needed(name: str) -> ModuleType:
    """The module of that name; raises `ExtraMissing` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = CALLED.get(name, name)
        raise ExtraMissing(
            f"This needs the package {package}, which is not installed; install it with `python -m pip install "
            f"{package}` in ComfyUI's Python and start ComfyUI again."
        ) from error
