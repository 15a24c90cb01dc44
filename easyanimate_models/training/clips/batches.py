"""Which items a step learns from: a function of the step alone, so that a run can go on anywhere."""

import random
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)  # of bucket


class Batches(Generic[Kind]):
    """Every item once an epoch, in batches of one bucket each; a last short batch is filled up from its bucket."""

    def __init__(self, buckets: Mapping[Kind, int], batch: int, seed: int):
        """`buckets` says how many items each has."""
        if batch < 1:
            raise ValueError(f"A batch of {batch} holds nothing; make it 1 or more.")
        self.buckets, self.batch, self.seed = dict(buckets), batch, seed
        self.per_epoch = sum(-(-count // batch) for count in self.buckets.values())
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def __call__(self, step: int) -> tuple[Kind, list[int]]:
        """The bucket of a step, and which of its items."""
        epoch, place = divmod(step, self.per_epoch)
        return self._epoch(epoch)[place]

    def _shuffled(self, epoch: int) -> list[tuple[Kind, list[int]]]:
        chance = random.Random(self.seed * 1_000_003 + epoch)
        found = []
        for bucket, count in self.buckets.items():
            order = chance.sample(range(count), count)
            while len(order) % self.batch:
                order.append(chance.randrange(count))
            found += [(bucket, order[i : i + self.batch]) for i in range(0, len(order), self.batch)]
        chance.shuffle(found)
        return found
