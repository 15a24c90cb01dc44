"""Scores of a clip without any model: size, length, light, stillness, and a hash that copies share."""

from dataclasses import dataclass
from pathlib import Path

import numpy

from ..files.packages import require_package
from ..media.video_file import frames, probe, upright

FPS = 2
SIDE = 64
HASH_SIDE = 8  # its square is the number of bits


@dataclass(frozen=True)
class PixelScores:
    """Scores of the pixels alone."""

    version: int = 2  # raised when scores change: clips are measured anew
    name = "basics"

    def __call__(self, file: Path) -> dict[str, float | int | str]:
        """`width`, `height`, `frames`, `fps`, `seconds`; `light`, `change` in 0..1; `hash`, `mirrored`: hex digits."""
        video = probe(file)
        count, small, every = 0, [], max(1, round(video.fps / FPS))
        for count, frame in enumerate(frames(file, rough=True), 1):
            if (count - 1) % every == 0:
                small.append(_grey(upright(frame, SIDE)))
        changes = [float(numpy.abs(b - a).mean()) for a, b in zip(small, small[1:], strict=False)]
        middle = small[len(small) // 2]
        return {
            "width": video.width,
            "height": video.height,
            "frames": count,
            "fps": round(float(video.fps), 3),
            "seconds": round(count / float(video.fps), 3),
            "light": float(numpy.mean([grey.mean() for grey in small])),
            "change": max(changes, default=0.0),
            "hash": _hash(middle),
            "mirrored": _hash(middle[:, ::-1]),
        }


def distance(a: str, b: str) -> int:
    """In how many of 64 bits two hashes differ; those of copies differ in a few."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _grey(pixels: numpy.ndarray) -> numpy.ndarray:
    return pixels.astype(numpy.float32) @ numpy.array([0.299, 0.587, 0.114], numpy.float32) / 255


def _hash(grey: numpy.ndarray) -> str:
    """Perceptual hash (pHash): signs of the lowest frequencies, which scaling and compression hardly change."""
    cv2 = require_package("cv2")
    square = cv2.resize(grey, (4 * HASH_SIDE, 4 * HASH_SIDE), interpolation=cv2.INTER_AREA)
    low = cv2.dct(square)[:HASH_SIDE, :HASH_SIDE].flatten()
    bits = low > numpy.median(low[1:])
    return f"{int(''.join('01'[int(bit)] for bit in bits), 2):016x}"
