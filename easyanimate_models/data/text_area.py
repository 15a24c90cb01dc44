"""How much of a clip is covered by writing: boxes found by an OCR over the area of the frames looked at (paper 4.1)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy

from ..files.packages import require_package
from ..media.video_file import frames, upright

EVERY = 2  # seconds
SIDE = 720  # pixels, the narrow side of what is looked at
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
        """`text_area`: the mean share of the frame, 0 to 1, a frame every two seconds."""
        shares = [covered(upright(frame, SIDE)) for frame in frames(file, 1 / EVERY, rough=True)]
        return {"text_area": sum(shares) / len(shares) if shares else 0.0}


def covered(pixels: numpy.ndarray) -> float:
    """The share of a picture `[H, W, 3]` (RGB) that lies in boxes around writing; where they overlap it counts once."""
    cv2 = require_package("cv2")
    found = _finder()(numpy.ascontiguousarray(pixels[..., ::-1])).boxes
    mask = numpy.zeros(pixels.shape[:2], numpy.uint8)
    for box in () if found is None else found:
        cv2.fillPoly(mask, [numpy.round(box).astype(numpy.int32)], 1)
    return float(mask.mean())


@lru_cache(maxsize=1)
def _finder():
    """An OCR that finds writing and does not read it."""
    require_package("onnxruntime")
    return require_package("rapidocr").RapidOCR(params=SETTINGS)
