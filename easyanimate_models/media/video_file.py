"""A clip or a still image: what it is, and its frames as a player shows them, one at a time.

The one reader of clips, for data preparation and training: rotation flags are honoured, uneven frame rates can be
evened out. Nothing here holds more than a few frames, `read_frames` aside.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy
from av.stream import Disposition

from .errors import MediaError
from .frame_rate import is_same_rate
from .image_file import is_image, read_image

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif"}
DEFAULT_FPS = 24
HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
UNEVEN = 0.1  # of a frame's time, between the longest and the shortest
COMPLETE = 0.9  # of the frames and seconds that a header promises
PROBED = 48  # frames whose times are compared
SIDEWAYS = (90, 270)
OPAQUE = 255  # alpha of a pixel through which nothing is seen
DURATION = re.compile(r"(\d+):(\d+):(\d+\.?\d*)")  # how Matroska tags a stream


@dataclass(frozen=True)
class Video:
    """What a file holds: size in pixels as it is seen, frames per second, length in seconds by its header, 0 if unsaid.

    `even`: every frame lasts as long as the others. `depth` is in bits of a channel. `codec` of a still is "".
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

    def is_at(self, fps: float) -> bool:
        """Whether the frames are at `fps` as they are stored, or nearly so."""
        return self.even and is_same_rate(float(self.fps), fps)

    def rate(self) -> str:
        """The frame rate in words, for the log."""
        return f"{float(self.fps):.4g} frames per second{'' if self.even else ' (uneven)'}"


def probe(file: Path) -> Video:
    """What the file holds, from its header and first frames. Raises `MediaError`."""
    if is_image(file):
        height, width, _ = read_image(file).shape
        return Video(file, width, height, Fraction(DEFAULT_FPS), 0.0, True, False, 8, "")
    with open_video(file) as (container, stream):
        first, times = _first_frames(file, container, stream)
        if trc := HDR.get(int(getattr(first, "color_trc", 0) or 0)):
            raise MediaError(f"{file} is HDR ({trc}); convert it to SDR first, or its colours would be wrong.")
        sideways = first.rotation % 360 in SIDEWAYS
        width, height = (first.height, first.width) if sideways else (first.width, first.height)
        fps = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS).limit_denominator(100_000)
        depth = max(c.bits for c in first.format.components)
        rotated = bool(first.rotation % 360)
        seconds = _header_seconds(container, stream)
        return Video(file, width, height, fps, seconds, _is_even(times), rotated, depth, stream.codec_context.name)


def frames(
    file: Path, fps: Fraction | float | None = None, rough: bool = False
) -> Generator[av.VideoFrame, None, None]:
    """Frames in order, as decoded; at `fps`, the one on screen at each tick, repeated or left out as need be.

    `rough` frames are for measuring only: the edges of blocks are not smoothed, which saves a quarter of the time.
    Raises `MediaError` where the file breaks off.
    """
    if is_image(file):
        yield av.VideoFrame.from_ndarray(read_image(file), format="rgb24")
        return
    with open_video(file) as (container, stream):
        if rough:
            stream.codec_context.options = {"skip_loop_filter": "all"}
        decoded = _decode(file, container, stream)
        yield from (decoded if fps is None else _at_rate(decoded, float(fps), _frame_seconds(stream)))


def upright(frame: av.VideoFrame, short_side: int | None = None) -> numpy.ndarray:
    """A frame `[H, W, 3]` in RGB, the right way up, scaled down to `short_side` pixels on its short side if larger."""
    width, height = frame.width, frame.height
    if short_side and min(width, height) > short_side:
        scale = short_side / min(width, height)
        width, height = (max(2, round(side * scale)) for side in (width, height))
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return numpy.rot90(pixels, (frame.rotation % 360) // 90) if frame.rotation % 360 else pixels


def count_frames(file: Path, fps: float | None = None) -> int:
    """How many frames a file holds, or has at `fps`: each is decoded, to be sure. Raises `MediaError`."""
    return sum(1 for _ in frames(file, fps))


def read_frames(file: Path, start: int, count: int, every: int = 1, fps: float | None = None) -> numpy.ndarray:
    """`count` frames from `start` on, every so many of those at `fps`, `[T, H, W, 3]` in RGB, upright.

    Raises `MediaError` when they aren't there, or are of several sizes.
    """
    with closing(frames(file, fps)) as decoded:
        pixels = [upright(frame) for frame in islice(decoded, start, start + (count - 1) * every + 1, every)]
    if len(pixels) < count:
        raise MediaError(
            f"{file} has only {len(pixels)} of the {count} frames needed; it has changed since its frames were counted."
        )
    if len({frame.shape for frame in pixels}) > 1:
        raise MediaError(f"The frame size of {file} changes midway; convert it to a single size.")
    return numpy.stack(pixels)


def sample_frames(file: Path, count: int, short_side: int | None = None) -> list[numpy.ndarray]:
    """`count` evenly spaced frames `[H, W, 3]`, each from the middle of its part; all when the clip has fewer."""
    total = count_frames(file)
    numbers = {int((i + 0.5) * total / count) for i in range(count)}
    return [upright(frame, short_side) for number, frame in enumerate(frames(file)) if number in numbers]


@contextmanager
def open_video(file: Path):
    """The container and its first video stream, decoding on all cores. Raises `MediaError`."""
    if file.suffix.lower() == ".webp" and file.is_file():  # FFmpeg decodes still ones only
        raise MediaError(f"{file} is an animated WebP, which can't be decoded here; convert it, for example to mp4.")
    try:
        container = av.open(str(file))
    except FileNotFoundError as error:
        raise MediaError(f"{file} no longer exists; put it back, or start again without it.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{file} can't be read as a video ({_reason(error)}); replace it.") from error
    with container:
        moving = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)  # no covers
        stream = next(moving, None)
        if stream is None:
            raise MediaError(f"{file} has audio but no video; remove it.")
        if stream.codec_context is None:
            raise MediaError(f"{file} is in a format that can't be decoded here; convert it, for example to h264.")
        stream.thread_type = "AUTO"
        yield container, stream


