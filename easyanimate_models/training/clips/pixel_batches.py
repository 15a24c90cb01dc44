"""Batches of clips as pixels, read from their files while the network learns from the batch before."""

import random
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from ..devices import local_shard
from .batches import Batches
from .buckets import Bucket
from .dataset import Item, read_frames
from .latent_cache import fit_into
from .settings import DataSettings


class PixelBatches:
    """Called with the number of a batch: this process's share of it, `[B, 3, T, H, W]` in [-1, 1].

    Clips begin anywhere. `stills` is the share of batches that show a single frame of each clip, `crop` the side of
    the square that is shown of each, 0 for all of it.
    """

    def __init__(self, buckets: dict[Bucket, list[Item]], data: DataSettings, seed: int, stills: float, crop: int):
        self.items, self.every, self.seed, self.stills, self.crop = buckets, data.every, seed, stills, crop
        self.plan = Batches({bucket: len(items) for bucket, items in buckets.items()}, data.batch, seed)
        self.mine = local_shard(data.batch)
        self.reader = ThreadPoolExecutor(1, "clips")
        self.ahead: dict[int, Future] = {}

    def __call__(self, step: int) -> Tensor:
        wanted = self.ahead.pop(step, None) or self.reader.submit(self._read, step)
        self.ahead = {step + 1: self.reader.submit(self._read, step + 1)}
        return wanted.result()

    def _read(self, step: int) -> Tensor:
        found, places = self.plan(step)
        still = random.Random(f"{self.seed} {step}").random() < self.stills
        bucket = Bucket(1, found.height, found.width) if still else found
        clips = []
        for place in range(self.mine.start, self.mine.stop):
            chance = random.Random(f"{self.seed} {step} {place}")
            clips.append(self._clip(self.items[found][places[place]], bucket, chance))
        return torch.stack(clips) * 2 - 1

    def _clip(self, item: Item, bucket: Bucket, chance: random.Random) -> Tensor:
        last = item.frames - (bucket.frames - 1) * self.every - 1
        frames = read_frames(item, chance.randint(0, max(0, last)), bucket.frames, self.every)
        clip = fit_into(frames, bucket.height, bucket.width).movedim(-1, 0)
        if not self.crop:
            return clip
        top, left = (chance.randint(0, max(0, side - self.crop)) for side in (bucket.height, bucket.width))
        return clip[:, :, top : top + self.crop, left : left + self.crop]
