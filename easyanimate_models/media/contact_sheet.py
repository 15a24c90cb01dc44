"""A video at a glance: evenly spaced frames side by side in one picture.

As a program: `contact_sheet.py VIDEO PICTURE`.
"""

import sys
from pathlib import Path

import av
from PIL import Image

COLUMNS = 6
FRAMES = 12
SIDE = 192
GAP = 4


def contact_sheet(frames: list[Image.Image], columns: int = COLUMNS) -> Image.Image:
    """`frames` in reading order, each at most `SIDE` pixels wide and high."""
    scale = SIDE / max(frames[0].size)
    width, height = (max(1, round(side * scale)) for side in frames[0].size)
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), (32, 32, 32))
    for i, frame in enumerate(frames):
        corner = (GAP + (i % columns) * (width + GAP), GAP + (i // columns) * (height + GAP))
        sheet.paste(frame.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), corner)
    return sheet


def read_video(path: Path) -> list[Image.Image]:
    """All frames of a video file."""
    with av.open(str(path)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def evenly_spaced(frames: list[Image.Image], count: int = FRAMES) -> list[Image.Image]:
    """`count` of them, evenly spaced, first and last included."""
    if len(frames) <= count:
        return frames
    return [frames[round(i * (len(frames) - 1) / (count - 1))] for i in range(count)]


if __name__ == "__main__":
    video, picture = map(Path, sys.argv[1:])
    contact_sheet(evenly_spaced(read_video(video))).save(picture)
