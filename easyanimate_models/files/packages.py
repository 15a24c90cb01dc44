"""Optional packages, for training and data preparation: imported, or one sentence that says how to install them."""

import importlib
from types import ModuleType

DISTRIBUTIONS = {  # where the package to install has another name than the module
    "cv2": "opencv-python-headless",
    "lion_pytorch": "lion-pytorch",
}


class MissingPackageError(ImportError):
    """A package that inference does without is not installed; the message has the command that installs it."""


def require_package(name: str) -> ModuleType:
    """The module of that name. Raises `MissingPackageError`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = DISTRIBUTIONS.get(name, name)
        raise MissingPackageError(
            f"This needs the package {package}, which is not installed; install it with `python -m pip install "
            f"{package}` in ComfyUI's Python and restart ComfyUI."
        ) from error
