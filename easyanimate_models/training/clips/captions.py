"""What becomes of captions before they are learnt: a trigger word, and tags in several orders."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .dataset import Item

PLACEHOLDER = "[trigger]"  # where a caption wants the trigger word


def with_trigger(text: str, word: str) -> str:
    """A caption with the trigger word in place of `[trigger]`, else before it, unless it is in there already."""
    if not word:
        return text
    if PLACEHOLDER in text:
        return text.replace(PLACEHOLDER, word)
    return text if word in text else f"{word}, {text}" if text else word


def add_trigger(items: Iterable[Item], word: str) -> list[Item]:
    """Items whose captions have the trigger word, "" for none."""
    return [replace(item, text=with_trigger(item.text, word.strip())) for item in items]


@dataclass(frozen=True)
class TagOrder:
    """In how many orders of its comma-separated tags a caption is learnt, 0 for its own; the first `keep` stay.

    The orders follow from the caption alone, so that each is encoded once.
    """

    shuffles: int = 0
    keep: int = 1

    def variants(self, text: str) -> list[str]:
        """All orders of a caption."""
        return [self._shuffled(text, number) for number in range(self.shuffles)] or [text]

    def draw(self, text: str, rng: random.Random) -> str:
        """One of them; the caption itself draws no number."""
        return self._shuffled(text, rng.randrange(self.shuffles)) if self.shuffles else text

    def _shuffled(self, text: str, number: int) -> str:
        tags = [tag.strip() for tag in text.split(",")]
        rest = tags[self.keep :]
        random.Random(f"{number} {text}").shuffle(rest)
        return ", ".join([*tags[: self.keep], *rest])


AS_WRITTEN = TagOrder()
