"""A video -> clips of a single shot each, some seconds long: cut without re-encoding where that is exact."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy
from av.video.reformatter import ColorRange, Colorspace

from ..files.atomic import atomic_write, make_folder
from ..media.errors import MediaError
from ..media.frame_rate import require_frame_rate
from ..media.video_file import Video, count_frames, frames, open_video, probe
from .cuts import DETECTED, find_cuts

X264 = {"crf": "17", "preset": "superfast", "tune": "fastdecode"}  # no eye sees the difference; it is read many times
COPIED = {"h264", "hevc", "av1", "mpeg4"}  # codecs that an mp4 may hold as they are
CLIP_DEPTH = 8  # bits of a channel


@dataclass(frozen=True)
class SplitSettings:
    """Clips last `least` to `most` seconds (paper: 3 to 10); a shorter shot makes none, a longer one several.

    Videos are resampled to `fps` frames per second by the times of their frames, 0 for each video's own rate.
    """

    least: float = 3.0
    most: float = 10.0
    fps: float = 0.0

    def __post_init__(self):
        require_frame_rate(self.fps)
        if not 0 < self.least <= self.most / 2:
            raise ValueError(
                f"Clips of {self.least:g} to {self.most:g} seconds can't be cut from every shot; make the maximum at "
                "least twice the minimum."
            )

    def __str__(self) -> str:
        """Part of ledger keys: without `fps` as long as that is 0, as before there was one."""
        resampled = f", fps={self.fps}" if self.fps else ""
        return f"{type(self).__name__}(least={self.least}, most={self.most}{resampled})"


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` of a video, without the latter."""

    start: int
    stop: int


@dataclass(frozen=True)
class Footage:
    """A video, and the frame rate of its clips: its own, unless it is `resampled`."""

    video: Video
    fps: Fraction
    resampled: bool

    def frames(self, rough: bool = False) -> Iterator[av.VideoFrame]:
        """The frames that its clips are made of; see `video_file.frames`."""
        return frames(self.video.file, self.fps if self.resampled else None, rough)

    def resampling(self) -> str:
        """What is done to its frame rate in words, "" for nothing."""
        return f"{self.video.rate()} to {float(self.fps):.4g}" if self.resampled else ""

    def seconds(self, segment: Segment) -> tuple[float, float]:
        """When a segment begins and ends in the video."""
        return round(float(segment.start / self.fps), 3), round(float(segment.stop / self.fps), 3)


def read_footage(file: Path, fps: float = 0.0) -> Footage:
    """A video whose clips are to be at `fps`, 0 for its own rate, which is made even. Raises `MediaError`."""
    video = probe(file)
    if fps and not video.is_at(fps):
        return Footage(video, Fraction(fps).limit_denominator(1001), resampled=True)
    return Footage(video, video.fps, resampled=not video.even)


def split(footage: Footage, folder: Path, stem: str, settings: SplitSettings) -> dict[Path, Segment]:
    """Write the clips of a video, as `folder/stem_001.mp4` and so on, and say which part of it each is.

    Raises `MediaError` and `WriteError`.
    """
    segments, borders = find_segments(footage, settings)
    make_folder(folder)
    clips = {segment: folder / f"{stem}_{i:03}.mp4" for i, segment in enumerate(segments, 1)}
    copyable = {s for s in segments if _is_copyable(footage) and {s.start, s.stop} <= borders}
    copied = {segment for segment in segments if segment in copyable and _copy(footage.video, segment, clips[segment])}
    _encode(footage, {segment: clip for segment, clip in clips.items() if segment not in copied})
    return {clip: segment for segment, clip in clips.items()}


def find_segments(footage: Footage, settings: SplitSettings) -> tuple[list[Segment], set[int]]:
    """What becomes a clip each, and the frames where it can be cut without re-encoding: key frames, and the end."""
    borders, count = set(), 0

    def pictures() -> Iterator[numpy.ndarray]:
        nonlocal count
        for count, frame in enumerate(footage.frames(rough=True), 1):
            if frame.key_frame:
                borders.add(count - 1)
            yield _shrink(frame)

    cuts = list(find_cuts(pictures()))
    borders.add(count)
    shots = zip([0, *cuts], [*cuts, count], strict=True)
    return [segment for shot in shots for segment in divide(*shot, float(footage.fps), settings)], borders


