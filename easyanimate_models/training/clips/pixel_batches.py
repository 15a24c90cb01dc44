"""Batches of clips as pixels, read from their files while the network trains on the batch before."""

import random
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ..devices import local_shard
from .batches import BatchSchedule
from .buckets import Bucket
from .dataset import Item, fit_into, read_frames
from .settings import DataSettings


class PixelBatches:
    """Called with the number of a batch: this process's shard of it, `[B, 3, T, H, W]` in [-1, 1].

    Clips begin anywhere. `stills` is the share of batches with a single frame of each clip, `crop` the side of the
    random square that is cut out of each, 0 for all of it.
    """

    def __init__(self, buckets: dict[Bucket, list[Item]], data: DataSettings, seed: int, stills: float, crop: int):
        self.items, self.every, self.seed, self.stills, self.crop = buckets, data.every, seed, stills, crop
        self.schedule = BatchSchedule({bucket: len(items) for bucket, items in buckets.items()}, data.batch, seed)
        self.shard = local_shard(data.batch)
        self.reader = ThreadPoolExecutor(1, "clips")
        self.prefetched: dict[int, Future] = {}

    def __call__(self, step: int) -> Tensor:
        batch = self.prefetched.pop(step, None) or self.reader.submit(self._read, step)
        self.prefetched = {step + 1: self.reader.submit(self._read, step + 1)}
        return batch.result()

    def _read(self, step: int) -> Tensor:
        bucket, indices = self.schedule(step)
        still = random.Random(f"{self.seed} {step}").random() < self.stills
        size = Bucket(1, bucket.height, bucket.width) if still else bucket
        clips = []
        for row in range(self.shard.start, self.shard.stop):
            rng = random.Random(f"{self.seed} {step} {row}")
            clips.append(self._read_clip(self.items[bucket][indices[row]], size, rng))
        return torch.stack(clips) * 2 - 1

    def _read_clip(self, item: Item, size: Bucket, rng: random.Random) -> Tensor:
        last_start = item.frames - (size.frames - 1) * self.every - 1
        frames = read_frames(item, rng.randint(0, max(0, last_start)), size.frames, self.every)
        clip = fit_into(frames, size.height, size.width).movedim(-1, 0)
        if not self.crop:
            return clip
        top, left = (rng.randint(0, max(0, side - self.crop)) for side in (size.height, size.width))
        return clip[:, :, top : top + self.crop, left : left + self.crop]
