"""How much of a clip is covered by writing: the area of lines found by OCR, of that of the frames (paper 4.1)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy

from ..files.packages import require_package
from ..media.video_file import frames, upright

EVERY = 2  # seconds
SIDE = 720  # pixels, the short side of what is searched
SETTINGS = {
    "Global.use_cls": False,
    "Global.log_level": "error",
    "Det.limit_type": "max",  # small frames as they are: enlarged, whole walls look like writing
    "Det.limit_side_len": 1280,
    "Det.box_thresh": 0.45,  # Cyrillic is seen less surely than Latin; faces have another shape
    "Det.unclip_ratio": 0.7,  # as large as the ink; 1.6 leaves a margin to read by
    "Det.use_dilation": False,
}
BAR_LEVELS, BAR_SPECKS = 16, 0.005  # of 255; the share of a line in a bar that differs by more
MIN_SIDE = 32  # pixels of a picture in which writing is searched
MIN_ASPECT, MAX_HEIGHT = 3.0, 0.15  # of a line of writing; of the picture's short side
MIN_LETTERS, MIN_CONFIDENCE = 3, 0.8  # of what OCR reads in boxes of other shapes


@dataclass(frozen=True)
class TextArea:
    """Scores writing with RapidOCR, whose weights come with the package."""

    version: int = 2  # raised when scores change: clips are measured anew
    name = "text_area"

    def __call__(self, file: Path) -> dict[str, float]:
        """`text_area`: the mean share of the picture, 0 to 1, over a frame every two seconds."""
        shares = [covered(upright(frame, SIDE)) for frame in frames(file, 1 / EVERY, rough=True)]
        return {"text_area": sum(shares) / len(shares) if shares else 0.0}


def covered(pixels: numpy.ndarray) -> float:
    """The share of a picture `[H, W, 3]` (RGB), bars aside, that lies in lines of writing; overlaps count once."""
    cv2 = require_package("cv2")
    picture = numpy.ascontiguousarray(crop_bars(pixels)[..., ::-1])
    if min(picture.shape[:2]) < MIN_SIDE:
        return 0.0
    boxes = _detector()(picture).boxes
    mask = numpy.zeros(picture.shape[:2], numpy.uint8)
    for box in () if boxes is None else boxes:
        if _is_line(box, picture) or _is_readable(box, picture):
            cv2.fillPoly(mask, [numpy.round(box).astype(numpy.int32)], 1)
    return float(mask.mean())


def crop_bars(pixels: numpy.ndarray) -> numpy.ndarray:
    """A picture `[H, W, 3]` without the rows and columns of one colour at its edges; empty if there is nothing else."""
    for axis in (0, 1):
        lines = pixels.swapaxes(0, axis)
        top, bottom = _bar_thickness(lines), _bar_thickness(lines[::-1])
        pixels = lines[top : max(top, len(lines) - bottom)].swapaxes(0, axis)
    return pixels


def _bar_thickness(lines: numpy.ndarray) -> int:
    """How many lines `[N, M, 3]` from the first on are of its colour."""
    if not lines.size:
        return 0
    difference = numpy.abs(lines.astype(numpy.int16) - numpy.median(lines[0], axis=0).astype(numpy.int16)).max(axis=-1)
    picture = (difference > BAR_LEVELS).mean(axis=1) > BAR_SPECKS
    return int(picture.argmax()) if picture.any() else len(lines)


def _is_line(box: numpy.ndarray, picture: numpy.ndarray) -> bool:
    """Whether a box of four corners has the shape of a line of writing, which no shape that fills the picture has."""
    sides = numpy.linalg.norm(box[:2] - box[1:3], axis=-1)
    return sides.max() >= MIN_ASPECT * sides.min() and sides.min() <= MAX_HEIGHT * min(picture.shape[:2])


def _is_readable(box: numpy.ndarray, picture: numpy.ndarray) -> bool:
    """Whether OCR reads a word in a box: a large title, or a short line."""
    (left, top), (right, bottom) = box.min(axis=0).clip(0).astype(int), box.max(axis=0).astype(int) + 1
    crop = numpy.ascontiguousarray(picture[top:bottom, left:right])
    read = _reader()(crop)
    words = zip(read.txts or (), read.scores or (), strict=True)
    return any(sum(map(str.isalnum, text)) >= MIN_LETTERS and score >= MIN_CONFIDENCE for text, score in words)


@lru_cache(maxsize=1)
def _detector():
    """OCR that finds writing without reading it."""
    require_package("onnxruntime")
    return require_package("rapidocr").RapidOCR(params={**SETTINGS, "Global.use_rec": False})


@lru_cache(maxsize=1)
def _reader():
    """OCR that reads a line. Not the detector with other arguments: it keeps them, and threads share it."""
    require_package("onnxruntime")
    return require_package("rapidocr").RapidOCR(params={**SETTINGS, "Global.use_det": False})
