"""Tensors of files, read once and kept in memory as far as there is room."""

from collections import OrderedDict
from pathlib import Path

import comfy.model_management as mm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

MOST = 2 << 30  # bytes
SHARE = 4  # of the memory that is free, no more than one in so many bytes


class Kept:
    """The tensors of a file; what was not asked for the longest is forgotten when all takes more than `most` bytes.

    They are shared by all who ask: change copies of them only. Raises `OSError` for a file that can't be read.
    """

    def __init__(self, most: int | None = None):
        self.most = min(MOST, mm.get_free_memory(torch.device("cpu")) // SHARE) if most is None else most
        self.files: OrderedDict[Path, dict[str, Tensor]] = OrderedDict()
        self.bytes = 0

    def __call__(self, file: Path) -> dict[str, Tensor]:
        if file in self.files:
            self.files.move_to_end(file)
            return self.files[file]
        tensors = _read(file)
        self.files[file] = tensors
        self.bytes += _size(tensors)
        while self.bytes > self.most:
            self.bytes -= _size(self.files.popitem(last=False)[1])
        return tensors


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return {name: tensor.clone() for name, tensor in load_file(file).items()}  # the file is mapped, not read
    except (OSError, SafetensorError) as error:
        raise OSError(f"{file} can't be read ({error}); remove it and encode the data set again.") from error
