"""Windows of clips: which frames of each are learnt from. Drawn once, from the seed and the name of the clip alone."""

import random
from collections import Counter
from dataclasses import replace

from ...vae.video_sizes import LENGTH_STEP
from .buckets import Bucket
from .dataset import Item
from .settings import DataSettings

WHOLE = 0.9  # share of windows that are as long as they can be, as the original draws them


def cut_into_windows(buckets: dict[Bucket, list[Item]], data: DataSettings, seed: int) -> dict[Bucket, list[Item]]:
    """The clips of `buckets` by the windows that `data` asks for, each an item that starts at its first frame.

    One window is the beginning of a clip. No two are the same: a short clip gives fewer.
    """
    cut: dict[Bucket, list[Item]] = {}
    for bucket, items in buckets.items():
        for item in items:
            for frames, start in _windows(item, bucket.frames, data, seed):
                cut.setdefault(replace(bucket, frames=frames), []).append(replace(item, start=start))
    return dict(sorted(cut.items()))


def _windows(item: Item, most: int, data: DataSettings, seed: int) -> list[tuple[int, int]]:
    """(frames, start) of each."""
    chance = random.Random(f"{seed} {item.file.name}")
    lengths = Counter(_length(most, data.lengths, chance) for _ in range(data.windows))
    if data.windows == 1:
        return [(frames, 0) for frames in lengths]
    found = []
    for frames, wanted in sorted(lengths.items()):
        places = item.frames - (frames - 1) * data.every
        found += [(frames, start) for start in sorted(chance.sample(range(places), min(wanted, places)))]
    return found


def _length(most: int, lengths: str, chance: random.Random) -> int:
    if lengths == "full" or most <= LENGTH_STEP or chance.random() < WHOLE:
        return most
    return chance.randrange(LENGTH_STEP, most, LENGTH_STEP)
