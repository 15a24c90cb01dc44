"""Weights in PyTorch's pickle files, read without executing anything in them."""

import pickle
import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ..host import out_of_memory

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
SAFE_SINCE = (2, 6)  # before, a file could run code even when read as weights only (CVE-2025-32434)
WRAPPERS = ("state_dict", "model", "module", "ema", "state_dict_ema")  # what trainers put around the weights


class UnsafePickleError(Exception):
    """The file holds something other than tensors and plain containers of them."""


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Name -> tensor. `ValueError` says what is wrong with the file, as the rest of a sentence about it."""
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < SAFE_SINCE:
        raise ValueError(
            f"can't be read safely by PyTorch {torch.__version__}; get it as safetensors, or update PyTorch to "
            f"{'.'.join(map(str, SAFE_SINCE))}"
        )
    mapped = zipfile.is_zipfile(path)  # the format before 2020 can't be mapped
    try:
        if mapped and _is_packed(path):
            raise ValueError("is compressed, which PyTorch files never are; download it again")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UnsafePickleError from error
    except MemoryError as error:  # tensors are mapped: it is the rest of the file that asks for so much
        raise ValueError(
            "needs more memory than is available; get it as safetensors, or close other programs"
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        if out_of_memory(error):
            raise
        raise ValueError("is not a readable PyTorch file; download it again") from error
    return _weights(content)


def _is_packed(path: Path) -> bool:
    """Whether anything in a file takes less room than it has when it is read; little can become much."""
    with zipfile.ZipFile(path) as parts:
        return any(part.compress_type != zipfile.ZIP_STORED for part in parts.infolist())


def _weights(content) -> dict[str, Tensor]:
    """The tensors of the innermost wrapper."""
    while isinstance(content, dict):
        wrapped = [content[name] for name in WRAPPERS if isinstance(content.get(name), dict)]
        if not wrapped:
            break
        content = wrapped[0]
    tensors = {}
    if isinstance(content, dict):
        tensors = {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError("contains no named weights; choose another file")
    return tensors
