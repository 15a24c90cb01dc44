"""Sizes that clips are trained in: nearly the same number of pixels in every shape, whole slices in time.

An image and a clip, or two shapes, never share a batch (the original's buckets).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from ...data.dataset_file import DatasetError
from ...vae.video_sizes import SIDE_STEP, SLICE_LENGTHS, ClipLengths
from .dataset import Item

MAX_ASPECT = 4.0  # the longer side by the shorter
MAX_ZOOM = 2.0  # a smaller clip would only teach blur


@dataclass(frozen=True, order=True)
class Bucket:
    """One size of a batch, in frames and pixels."""

    frames: int
    height: int
    width: int


def shapes(side: int) -> list[tuple[int, int]]:
    """All (height, width) in steps of 16 with about `side` x `side` pixels, from 1:4 to 4:1."""
    found = set()
    for height in range(SIDE_STEP, int(side * MAX_ASPECT**0.5) + SIDE_STEP, SIDE_STEP):
        width = max(SIDE_STEP, round(side * side / height / SIDE_STEP) * SIDE_STEP)
        if max(height / width, width / height) <= MAX_ASPECT:
            found |= {(height, width), (width, height)}
    return sorted(found)


def bucket_for(
    item: Item, side: int, max_frames: int, every: int = 1, lengths: ClipLengths = SLICE_LENGTHS
) -> Bucket | None:
    """The nearest bucket for an item of which one in `every` frames is taken; None when it fits none.

    Its own size, where it has one, goes before `side` and `max_frames`.
    """
    side, max_frames = item.side or side, item.most_frames or max_frames
    if max(item.height / item.width, item.width / item.height) > MAX_ASPECT:
        return None
    aspect = item.height / item.width
    height, width = min(shapes(side), key=lambda size: abs(size[0] / size[1] / aspect - 1))
    if max(height / item.height, width / item.width) > MAX_ZOOM:
        return None
    if 1 in (item.frames, max_frames):
        return Bucket(1, height, width)
    frames = lengths.longest(min(-(-item.frames // every), max_frames))
    return Bucket(frames, height, width) if frames else None


def sort_into_buckets(
    items: Iterable[Item], side: int, max_frames: int, every: int = 1, lengths: ClipLengths = SLICE_LENGTHS
) -> dict[Bucket, list[Item]]:
    """Items by their buckets; those that fit none are named in the log. Raises `DatasetError` when none fits."""
    if max_frames > 1 and not lengths.longest(max_frames):
        raise DatasetError(
            f"frames is {max_frames}; set it to {lengths.least} or more for clips of this release, or to 1 for images."
        )
    buckets: dict[Bucket, list[Item]] = {}
    unfit: list[Item] = []
    for item in items:
        bucket = bucket_for(item, side, max_frames, every, lengths)
        if bucket is None:
            unfit.append(item)
        else:
            buckets.setdefault(bucket, []).append(item)
    for item in unfit:
        size = f"{item.width} x {item.height}, {item.frames} frames"
        logging.warning("%s (%s) fits none of the training sizes and is skipped.", item.file, size)
    if not buckets:
        raise DatasetError(
            f"None of the {len(unfit)} clips fit: a clip needs at least {lengths.least * every} frames, at least half "
            f"the width and height needed for the area of {side} x {side}, and an aspect ratio between 1:4 and 4:1; "
            "lower the resolution or choose other clips."
        )
    return dict(sorted(buckets.items()))
