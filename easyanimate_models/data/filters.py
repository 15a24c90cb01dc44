"""Which clips are good enough: limits on scores, applied last, so that changing one costs nothing (paper 4.1)."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields

from .ledger import Row
from .pixel_scores import distance

LIMIT_REASON = re.compile(r"\w+ \S+ is (below|above) \S+")
BITS, SAME = 64, 4  # of a hash; those in which copies may differ


@dataclass(frozen=True)
class Limits:
    """Least and most of each score, None for no limit; a score that a clip lacks is not checked.

    The defaults are the original's where it has them: motion 3 to 8, text on at most 2 % of the frame, aesthetics 4 and
    more. `side` is the short side in pixels, `seconds` the length, `light` the mean brightness, `change` the largest
    change in half a second (both in 0..1), `shake` the share of the camera's motion that is back and forth.
    """

    motion: tuple[float | None, float | None] = (3.0, 8.0)
    text_area: tuple[float | None, float | None] = (None, 0.02)
    aesthetics: tuple[float | None, float | None] = (4.0, None)
    side: tuple[float | None, float | None] = (None, None)
    seconds: tuple[float | None, float | None] = (None, None)
    light: tuple[float | None, float | None] = (0.03, 0.97)
    change: tuple[float | None, float | None] = (0.002, None)
    shake: tuple[float | None, float | None] = (None, None)
    copies: bool = False

    def __post_init__(self):
        for field in fields(self):
            pair = getattr(self, field.name)
            if field.name != "copies" and None not in pair and pair[0] > pair[1]:
                raise ValueError(f"{field.name} can't be at least {pair[0]:g} and at most {pair[1]:g}; swap them.")

    def reasons(self, row: Row) -> list[str]:
        """Which limits the scores of a clip exceed; empty when none."""
        return [reason for name in self.names() if (reason := self._reason(name, row))]

    def names(self) -> list[str]:
        """The scores that have limits, in order."""
        return [field.name for field in fields(self) if field.name != "copies"]

    def _reason(self, name: str, row: Row) -> str | None:
        value, (least, most) = score_of(row, name), getattr(self, name)
        if value is None:
            return None
        if least is not None and value < least:
            return f"{name} {value:.3g} is below {least:g}"
        if most is not None and value > most:
            return f"{name} {value:.3g} is above {most:g}"
        return None


def score_of(row: Row, name: str) -> float | None:
    """A score of a clip, None when it has none."""
    if name == "side":
        return min(row["width"], row["height"]) if "width" in row and "height" in row else None
    value = row.get(name)
    return None if value is None else float(value)


def reasons_of(row: Row) -> list[str]:
    """Why a clip is left out: a reason for each limit, or one sentence; empty for clips that are kept."""
    rejected = str(row.get("rejected") or "")
    parts = rejected.split("; ")  # sentences and names of copies may hold the same
    return parts if all(map(LIMIT_REASON.fullmatch, parts)) else [rejected] if rejected else []


def apply_limits(rows: list[Row], limits: Limits) -> Iterator[Row]:
    """The rows, each with `rejected`: why the clip is left out, empty for those that are kept."""
    kept = _HashIndex()
    for row in rows:
        reasons = [str(row["wrong"])] if row.get("wrong") else limits.reasons(row)
        copy = None if reasons or limits.copies or "hash" not in row else kept.find_copy(row)
        if copy is not None:
            reasons.append(f"copy of {copy['file']}")
        elif not reasons and "hash" in row:
            kept.add(row)
        yield {**row, "rejected": "; ".join(reasons)}


class _HashIndex:
    """Clips by parts of their hashes. Copies differ in fewer bits than there are parts, so one part is the same."""

    def __init__(self):
        self.by_part: dict[tuple[int, int], list[Row]] = defaultdict(list)

    def add(self, row: Row) -> None:
        for part in self._parts(row["hash"]):
            self.by_part[part].append(row)

    def find_copy(self, row: Row) -> Row | None:
        """A clip whose hash is nearly the same, or nearly that of the mirror image."""
        hashes = [row[key] for key in ("hash", "mirrored") if key in row]
        return next((copy for own in hashes if (copy := self._find(own)) is not None), None)

    def _find(self, own: str) -> Row | None:
        candidates = (other for part in self._parts(own) for other in self.by_part.get(part, ()))
        return next((other for other in candidates if distance(own, other["hash"]) <= SAME), None)

    def _parts(self, own: str) -> list[tuple[int, int]]:
        bits, width = int(own, 16), -(-BITS // (SAME + 1))
        return [(i, bits >> (i * width) & ((1 << width) - 1)) for i in range(SAME + 1)]
