"""A video -> clips of a single shot each, some seconds long: cut without encoding anew where that is exact."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy

from ..files.atomic import atomic_write, make_folder
from ..media.errors import MediaError
from ..media.video_file import Video, frames, open_video, probe, upright
from .cuts import DETECTED, find_cuts

X264 = {"crf": "17", "preset": "superfast", "tune": "fastdecode"}  # no eye sees the difference; it is read many times
COPIED = {"h264", "hevc", "av1", "mpeg4"}  # codecs that an mp4 may hold as they are
EXACT = 8  # bits of a channel that a clip has


@dataclass(frozen=True)
class SplitSettings:
    """Clips last `least` to `most` seconds (paper: 3 to 10); a shorter shot makes none, a longer one several."""

    least: float = 3.0
    most: float = 10.0

    def __post_init__(self):
        if not 0 < self.least <= self.most / 2:
            raise ValueError(
                f"Clips of {self.least:g} to {self.most:g} seconds can't be cut from every shot; let most be at least "
                "twice as long as least."
            )


@dataclass(frozen=True)
class Piece:
    """Frames `start` to `stop` of a video, without the latter."""

    start: int
    stop: int


def split(file: Path, folder: Path, stem: str, settings: SplitSettings) -> list[Path]:
    """The clips of a video, as `folder/stem_001.mp4` and so on. Raises `MediaError`."""
    video = probe(file)
    pieces, keys = plan(video, settings)
    make_folder(folder)
    places = [folder / f"{stem}_{i:03}.mp4" for i in range(1, len(pieces) + 1)]
    whole = {p for p in pieces if _copyable(video) and {p.start, p.stop} <= keys}
    copied = {p for p, place in zip(pieces, places, strict=True) if p in whole and _copy(video, p, place)}
    _encode(video, {p: place for p, place in zip(pieces, places, strict=True) if p not in copied})
    return places


def plan(video: Video, settings: SplitSettings) -> tuple[list[Piece], set[int]]:
    """What clips hold, and the frames that can be cut at without encoding anew, the end among them."""
    keys, count = set(), 0

    def pictures() -> Iterator[numpy.ndarray]:
        nonlocal count
        for count, frame in enumerate(_frames(video, rough=True), 1):
            if frame.key_frame:
                keys.add(count - 1)
            yield _small(frame)

    cuts = list(find_cuts(pictures()))
    keys.add(count)
    shots = zip([0, *cuts], [*cuts, count], strict=True)
    return [piece for shot in shots for piece in divide(*shot, float(video.fps), settings)], keys


def divide(start: int, stop: int, fps: float, settings: SplitSettings) -> list[Piece]:
    """A shot as equal pieces, as few as may be; none when it is too short."""
    length = stop - start
    if length < settings.least * fps:
        return []
    parts = math.ceil(length / (settings.most * fps))
    borders = [start + length * i // parts for i in range(parts + 1)]
    return [Piece(a, b) for a, b in zip(borders, borders[1:], strict=False)]


def _frames(video: Video, rough: bool = False) -> Iterator[av.VideoFrame]:
    return frames(video.file, None if video.even else video.fps, rough)


def _small(frame: av.VideoFrame) -> numpy.ndarray:
    scale = min(1.0, DETECTED / min(frame.width, frame.height))
    width, height = (max(2, round(side * scale)) for side in (frame.width, frame.height))
    return frame.to_ndarray(format="bgr24", width=width, height=height)


def _copyable(video: Video) -> bool:
    return video.even and not video.rotated and video.depth == EXACT and video.codec in COPIED


def _copy(video: Video, piece: Piece, place: Path) -> bool:
    """The packets of these frames as they are; whether exactly these frames came out."""
    try:
        with atomic_write(place) as partial:
            _remux(video, piece, partial)
            if sum(1 for _ in frames(partial)) != piece.stop - piece.start:
                raise MediaError(f"{video.file} can't be cut at frame {piece.start} as it is.")
    except (MediaError, av.FFmpegError):  # such as packets that an mp4 can't hold: encoded, they can be
        return False
    return True


def _remux(video: Video, piece: Piece, place: Path) -> None:
    with open_video(video.file) as (container, stream), av.open(str(place), "w", format="mp4") as out:
        copy, offset = out.add_stream_from_template(stream), None
        frame = 1 / (video.fps * stream.time_base)
        first, last = ((stream.start_time or 0) + (n - Fraction(1, 2)) * frame for n in (piece.start, piece.stop))
        for packet in container.demux(stream):
            if packet.pts is None or packet.dts is None or not first <= packet.pts < last:
                continue
            offset = packet.pts if offset is None else offset
            packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
            out.mux(packet)


def _encode(video: Video, wanted: dict[Piece, Path]) -> None:
    """The frames of each piece anew, the right way up, in 8 bits, in one pass over the video."""
    ahead, number = _frames(video), 0
    for piece, place in sorted(wanted.items(), key=lambda item: item[0].start):
        for _ in islice(ahead, piece.start - number):
            pass
        _write(islice(ahead, piece.stop - piece.start), video, place)
        number = piece.stop


def _write(shown: Iterator[av.VideoFrame], video: Video, place: Path) -> None:
    """Frames as an mp4 that plays anywhere. An odd last row or column is left out, as the format has it."""
    with atomic_write(place) as partial, av.open(str(partial), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=video.fps, options=X264)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = video.width // 2 * 2, video.height // 2 * 2
        for number, frame in enumerate(shown):
            flat = _flat(frame, stream.width, stream.height)
            flat.pts, flat.time_base = number, 1 / video.fps
            out.mux(stream.encode(flat))
        out.mux(stream.encode())


def _flat(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    if frame.rotation % 360 == 0 and (frame.width, frame.height) == (width, height):
        return frame.reformat(format="yuv420p")
    pixels = numpy.ascontiguousarray(upright(frame)[:height, :width])
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
