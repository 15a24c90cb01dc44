"""Where one shot ends and the next begins (paper: PySceneDetect), in one pass over a video.

The original runs content detection three times and cuts wherever any run sees a change. Here the three run side by
side, and each change is verified: a cut is where the pictures before and after have nothing in common, whatever their
brightness, so flashes, fades and things that rush past are none.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy

from ..files.packages import require_package

THRESHOLDS, SKIPS = (10.0, 20.0, 30.0), (0, 1, 2)  # the original's cascade
DETECTED = 144  # pixels, the short side of what is compared
SIGNATURE = (16, 28)  # rows, columns
MIN_GAP = 10  # frames: cuts closer than this are one, as in the original
CONTEXT = 4  # frames compared before and after a change
SAME_SHOT = 0.5  # correlation of pictures that show the same place
BLANK = 0.02  # standard deviation of a picture that shows nothing, of 1


class Cut(NamedTuple):
    """The frame that begins a shot, and how much it correlates with the one before."""

    frame: int
    correlation: float


@dataclass(frozen=True, eq=False)
class Signature:
    """A frame by its number, small and without its brightness and contrast; `pixels` is None where it shows nothing."""

    number: int
    pixels: numpy.ndarray | None

    def correlation(self, other: "Signature") -> float:
        """1 for the same picture, 0 with one that shows nothing."""
        return 0.0 if self.pixels is None or other.pixels is None else float((self.pixels * other.pixels).sum())


class ChangeDetector:
    """The original's three content detectors, which compare every, every second and every third frame."""

    def __init__(self):
        detector = require_package("scenedetect").ContentDetector
        self.detectors = [detector(threshold=threshold, min_scene_len=1) for threshold in THRESHOLDS]

    def is_change(self, number: int, picture: numpy.ndarray) -> bool:
        """Whether any of them sees a change in this frame `[H, W, 3]` (BGR)."""
        time = require_package("scenedetect").FrameTimecode(number, fps=25.0)  # they count frames only
        active = [d for d, skip in zip(self.detectors, SKIPS, strict=True) if number % (skip + 1) == 0]
        return any([bool(detector.process_frame(time, picture)) for detector in active])


class CutVerifier:
    """Decides which changes are cuts, `CONTEXT` frames after each."""

    def __init__(self):
        self.recent: deque[Signature] = deque(maxlen=2 * CONTEXT + 1)  # of frames that show something
        self.changes: deque[int] = deque()
        self.last_blank = -1

    def add(self, signature: Signature, changed: bool) -> Iterator[Cut]:
        """The next frame; cuts that are certain by now."""
        if signature.pixels is None:
            self.last_blank = signature.number
        else:
            self.recent.append(signature)
            if changed or self.last_blank == signature.number - 1:
                self.changes.append(signature.number)
        while self.changes and self.changes[0] + CONTEXT <= signature.number + 1:
            yield from self.verify(self.changes.popleft())

    def finish(self) -> Iterator[Cut]:
        """Cuts among the last changes, after the last frame."""
        for change in self.changes:
            yield from self.verify(change)

    def verify(self, change: int) -> Iterator[Cut]:
        """The change, if the frames after it have nothing in common with those before."""
        before = [frame for frame in self.recent if frame.number < change][-CONTEXT:]
        after = [frame for frame in self.recent if frame.number >= change][:CONTEXT]
        if before and after and max(a.correlation(b) for a in before for b in after) < SAME_SHOT:
            yield Cut(change, before[-1].correlation(after[0]))


def find_cuts(pictures: Iterable[numpy.ndarray]) -> Iterator[int]:
    """Numbers of the frames that begin a new shot, of a video's frames `[H, W, 3]` (BGR, uint8), small, in order."""
    best: Cut | None = None
    for cut in _verified(pictures):
        best = yield from _sharper(best, cut)
    if best is not None:
        yield best.frame


def _verified(pictures: Iterable[numpy.ndarray]) -> Iterator[Cut]:
    detector, verifier = ChangeDetector(), CutVerifier()
    for number, picture in enumerate(pictures):
        yield from verifier.add(Signature(number, _normalised(picture)), detector.is_change(number, picture))
    yield from verifier.finish()


def _sharper(best: Cut | None, cut: Cut) -> Generator[int, None, Cut]:
    """The sharpest of cuts that are close together; yields the one before when they are not."""
    if best is None:
        return cut
    if cut.frame - best.frame > MIN_GAP:
        yield best.frame
        return cut
    return min(best, cut, key=lambda one: one.correlation)


def _normalised(picture: numpy.ndarray) -> numpy.ndarray | None:
    cv2 = require_package("cv2")
    small = cv2.resize(picture, SIGNATURE[::-1], interpolation=cv2.INTER_AREA).astype(numpy.float32) / 255
    small -= small.mean(axis=(0, 1))
    if float(small.std(axis=(0, 1)).max()) < BLANK:
        return None
    return small / numpy.linalg.norm(small)
