"""Tables of tensor names: what others call a module, and what we call it."""

import re
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class NameTable:
    """Module names in pairs, (theirs, ours); `{}` stands for the same number on both sides.

    `fused` modules are stacked along the first dimension: one of theirs holds several of ours. `dropped` starts the
    names of tensors that we don't need.
    """

    pairs: tuple[tuple[str, str], ...]
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    dropped: tuple[str, ...] = ()

    def ours(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under our names. Names that the table lacks stay as they are."""
        renamed: dict[str, Tensor] = {}
        rows = [*((theirs, (ours,)) for theirs, ours in self.pairs), *self.fused]
        table = [(re.compile(_pattern(theirs)), names) for theirs, names in rows]
        for key, tensor in tensors.items():
            if not key.startswith(self.dropped):
                names = _renamed(key, table)
                renamed.update(zip(names, _split(tensor, len(names)), strict=True))
        return renamed


def _pattern(theirs: str) -> str:
    return "^" + re.escape(theirs).replace(r"\{\}", r"(\d+)") + r"(?=\.|$)"


def _renamed(key: str, table: list[tuple[re.Pattern, tuple[str, ...]]]) -> list[str]:
    for pattern, names in table:
        found = pattern.match(key)
        if found:
            return [name.format(*found.groups()) + key[found.end() :] for name in names]
    return [key]


def _split(tensor: Tensor, parts: int) -> list[Tensor]:
    """Rows in equal parts; what is not stacked, such as one scale for all, goes to every part."""
    if parts == 1 or tensor.ndim == 0 or tensor.shape[0] % parts:
        return [tensor] * parts
    return list(tensor.chunk(parts))
