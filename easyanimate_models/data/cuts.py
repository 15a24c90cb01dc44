"""Where one shot ends and the next begins (paper: PySceneDetect), in one pass over a video.

The original runs content detection three times and cuts wherever any run sees a change. Here the three run side by
side, and each change is looked at twice: a cut is where the pictures before and after have nothing in common, whatever
their brightness, so flashes, fades and things that rush past are none.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy

from ..files.packages import require_package

THRESHOLDS, SKIPS = (10.0, 20.0, 30.0), (0, 1, 2)  # the original's cascade
DETECTED = 144  # pixels, the narrow side of what is compared
SMALL = (16, 28)  # rows, columns of what is remembered
APART = 10  # frames: cuts closer than this are one, as in the original
SIDE = 4  # frames looked at before and after
ALIKE = 0.5  # correlation of pictures that show the same place
BLANK = 0.02  # spread of light of a picture that shows nothing, of 1


Cut = tuple[int, float]  # the frame that begins a shot, and how alike the frames around it are


@dataclass(frozen=True, eq=False)
class Look:
    """A frame by its number, and how it looks, whatever its brightness and contrast; None where it shows nothing."""

    number: int
    shape: numpy.ndarray | None

    def like(self, other: "Look") -> float:
        """Correlation, 1 for the same picture; one that shows nothing is like no other."""
        return 0.0 if self.shape is None or other.shape is None else float((self.shape * other.shape).sum())


class Cascade:
    """The original's three content detectors, which look at every, every second and every third frame."""

    def __init__(self):
        detector = require_package("scenedetect").ContentDetector
        self.detectors = [detector(threshold=threshold, min_scene_len=1) for threshold in THRESHOLDS]

    def changed(self, number: int, picture: numpy.ndarray) -> bool:
        """Whether any of them sees a change in this frame `[H, W, 3]` (BGR)."""
        now = require_package("scenedetect").FrameTimecode(number, fps=25.0)  # they count frames only
        looking = [d for d, skip in zip(self.detectors, SKIPS, strict=True) if number % (skip + 1) == 0]
        return any([bool(detector.process_frame(now, picture)) for detector in looking])


class Doubt:
    """Looks at every change twice; needs `SIDE` frames from it on."""

    def __init__(self):
        self.seen: deque[Look] = deque(maxlen=2 * SIDE + 1)  # all that show something
        self.changes: deque[int] = deque()
        self.last_blank = -1

    def see(self, look: Look, changed: bool) -> Iterator[Cut]:
        """Cuts that are sure now, with how alike the frames around them are."""
        if look.shape is None:
            self.last_blank = look.number
        else:
            self.seen.append(look)
            if changed or self.last_blank == look.number - 1:
                self.changes.append(look.number)
        while self.changes and self.changes[0] + SIDE <= look.number + 1:
            yield from self.judge(self.changes.popleft())

    def judge(self, change: int) -> Iterator[Cut]:
        """The change, if what is after it has nothing in common with what was before."""
        before = [look for look in self.seen if look.number < change][-SIDE:]
        after = [look for look in self.seen if look.number >= change][:SIDE]
        if before and after and max(a.like(b) for a in before for b in after) < ALIKE:
            yield change, before[-1].like(after[0])


def find_cuts(pictures: Iterable[numpy.ndarray]) -> Iterator[int]:
    """Numbers of the frames that begin a new shot, of a video's frames `[H, W, 3]` (BGR, uint8), small, in order."""
    cascade, doubt = Cascade(), Doubt()
    best: Cut | None = None
    for number, picture in enumerate(pictures):
        look = Look(number, _shape(picture))
        for cut in doubt.see(look, cascade.changed(number, picture)):
            best = yield from _better(best, cut)
    for change in doubt.changes:
        for cut in doubt.judge(change):
            best = yield from _better(best, cut)
    if best is not None:
        yield best[0]


def _better(best: Cut | None, cut: Cut) -> Generator[int, None, Cut]:
    """Of cuts close together the sharpest one; those before are out."""
    if best is None:
        return cut
    if cut[0] - best[0] > APART:
        yield best[0]
        return cut
    return min(best, cut, key=lambda one: one[1])


def _shape(picture: numpy.ndarray) -> numpy.ndarray | None:
    cv2 = require_package("cv2")
    small = cv2.resize(picture, SMALL[::-1], interpolation=cv2.INTER_AREA).astype(numpy.float32) / 255
    small -= small.mean(axis=(0, 1))
    if float(small.std(axis=(0, 1)).max()) < BLANK:
        return None
    return small / numpy.linalg.norm(small)
