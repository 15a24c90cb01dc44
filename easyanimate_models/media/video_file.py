"""A video file: what it is, and its frames as they are meant to be seen, one at a time.

Rotation flags are honoured, uneven frame rates evened out. Nothing here holds more than a few frames.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"}
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
UNEVEN = 0.1  # of a frame's time, between the longest and the shortest
WHOLE = 0.9  # of the frames that a header counts
PROBED = 48  # frames whose times are compared
SIDEWAYS = (90, 270)


class VideoError(OSError):
    """A file that can't be used; the message names it, says why and what to do."""


@dataclass(frozen=True)
class Video:
    """What a file holds: size in pixels as it is seen, frames per second, length in seconds by its header, 0 if unsaid.

    `even`: every frame lasts as long as the others. `depth` is in bits of a channel.
    """

    file: Path
    width: int
    height: int
    fps: Fraction
    seconds: float
    even: bool
    rotated: bool
    depth: int
    codec: str


def probe(file: Path) -> Video:
    """What the file holds, from its header and first frames. Raises `VideoError`."""
    with opened(file) as (container, stream):
        first, times = None, []
        for frame in container.decode(stream):
            first = first or frame
            times.append(frame.time)
            if len(times) == PROBED or frame.time is None:
                break
        if first is None:
            raise VideoError(f"{file} holds not one picture; replace it.")
        if trc := HDR.get(int(getattr(first, "color_trc", 0) or 0)):
            raise VideoError(f"{file} is HDR ({trc}); convert it to SDR first, or its colours would be wrong.")
        sideways = first.rotation % 360 in SIDEWAYS
        width, height = (first.height, first.width) if sideways else (first.width, first.height)
        fps = Fraction(stream.average_rate or stream.guessed_rate or 24).limit_denominator(100_000)
        depth = max(c.bits for c in first.format.components)
        turned = bool(first.rotation % 360)
        seconds = _seconds(container, stream)
        return Video(file, width, height, fps, seconds, _even(times), turned, depth, stream.codec_context.name)


def frames(file: Path, fps: Fraction | float | None = None, rough: bool = False) -> Iterator[av.VideoFrame]:
    """Frames in order, as decoded; at `fps`, the one that is seen at each tick, repeated or left out as need be.

    `rough` ones are for measuring only: the edges of blocks are not smoothed, which saves a quarter of the time. Raises
    `VideoError` where the file breaks off.
    """
    with opened(file) as (container, stream):
        if rough:
            stream.codec_context.options = {"skip_loop_filter": "all"}
        if fps is None:
            yield from _decoded(file, container, stream)
            return
        tick, start, shown = 0, 0.0, None
        for frame in _decoded(file, container, stream):
            time = float(frame.time or 0)
            start = time if shown is None else start
            while shown is not None and start + (tick + 0.5) / float(fps) <= time:
                yield shown
                tick += 1
            shown = frame
        end = start if shown is None else float(shown.time or 0) + _lasts(shown, stream)
        while shown is not None and (tick == 0 or start + (tick + 0.5) / float(fps) <= end):
            yield shown
            tick += 1


def picture(frame: av.VideoFrame, short_side: int | None = None) -> numpy.ndarray:
    """A frame `[H, W, 3]` in RGB, the right way up, at most `short_side` pixels narrow or low."""
    width, height = frame.width, frame.height
    if short_side and min(width, height) > short_side:
        scale = short_side / min(width, height)
        width, height = (max(2, round(side * scale)) for side in (width, height))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return numpy.rot90(pixels, (frame.rotation % 360) // 90) if frame.rotation % 360 else pixels


def spread(file: Path, count: int, short_side: int | None = None) -> list[numpy.ndarray]:
    """That many pictures of a clip, evenly spaced, each from the middle of its part; fewer when it has fewer frames."""
    total = sum(1 for _ in frames(file))
    wanted = {int((i + 0.5) * total / count) for i in range(count)}
    return [picture(frame, short_side) for number, frame in enumerate(frames(file)) if number in wanted]


@contextmanager
def opened(file: Path):
    """The container and its first video stream, decoding on all cores. Raises `VideoError`."""
    try:
        container = av.open(str(file))
    except FileNotFoundError as error:
        raise VideoError(f"{file} is not there any more; put it back, or start again without it.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{file} can't be read as a video ({_reason(error)}); replace it.") from error
    with container:
        stream = next(iter(container.streams.video), None)
        if stream is None:
            raise VideoError(f"{file} has sound but no picture; leave it out.")
        stream.thread_type = "AUTO"
        yield container, stream


def _decoded(file: Path, container, stream) -> Iterator[av.VideoFrame]:
    done = 0
    try:
        for frame in container.decode(stream):
            yield frame
            done += 1
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{file} breaks off after {done} frames ({_reason(error)}); replace it.") from error
    if done < WHOLE * stream.frames:
        raise VideoError(f"{file} breaks off after {done} of {stream.frames} frames; replace it.")


def _seconds(container, stream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _even(times: list[float | None]) -> bool:
    gaps = [b - a for a, b in zip(times, times[1:], strict=False) if a is not None and b is not None]
    return not gaps or max(gaps) - min(gaps) <= UNEVEN * max(gaps)


def _lasts(frame: av.VideoFrame, stream) -> float:
    """Seconds for which a frame is seen."""
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1 / float(stream.average_rate or 24)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
