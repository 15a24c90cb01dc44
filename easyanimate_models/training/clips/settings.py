"""The size in which clips are trained, and how many at once: the section [data] of a recipe."""

from dataclasses import dataclass

from ...files.messages import shorten
from ...media.frame_rate import require_frame_rate
from ...vae.video_sizes import SIDE_STEP
from .captions import TagOrder

LENGTHS = ("full", "random")
SHORTEST = 5  # frames of a clip
CAPTIONS_LEAST = (("caption_shuffles", 0), ("keep_tags", 0))


@dataclass(frozen=True)
class DataSettings:
    """The size clips are trained in: about `side` x `side` pixels, at most `frames` frames, one in `every` of them.

    Clips are resampled to `fps` frames per second, 0 for each clip's own rate.

    Each clip gives so many `windows`: one is its beginning, more lie anywhere. Their `lengths` are "full", or "random":
    one in ten is shorter than it could be, as with the original's random frame crop. `text_dropout` and `clip_dropout`
    are the shares of examples trained without their caption, and without the CLIP embedding of their first frame.

    `trigger_word` goes before every caption. Tags of captions (between commas) are learnt in so many random orders,
    `caption_shuffles`, of which the first `keep_tags` stay where they are.
    """

    side: int
    frames: int
    every: int = 1
    batch: int = 1
    text_dropout: float = 0.1
    clip_dropout: float = 0.5
    windows: int = 1
    lengths: str = "full"
    fps: float = 0.0
    trigger_word: str = ""
    caption_shuffles: int = 0
    keep_tags: int = 1

    def __post_init__(self):
        for name, least in (("side", SIDE_STEP), ("every", 1), ("batch", 1), ("windows", 1), *CAPTIONS_LEAST):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; set it to {least} or more.")
        if self.frames != 1 and self.frames < SHORTEST:
            raise ValueError(
                f"frames is {self.frames}; set it to {SHORTEST} or more for clips (8n are used, 4n + 1 for V5 and "
                "V5.1), or to 1 for images."
            )
        require_frame_rate(self.fps)
        for name in ("text_dropout", "clip_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; set it to a share from 0 to 1.")
        if self.lengths not in LENGTHS:
            raise ValueError(f"lengths is {shorten(self.lengths)}; it must be one of {', '.join(LENGTHS)}.")

    @property
    def tag_order(self) -> TagOrder:
        """In which orders tags of captions are learnt."""
        return TagOrder(self.caption_shuffles, self.keep_tags)
