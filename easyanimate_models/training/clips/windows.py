"""Windows of clips: which frames of each are trained on. Drawn once, from the seed and the name of the clip alone."""

import random
from collections import Counter
from dataclasses import replace

from ...vae.video_sizes import SLICE_LENGTHS, ClipLengths
from .buckets import Bucket
from .dataset import Item
from .settings import DataSettings

FULL_LENGTH = 0.9  # share of windows that are as long as they can be, as the original draws them


def cut_into_windows(
    buckets: dict[Bucket, list[Item]], data: DataSettings, seed: int, lengths: ClipLengths = SLICE_LENGTHS
) -> dict[Bucket, list[Item]]:
    """The clips of `buckets` as windows, each an item with its first frame as `start`, in the bucket of its length.

    A single window is the beginning of a clip. No two are the same: a short clip gives fewer.
    """
    windows: dict[Bucket, list[Item]] = {}
    for bucket, items in buckets.items():
        for item in items:
            for frames, start in _draw_windows(item, bucket.frames, data, seed, lengths):
                windows.setdefault(replace(bucket, frames=frames), []).append(replace(item, start=start))
    return dict(sorted(windows.items()))


def _draw_windows(
    item: Item, max_frames: int, data: DataSettings, seed: int, lengths: ClipLengths
) -> list[tuple[int, int]]:
    """(frames, start) of each window."""
    rng = random.Random(f"{seed} {item.file.name}")
    drawn = Counter(_draw_length(max_frames, data.lengths, rng, lengths) for _ in range(data.windows))
    if data.windows == 1:
        return [(frames, 0) for frames in drawn]
    windows = []
    for frames, count in sorted(drawn.items()):
        starts = item.frames - (frames - 1) * data.every
        windows += [(frames, start) for start in sorted(rng.sample(range(starts), min(count, starts)))]
    return windows


def _draw_length(max_frames: int, kind: str, rng: random.Random, lengths: ClipLengths) -> int:
    if kind == "full" or max_frames <= lengths.least or rng.random() < FULL_LENGTH:
        return max_frames
    return rng.choice(lengths.below(max_frames))