def _first_frames(file: Path, container, stream) -> tuple[av.VideoFrame, list[float | None]]:
    """The first frame, and the times of those from it on. Raises `MediaError` when not one can be decoded."""
    first, times, reason = None, [], None
    try:
        for frame in container.decode(stream):
            first = first or frame
            times.append(frame.time)
            if len(times) == PROBED or frame.time is None:
                break
    except (av.FFmpegError, OSError) as error:
        reason = error
    if first is None:
        why = f" ({_reason(reason)})" if reason else ""
        raise MediaError(f"{file} contains no frames{why}; replace it.") from reason
    return first, times


def _decode(file: Path, container, stream) -> Iterator[av.VideoFrame]:
    count, start, end, default = 0, None, 0.0, _frame_seconds(stream)
    try:
        for frame in container.decode(stream):
            yield _opaque(frame)
            count += 1
            if frame.time is not None:
                start = frame.time if start is None else start
                end = max(end, frame.time + _seconds_of(frame, default))
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{file} can't be read beyond frame {count} ({_reason(error)}); replace it.") from error
    cut_short = end - (start or 0) < COMPLETE * _header_seconds(container, stream)  # a trimmed clip has fewer frames
    if count < COMPLETE * stream.frames and cut_short:
        raise MediaError(f"{file} ends after {count} of {stream.frames} frames; replace it.")
    expected = _matroska_seconds(container, stream)
    if end < COMPLETE * expected:
        raise MediaError(f"{file} ends after {end:.1f} of {expected:.1f} seconds; replace it.")


def _opaque(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, on white and upright if any of it is transparent: what lies below is not to be seen."""
    if not _may_be_transparent(frame.format.name):
        return frame
    pixels = frame.to_ndarray(format="rgba").astype(numpy.uint16)
    alpha = pixels[..., 3:]
    if alpha.min() == OPAQUE:
        return frame
    mixed = (pixels[..., :3] * alpha + OPAQUE * (OPAQUE - alpha) + OPAQUE // 2) // OPAQUE
    turned = numpy.ascontiguousarray(numpy.rot90(mixed, frame.rotation % 360 // 90), numpy.uint8)
    opaque = av.VideoFrame.from_ndarray(turned, format="rgb24")
    opaque.pts, opaque.time_base, opaque.duration = frame.pts, frame.time_base, frame.duration
    return opaque


@lru_cache
def _may_be_transparent(name: str) -> bool:
    """Whether a pixel format has alpha, of its own or in a palette."""
    pixel_format = av.VideoFormat(name)
    return pixel_format.has_palette or any(component.is_alpha for component in pixel_format.components)


def _at_rate(decoded: Iterator[av.VideoFrame], fps: float, default_seconds: float) -> Iterator[av.VideoFrame]:
    """The frame on screen at each tick; the last one lasts `default_seconds` if it does not say."""
    tick, start, current = 0, 0.0, None
    for frame in decoded:
        time = float(frame.time or 0)
        start = time if current is None else start
        while current is not None and start + (tick + 0.5) / fps <= time:
            yield current
            tick += 1
        current = frame
    end = start if current is None else float(current.time or 0) + _seconds_of(current, default_seconds)
    while current is not None and (tick == 0 or start + (tick + 0.5) / fps <= end):
        yield current
        tick += 1


def _header_seconds(container, stream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _matroska_seconds(container, stream) -> float:
    """Seconds until the end of a stream whose header counts neither frames nor time, 0 if nothing tells."""
    if stream.frames or stream.duration:
        return 0.0
    if tag := DURATION.match(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    alone = len(container.streams) == 1  # else another stream may be the longest
    return (container.duration or 0) / av.time_base if alone else 0.0


def _is_even(times: list[float | None]) -> bool:
    gaps = [b - a for a, b in zip(times, times[1:], strict=False) if a is not None and b is not None]
    return not gaps or max(gaps) - min(gaps) <= UNEVEN * max(gaps)


def _frame_seconds(stream) -> float:
    """Seconds for which a frame of the stream is on screen, on average."""
    return 1 / float(stream.average_rate or DEFAULT_FPS)


def _seconds_of(frame: av.VideoFrame, default: float) -> float:
    """Seconds for which a frame is on screen."""
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else default


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
