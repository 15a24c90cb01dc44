"""How much of a clip is covered by writing: the area of boxes found by OCR, of that of the frames (paper 4.1)."""

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
    "Global.use_rec": False,
    "Global.log_level": "error",
    "Det.limit_type": "max",  # small frames as they are: enlarged, whole walls look like writing
    "Det.limit_side_len": 1280,
    "Det.box_thresh": 0.6,  # 0.5 takes faces for writing
    "Det.unclip_ratio": 0.7,  # as large as the ink; 1.6 leaves a margin to read by
    "Det.use_dilation": False,
}


@dataclass(frozen=True)
class TextArea:
    """Scores writing with RapidOCR, whose weights come with the package."""

    name = "text_area"

    def __call__(self, file: Path) -> dict[str, float]:
        """`text_area`: the mean share of the frame, 0 to 1, over a frame every two seconds."""
        shares = [covered(upright(frame, SIDE)) for frame in frames(file, 1 / EVERY, rough=True)]
        return {"text_area": sum(shares) / len(shares) if shares else 0.0}


def covered(pixels: numpy.ndarray) -> float:
    """The share of a picture `[H, W, 3]` (RGB) that lies in boxes around writing; overlaps count once."""
    cv2 = require_package("cv2")
    boxes = _detector()(numpy.ascontiguousarray(pixels[..., ::-1])).boxes
    mask = numpy.zeros(pixels.shape[:2], numpy.uint8)
    for box in () if boxes is None else boxes:
        cv2.fillPoly(mask, [numpy.round(box).astype(numpy.int32)], 1)
    return float(mask.mean())


@lru_cache(maxsize=1)
def _detector():
    """OCR that finds writing without reading it."""
    require_package("onnxruntime")
    return require_package("rapidocr").RapidOCR(params=SETTINGS)
