"""Points that move -> a control video in which a spot of light follows each of them.

The picture is the original's: a Gaussian cut off by a disc, white on black, its size by the area of the frame.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files.json_text import is_number, parse_json
from ..files.messages import shorten

SPOT, SIGMA = 200, 40.0  # side of the spot's picture and width of the Gaussian in it, in pixels
RADIUS, AREA = 50, 1280 * 720  # of the spot, for frames of this area
SMALLEST = 4  # pixels of a side; less than this of a spot is not drawn


def trajectory_video(tracks: list[Tensor], width: int, height: int, length: int) -> Tensor:
    """Frames `[length, height, width, 3]` in 0..1 with a spot on each of the `tracks` `[points, 2]`, x and y in pixels.

    Points are spread evenly over the video, with straight lines between them. Raises `ValueError` when all of them are
    out of sight, or in the first pixel, as fractions would be.
    """
    if all(track.min() >= 0 and track.max() <= 1 for track in tracks):
        raise ValueError(
            f"All points lie in the corner; give coordinates in pixels of {width}x{height}, not fractions."
        )
    spot, frames = _spot(), torch.zeros(length, height, width)
    for track in tracks:
        for frame, (x, y) in zip(frames, _at_each_frame(track, length), strict=True):
            _draw(frame, spot, round(float(x)), round(float(y)))
    if not frames.any():
        raise ValueError(
            f"No point comes into the picture of {width}x{height}; give coordinates in pixels of that size."
        )
    return frames[..., None].repeat(1, 1, 1, 3)


def parse_tracks(text: str) -> list[Tensor]:
    """The tracks in `text`, `[points, 2]` each: JSON of one track, or of a list of them.

    A track is a list of points, each `[x, y]` or an object with x and y, as spline editors write it. Raises
    `ValueError` that names the point that can't be used.
    """
    found = parse_json(text.replace("'", '"'), "coordinates")
    if not isinstance(found, list) or not found:
        raise ValueError("There are no coordinates; write a list of points, such as [[40, 200], [600, 200]].")
    tracks = [found] if _is_point(found[0]) else found
    return [_track(track, number) for number, track in enumerate(tracks, 1)]


def _is_point(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and not isinstance(value[0], list | dict)
    )


def _track(points: Any, number: int) -> Tensor:
    if not isinstance(points, list) or not points:
        raise ValueError(f"Track {number} is {shorten(points)}; write a list of points, such as [[0, 0], [600, 200]].")
    return torch.tensor([_point(value, f"Point {n} of track {number}") for n, value in enumerate(points, 1)]).double()


def _point(value: Any, name: str) -> list[float]:
    point = [value.get("x"), value.get("y")] if isinstance(value, dict) else value
    if not isinstance(point, list) or len(point) != 2 or not all(map(is_number, point)):
        raise ValueError(f"{name} is {shorten(value)}; write it as two numbers, x and y in pixels.")
    return [float(number) for number in point]


def _at_each_frame(track: Tensor, length: int) -> Tensor:
    """The track's position in each frame, `[length, 2]`."""
    return F.interpolate(track.T[None], size=length, mode="linear", align_corners=True)[0].T


def _spot() -> Tensor:
    """A Gaussian within a disc, `[SPOT, SPOT]`, 1 in the middle."""
    offsets = torch.arange(SPOT) - SPOT // 2
    squares = (offsets**2)[:, None] + offsets**2
    return torch.exp(-squares / (2 * SIGMA**2)) * (squares <= (SPOT // 2 - 1) ** 2)


def _draw(frame: Tensor, spot: Tensor, x: int, y: int) -> None:
    """Draw the spot over what is darker in `frame` `[H, W]`; at a border it is squeezed into what is left of it."""
    height, width = frame.shape
    radius = max(int(RADIUS * math.sqrt(height * width / AREA)), SMALLEST // 2)
    top, bottom = max(y - radius, 0), min(y + radius, height - 1)
    left, right = max(x - radius, 0), min(x + radius, width - 1)
    if bottom - top < SMALLEST or right - left < SMALLEST:
        return
    scaled = F.interpolate(spot[None, None], size=(bottom - top, right - left), mode="bilinear")[0, 0]
    area = frame[top:bottom, left:right]
    torch.maximum(area, scaled, out=area)
