"""A video as a small square picture that moves, for the template browser.

As a program: `thumbnail.py VIDEO ... PICTURE`, one video after the other.
"""

import sys
from pathlib import Path

from PIL import Image, ImageOps

from .contact_sheet import read_video

SIDE = 224
RATE = 12  # frames a second
QUALITY = 75


def save_thumbnail(frames: list[Image.Image], path: Path) -> None:
    """`frames` as an animated WebP, whatever the name of `path`: browsers look at what is inside."""
    first, *others = [ImageOps.fit(frame.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS) for frame in frames]
    moving = {"save_all": True, "append_images": others, "duration": round(1000 / RATE), "loop": 0}
    first.save(path, "WEBP", quality=QUALITY, method=6, **moving)


if __name__ == "__main__":
    *videos, picture = sys.argv[1:]
    save_thumbnail([frame for video in videos for frame in read_video(Path(video))], Path(picture))
