"""Memory of models that are gone, given back to the system.

glibc takes tensors of up to 32 MB from its heap once it has seen large ones go, and what is freed there stays with the
process while anything above it is in use: gigabytes after a few models. Other C libraries have no such reserve.
"""

import contextlib
import ctypes
import threading
import weakref

import comfy.model_management as mm
from torch import nn

LARGE = 100_000_000  # bytes of a network whose memory is worth giving back
DELAY = 1.0  # seconds; a network is announced to be gone just before its weights are


def return_when_gone(network: nn.Module) -> None:
    """Give the memory of `network`, and of all that was changed in it, back to the system when nothing holds it."""
    if mm.module_size(network) >= LARGE:
        weakref.finalize(network, _return_soon).atexit = False


def _return_soon() -> None:
    timer = threading.Timer(DELAY, return_unused)
    timer.daemon = True
    timer.start()


def return_unused() -> None:
    """Give what is free on glibc's heap back to the system; no more than that happens."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        ctypes.CDLL(None).malloc_trim(0)
