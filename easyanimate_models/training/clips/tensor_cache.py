"""Tensors of files, read once and kept in memory while there is room."""

from collections import OrderedDict
from pathlib import Path

import comfy.model_management as mm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MAX_BYTES = 2 << 30
FREE_SHARE = 4  # at most one in so many bytes of the memory that is free


class TensorCache:
    """Called with a file: its tensors. The least recently used are dropped when all take more than `max_bytes`.

    Callers share the tensors: change copies only. Raises `OSError` for a file that can't be read.
    """

    def __init__(self, max_bytes: int | None = None):
        if max_bytes is None:
            max_bytes = min(MAX_BYTES, mm.get_free_memory(torch.device("cpu")) // FREE_SHARE)
        self.max_bytes = max_bytes
        self.files: OrderedDict[Path, dict[str, Tensor]] = OrderedDict()
        self.bytes = 0

    def __call__(self, file: Path) -> dict[str, Tensor]:
        if file in self.files:
            self.files.move_to_end(file)
            return self.files[file]
        tensors = _read(file)
        self.files[file] = tensors
        self.bytes += _bytes_of(tensors)
        while self.bytes > self.max_bytes:
            self.bytes -= _bytes_of(self.files.popitem(last=False)[1])
        return tensors


def _bytes_of(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return {name: tensor.clone() for name, tensor in load_file(file).items()}  # the file is mapped, not read
    except (OSError, SafetensorError) as error:
        raise OSError(f"{file} can't be read ({error}); delete it and encode the dataset again.") from error
