"""Packages that only training needs: there, or one sentence that says how to get them."""

import importlib
from types import ModuleType


class ExtraMissing(ImportError):
    """A package that training needs is not installed."""


def needed(name: str) -> ModuleType:
    """The module of that package; raises `ExtraMissing` with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExtraMissing(
            f"Training needs the package {name}, which is not installed; install it with `python -m pip install "
            f"{name}` in ComfyUI's Python and start ComfyUI again."
        ) from error
