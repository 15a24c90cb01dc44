"""What detectors have in common: a registry of probe tensors, and careful looks at shapes, names and config.json."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..files.checkpoint import MOST, Checkpoint, CheckpointError, describe
from ..files.messages import shorten
from ..files.release_folder import PREVIEW

HEADS = "num_attention_heads"

Detected = TypeVar("Detected")


@dataclass(frozen=True)
class Detector(Generic[Detected]):
    """One architecture: the tensors that only its files have (name and number of dimensions), and what reads them.

    `rename` brings other namings of the same weights to ours; a file of another architecture comes back as it is.
    `parts` are in names of weights that no other architecture has, by which one of its files alone is known.
    """

    probes: tuple[tuple[str, int], ...]
    detect: Callable[[Checkpoint], Detected]
    rename: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint
    parts: tuple[str, ...] = ()

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """Whether a file under our names is of this architecture."""
        tensors = checkpoint.tensors
        return all(name in tensors and tensors[name].ndim == dimensions for name, dimensions in self.probes)

    def is_part(self, checkpoint: Checkpoint) -> bool:
        """Whether a file under our names is one of those that weights of this architecture were split into."""
        names = checkpoint.tensors
        if self.recognises(checkpoint) or any(".lora_" in name for name in names):
            return False
        return any(part in name for name in names for part in self.parts)


def require_whole(detectors: Sequence[Detector[Detected]], checkpoint: Checkpoint) -> None:
    """Raise `CheckpointError` for one of the files that weights were split into."""
    if any(detector.is_part(checkpoint) for detector in detectors):
        raise CheckpointError(
            f"{checkpoint.path.name} is only part of {describe(checkpoint.tensors)}; choose its folder or index file, "
            "or download it again."
        )


def detect(detectors: Sequence[Detector[Detected]], checkpoint: Checkpoint, what: str) -> Detected:
    """What the first detector that recognises the file says; `CheckpointError` when none does: it is `what`."""
    for detector in detectors:
        if detector.recognises(checkpoint):
            return detector.detect(checkpoint)
    raise CheckpointError(f"{checkpoint.path.name} is {describe(checkpoint.tensors)}, {what}.")


def count(checkpoint: Checkpoint, prefix: str, tensors: int = 2) -> int:
    """How many numbered parts start with `prefix`, each with at least so many tensors: no network is built of names."""
    found = [key[len(prefix) :].split(".")[0] for key in checkpoint.tensors if key.startswith(prefix)]
    parts = len(set(found))
    if parts * tensors > len(found):
        raise CheckpointError(
            f"{checkpoint.path.name} has {parts} parts named {prefix[:-1]} but only {len(found)} tensors in them; "
            "download it again."
        )
    return parts


def require_claim(checkpoint: Checkpoint, name: str, value) -> None:
    """What config.json says, if it says anything, must be what the tensors show."""
    claimed = checkpoint.config.get(name)
    if claimed is not None and claimed != value:
        raise CheckpointError(
            f"The config.json beside {checkpoint.path.name} says {name} {shorten(claimed)}, but the weights have "
            f"{value}; they belong to different models."
        )


def preview_in(checkpoint: Checkpoint, channels: int) -> tuple[list[list[float]], list[float]]:
    """Red, green and blue of each of so many latent channels, and what is added to them, as config.json says."""
    factors, bias = (checkpoint.config.get(name) for name in PREVIEW)
    rows = [bias, *factors] if isinstance(factors, list) else []
    triples = [row for row in rows if isinstance(row, list) and len(row) == 3]
    numbers = all(type(colour) in (int, float) and abs(colour) < MOST for row in triples for colour in row)
    if not numbers or not len(triples) == len(rows) == channels + 1:
        raise CheckpointError(
            f"The {PREVIEW[0]} and {PREVIEW[1]} of {checkpoint.path.name} are not valid preview colours; "
            "remove both from its config.json."
        )
    return triples[1:], triples[0]


def require_division(checkpoint: Checkpoint, width: int, heads: int) -> None:
    """Heads must divide the width."""
    if width % heads:
        raise CheckpointError(
            f"{checkpoint.path.name} has width {width}, which is not divisible by {heads} heads; put the right "
            "config.json beside it."
        )
