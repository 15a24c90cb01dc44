"""What goes along with a run: previews, validation, files of the weights so far, and sentences for its user."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from .export import Exporter
from .learner import Objective


class Sampler(Protocol):
    """Makes previews of a network in training and leaves no trace in it; see `samples`."""

    def is_due(self, steps: int) -> bool:
        """Whether a preview is due after so many steps and not there yet."""

    def preview(self, steps: int) -> Image.Image:
        """A picture of what the network makes after so many steps."""


@dataclass(frozen=True)
class Validation:
    """The loss before every so many steps on `batches` that are not learnt from, which each objective is given.

    `metrics` are the names of those of the objectives that are logged beside it.
    """

    objectives: tuple[Objective, ...]
    batches: int
    every: int
    metrics: tuple[str, ...] = ()


def no_one(sentence: str) -> None:
    """For runs that nobody follows; the log has every sentence anyway."""


@dataclass(frozen=True)
class Hooks:
    """All of it is optional. `exporter` saves the result, and what has been learnt so far; `say` gets sentences."""

    sampler: Sampler | None = None
    exporter: Exporter | None = None
    say: Callable[[str], None] = no_one
    validation: Validation | None = None


NO_HOOKS = Hooks()
