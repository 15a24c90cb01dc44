"""Clips that are held out of training, to measure the loss on what the network has not seen."""

from dataclasses import dataclass, replace

from ...data.dataset_file import DatasetError
from ..identity import digest
from .buckets import Bucket
from .dataset import Item


@dataclass(frozen=True)
class ValidationSettings:
    """The section [validation] of a recipe: which clips are held out, a `share` of them or those named in `clips`.

    The loss on them is measured `every` so many steps.
    """

    share: float = 0.0
    clips: tuple[str, ...] = ()
    every: int = 50

    def __post_init__(self):
        if not 0 <= self.share < 1:
            raise ValueError(f"share is {self.share}; set it to a share of the clips below 1, such as 0.1.")
        if self.share and self.clips:
            raise ValueError("share and clips are both set; hold out a share of the clips, or those that are named.")
        if self.every < 1:
            raise ValueError(f"every is {self.every}; set it to 1 or more steps.")

    @property
    def enabled(self) -> bool:
        return bool(self.share or self.clips)

    def recorded(self) -> dict:
        """What is held out, as a setting of a run; nothing where nothing is."""
        return {"validation": self.share or list(self.clips)} if self.enabled else {}


def hold_out(buckets: dict[Bucket, list[Item]], settings: ValidationSettings, seed: int) -> dict[Bucket, list[Item]]:
    """The same items, of which some are `held_out`: all of a file, or nothing.

    A share is drawn by the contents of the files, so that names don't matter. Raises `DatasetError` when named clips
    are not there, or nothing is left to train on.
    """
    if not settings.enabled:
        return buckets
    items = {item.file: item for found in buckets.values() for item in found}
    if settings.clips:
        if missing := sorted(set(settings.clips) - {file.name for file in items}):
            raise DatasetError(f"There is no clip named {missing[0]} to hold out; take it out of the list of clips.")
        chosen = {file for file in items if file.name in settings.clips}
    else:
        order = sorted(items, key=lambda file: digest([str(seed), items[file].digest()]))
        chosen = set(order[: max(1, round(settings.share * len(order)))])
    if len(chosen) == len(items):
        raise DatasetError("All clips are held out for validation; hold out fewer of them, or add clips.")
    return {
        bucket: [replace(item, held_out=item.file in chosen) for item in found] for bucket, found in buckets.items()
    }


def part_of(buckets: dict[Bucket, list[Item]], held_out: bool) -> dict[Bucket, list[Item]]:
    """The items for validation, or those for training."""
    chosen = {bucket: [item for item in found if item.held_out == held_out] for bucket, found in buckets.items()}
    return {bucket: found for bucket, found in chosen.items() if found}
