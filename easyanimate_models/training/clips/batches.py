"""Which items each step is trained on: a function of the step alone, so that a run can resume at any step."""

import random
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class BatchSchedule(Generic[Key]):
    """Every item once an epoch, in batches of one bucket each; a last short batch is filled up from its bucket."""

    def __init__(self, counts: Mapping[Key, int], batch_size: int, seed: int):
        """`counts` has the number of items of each bucket."""
        if batch_size < 1:
            raise ValueError(f"batch is {batch_size}; set it to 1 or more.")
        self.counts, self.batch_size, self.seed = dict(counts), batch_size, seed
        self.per_epoch = sum(-(-count // batch_size) for count in self.counts.values())
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def __call__(self, step: int) -> tuple[Key, list[int]]:
        """The bucket of a step, and the indices of its items there."""
        epoch, index = divmod(step, self.per_epoch)
        return self._epoch(epoch)[index]

    def _shuffle(self, epoch: int) -> list[tuple[Key, list[int]]]:
        rng = random.Random(self.seed * 1_000_003 + epoch)
        batches = []
        for bucket, count in self.counts.items():
            order = rng.sample(range(count), count)
            while len(order) % self.batch_size:
                order.append(rng.randrange(count))
            batches += [(bucket, order[i : i + self.batch_size]) for i in range(0, len(order), self.batch_size)]
        rng.shuffle(batches)
        return batches
