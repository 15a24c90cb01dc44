"""How much moves in a clip: the mean optical flow at two frames per second (paper 4.1), and how much the camera shakes.

The paper names RAFT; the original's code uses Farneback's flow on whole frames, which finds 0.6 of a 720p clip's true
motion and loses what moves faster than 30 pixels in half a second. Farneback on smaller frames follows things three
times as fast for a tenth of the work; its score is brought to the original's scale, so that the original's limits (3 to
8) hold. RAFT is used where its weights are on disk; its scores are true pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy

from ..files.packages import require_package
from ..media.video_file import frames, upright

FPS = 2
TICKS = 26  # a second, of which the middle of each half second is one
SPACING, FIRST = TICKS // FPS, TICKS // FPS // 2  # ticks between the pictures of `FPS`, and before the first
BURST, BURST_EVERY = SPACING + 1, 4 * SPACING  # ticks: half a second every two, in which a tremor of 8 Hz shows
SIDE = 256  # pixels, the short side of what is compared
ORIGINAL = 0.68  # the original's flow on whole frames of 720p, by Farneback's on such frames
FARNEBACK = {
    "pyr_scale": 0.5, "levels": 3, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2, "flags": 0,
}  # fmt: skip
MULTIPLE = 8  # RAFT's sides


@dataclass(frozen=True)
class Motion:
    """Scores a clip's motion; `raft` is a file of torchvision's RAFT weights."""

    raft: Path | None = None
    version: int = 2  # raised when scores change: clips are measured anew
    name = "motion"

    def __call__(self, file: Path) -> dict[str, float]:
        """`motion`: mean length of the flow; `shake`: how much of the camera's motion is back and forth, 0 to 1."""
        estimate, to_original = (farneback, ORIGINAL) if self.raft is None else (_raft(self.raft), 1.0)
        lengths, slow = [], []
        bursts: list[list[numpy.ndarray]] = []
        before = last = None
        for tick, picture, scale in _sampled(file):
            if tick % BURST_EVERY == 0:
                bursts.append([])
            elif tick % BURST_EVERY < BURST and last is not None:
                bursts[-1].append(_camera_step(farneback(last, picture) * scale))
            if tick % SPACING == FIRST:
                if before is not None:
                    flow = estimate(before, picture) * scale
                    lengths.append(float(numpy.linalg.norm(flow, axis=-1).mean()))
                    slow.append(_camera_step(flow))
                before = picture
            last = picture
        return {"motion": to_original * _mean(lengths), "shake": max(shake([slow]), shake(bursts))}


def farneback(before: numpy.ndarray, after: numpy.ndarray) -> numpy.ndarray:
    """Flow `[H, W, 2]` in pixels between two pictures `[H, W, 3]`."""
    cv2 = require_package("cv2")
    grey = [cv2.cvtColor(numpy.ascontiguousarray(p), cv2.COLOR_RGB2GRAY) for p in (before, after)]
    return cv2.calcOpticalFlowFarneback(*grey, None, **FARNEBACK)


def shake(bursts: list[list[numpy.ndarray]]) -> float:
    """Of the camera's steps `[2]` the share that cancels out within its burst: 0 for a pan, near 1 for a tremor."""
    runs = [numpy.array(steps) for steps in bursts if steps]
    walked = sum(float(numpy.linalg.norm(steps, axis=-1).sum()) for steps in runs)
    covered = sum(float(numpy.linalg.norm(steps.sum(axis=0))) for steps in runs)
    return 1 - covered / walked if walked > sum(map(len, runs)) else 0.0


def _camera_step(flow: numpy.ndarray) -> numpy.ndarray:
    return numpy.median(flow.reshape(-1, 2), axis=0)


def _sampled(file: Path) -> Iterator[tuple[int, numpy.ndarray, float]]:
    """Pictures by their tick: those of `FPS` and those of bursts, with the size of a pixel in pixels of the clip."""
    for tick, frame in enumerate(frames(file, TICKS, rough=True)):
        if tick % SPACING == FIRST or tick % BURST_EVERY < BURST:
            picture = upright(frame, SIDE)
            yield tick, picture, min(frame.width, frame.height) / min(picture.shape[:2])


@lru_cache(maxsize=1)
def _raft(weights: Path):
    """Estimates flow by torchvision's large RAFT."""
    import torch

    from ..files.checkpoint import read_checkpoint, require_fit

    network = require_package("torchvision").models.optical_flow.raft_large(weights=None).eval()
    network.load_state_dict(require_fit(network, read_checkpoint(weights, "transformer"), "RAFT of torchvision"))

    def estimate(before: numpy.ndarray, after: numpy.ndarray) -> numpy.ndarray:
        height, width = (side // MULTIPLE * MULTIPLE for side in before.shape[:2])
        pair = numpy.stack([before, after])[:, :height, :width]
        pictures = torch.from_numpy(pair).movedim(-1, 1).float() / 127.5 - 1
        with torch.inference_mode():
            return network(pictures[:1], pictures[1:])[-1][0].movedim(0, -1).numpy()

    return estimate


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0.0