def divide(start: int, stop: int, fps: float, settings: SplitSettings) -> list[Segment]:
    """A shot as equal segments, as few as possible; none when it is too short."""
    length = stop - start
    if length < settings.least * fps:
        return []
    parts = math.ceil(length / (settings.most * fps))
    borders = [start + length * i // parts for i in range(parts + 1)]
    return [Segment(a, b) for a, b in zip(borders, borders[1:], strict=False)]


def _shrink(frame: av.VideoFrame) -> numpy.ndarray:
    scale = min(1.0, DETECTED / min(frame.width, frame.height))
    width, height = (max(2, round(side * scale)) for side in (frame.width, frame.height))
    return frame.to_ndarray(format="bgr24", width=width, height=height)


def _is_copyable(footage: Footage) -> bool:
    video = footage.video
    return not footage.resampled and not video.rotated and video.depth == CLIP_DEPTH and video.codec in COPIED


def _copy(video: Video, segment: Segment, clip: Path) -> bool:
    """Write the packets of these frames as they are; whether exactly these frames came out."""
    try:
        with atomic_write(clip) as part:
            _remux(video, segment, part)
            if count_frames(part) != segment.stop - segment.start:
                raise MediaError(f"{video.file} can't be cut at frame {segment.start} as it is.")
    except (MediaError, av.FFmpegError):  # such as packets that an mp4 can't hold: encoded, they can be
        return False
    return True


def _remux(video: Video, segment: Segment, clip: Path) -> None:
    with open_video(video.file) as (container, stream), av.open(str(clip), "w", format="mp4") as out:
        copy, offset = out.add_stream_from_template(stream), None
        frame = 1 / (video.fps * stream.time_base)
        first, last = ((stream.start_time or 0) + (n - Fraction(1, 2)) * frame for n in (segment.start, segment.stop))
        for packet in container.demux(stream):
            if packet.pts is None or packet.dts is None or not first <= packet.pts < last:
                continue
            offset = packet.pts if offset is None else offset
            packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
            out.mux(packet)


def _encode(footage: Footage, clips: dict[Segment, Path]) -> None:
    """Encode the frames of each segment, upright and in 8 bits, in one pass over the video."""
    remaining, number = footage.frames(), 0
    for segment, clip in sorted(clips.items(), key=lambda item: item[0].start):
        for _ in islice(remaining, segment.start - number):
            pass
        _write(islice(remaining, segment.stop - segment.start), footage, clip)
        number = segment.stop


def _write(decoded: Iterator[av.VideoFrame], footage: Footage, clip: Path) -> None:
    """Frames as an mp4 that plays anywhere; an odd last row or column is cut off, as the format requires."""
    with atomic_write(clip) as part, av.open(str(part), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=footage.fps, options=X264)
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = footage.video.width // 2 * 2, footage.video.height // 2 * 2
        for number, frame in enumerate(decoded):
            encodable = _to_yuv420p(frame, stream.width, stream.height)
            if number == 0:
                _copy_colour_tags(encodable, stream.codec_context)
            encodable.pts, encodable.time_base = number, 1 / footage.fps
            out.mux(stream.encode(encodable))
        out.mux(stream.encode())


def _to_yuv420p(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """The frame upright, in 8 bits, cut to an even size; luma and chroma stay as they are, RGB becomes BT.601."""
    if frame.format.is_rgb:
        frame = frame.reformat(format="yuv444p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG)
    turns = frame.rotation % 360 // 90
    if not turns and (frame.width, frame.height) == (width, height):
        encodable = frame.reformat(format="yuv420p")
    else:
        planes = numpy.rot90(frame.to_ndarray(format="yuv444p"), turns, axes=(1, 2))
        cut = av.VideoFrame.from_ndarray(
            numpy.ascontiguousarray(planes[:, :height, :width], numpy.uint8), format="yuv444p"
        )
        encodable = cut.reformat(format="yuv420p")
    _copy_colour_tags(frame, encodable)
    return encodable


def _copy_colour_tags(source: av.VideoFrame, target: av.VideoFrame | av.VideoCodecContext) -> None:
    """How luma and chroma are to be read; without these, a player guesses by the size."""
    target.colorspace, target.color_range = source.colorspace, source.color_range
    target.color_primaries, target.color_trc = source.color_primaries, source.color_trc
