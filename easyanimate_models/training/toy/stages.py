"""The stages that the built-in models are trained in, by name."""

from collections.abc import Callable
from pathlib import Path

from . import tiny, tiny_v51
from .tiny_variants import VARIANTS

Stage = Callable[[Path], None]
V51 = "v51"  # before the stages of the model of V5.1's kind


def chosen_stages(names: list[str]) -> list[Stage]:
    """Those named, or all of a model, in order. Raises `ValueError` for one that there is not."""
    of_v51 = names[:1] == [V51]
    all_stages = tiny_v51.STAGES if of_v51 else {**tiny.STAGES, **VARIANTS}
    known = {**all_stages, "restore": tiny_v51.restore if of_v51 else tiny.restore}
    chosen = names[of_v51:] or list(all_stages)
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"There is no stage named {unknown[0]}; choose among {', '.join(known)}.")
    return [known[name] for name in chosen]
