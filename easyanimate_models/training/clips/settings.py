"""The size in which clips are trained, and how many at once: the section [data] of a recipe."""

from dataclasses import dataclass

from ...files.messages import shorten

LENGTHS = ("full", "random")


@dataclass(frozen=True)
class DataSettings:
    """The size clips are trained in: about `side` x `side` pixels, at most `frames` frames, one in `every` of them.

    Each clip gives so many `windows`: one is its beginning, more lie anywhere. Their `lengths` are "full", or "random":
    one in ten is shorter than it could be, as with the original's random frame crop. `text_dropout` and `clip_dropout`
    are the shares of examples trained without their caption, and without the CLIP embedding of their first frame.
    """

    side: int
    frames: int
    every: int = 1
    batch: int = 1
    text_dropout: float = 0.1
    clip_dropout: float = 0.5
    windows: int = 1
    lengths: str = "full"

    def __post_init__(self):
        if self.windows < 1:
            raise ValueError(f"windows is {self.windows}; set it to 1 or more.")
        if self.lengths not in LENGTHS:
            raise ValueError(f"lengths is {shorten(self.lengths)}; it must be one of {', '.join(LENGTHS)}.")
