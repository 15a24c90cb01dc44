"""What runs and cached files are recognized by: the contents of clips and models, not their names and times."""

import hashlib
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..files.checkpoint import fingerprint_weights
from ..media.errors import MediaError

Contents = dict[str, str]  # what a run is made of, such as "clips" or "VAE" -> the digest of its contents

FILES_KNOWN = 65_536  # digests that are kept while their files don't change
CHUNK = 1 << 20  # bytes


def digest(parts: Iterable[str]) -> str:
    """A digest of several texts."""
    joined = hashlib.sha256()
    for part in parts:
        joined.update(f"{len(part)} {part}".encode())
    return joined.hexdigest()[:16]


def file_digest(file: Path) -> str:
    """A digest of the bytes of a file. Raises `MediaError` when it can't be read."""
    try:
        stat = file.stat()
        return _file_digest(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    except FileNotFoundError as error:
        raise MediaError(f"{file} no longer exists; put it back, or start again without it.") from error
    except OSError as error:
        raise MediaError(f"{file} can't be read ({error.strerror}); check its permissions.") from error


def tensor_digest(tensor: Tensor) -> str:
    """A digest of all numbers of a tensor."""
    content = hashlib.sha256(str(tuple(tensor.shape)).encode())
    content.update(tensor.detach().float().cpu().numpy().tobytes())
    return content.hexdigest()[:16]


def fingerprint(network: nn.Module) -> str:
    """A short digest of a network: its class, its config, and a few numbers of every weight."""
    return _short(network, fingerprint_weights(network.state_dict()))


def model_fingerprint(patcher) -> str:
    """A short digest of what a model of the host computes: its own weights, and the LoRAs on it.

    A patcher that is loaded has its LoRAs in the weights, and the weights without them in `backup`.
    """
    backup = {name: getattr(entry, "weight", entry) for name, entry in patcher.backup.items()}
    own = fingerprint_weights({**patcher.model.state_dict(), **backup})
    patches = [f"{name} {_describe(patcher.patches[name])}" for name in sorted(patcher.patches)]
    return _short(getattr(patcher.model, "diffusion_model", patcher.model), own, *patches)


def _short(network: nn.Module, *parts: str) -> str:
    config = getattr(network, "config", None)
    return digest([type(network).__name__, repr(config) if is_dataclass(config) else "", *parts])[:12]


def _describe(patch: Any) -> str:
    """A patch of the host as text: numbers as they are, tensors and adapters by their contents."""
    if isinstance(patch, Tensor):
        return tensor_digest(patch)
    if isinstance(patch, list | tuple):
        return f"[{', '.join(map(_describe, patch))}]"
    if hasattr(patch, "weights"):
        return f"{type(patch).__name__}{_describe(patch.weights)}"
    return repr(patch) if isinstance(patch, str | int | float | None) else type(patch).__name__


@lru_cache(maxsize=FILES_KNOWN)
def _file_digest(file: Path, *_state: int) -> str:
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            content.update(chunk)
    return content.hexdigest()[:16]
