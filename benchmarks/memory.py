"""Does memory grow with the length of a video, and does the time of a frame? Each figure from a process of its own."""

import statistics
from collections.abc import Callable
from itertools import pairwise

import comfy.sample
import torch

from easyanimate_models.long_video import in_windows
from easyanimate_models.model_files import TINY
from easyanimate_models.schedules import release_sigmas
from easyanimate_models.sd import load_transformer, load_vae
from easyanimate_models.vae.slicing import SLICES

from .measure import Row, in_own_process, peak_above, report, seconds

SIDE, TIMED_SIDE = 96, 64
LENGTHS = (16, 144, 577)
WINDOWED = (32, 144)  # frames in several windows; a single one is sampled without any
FRAME = 4 * 3 * SIDE * SIDE  # bytes of an IMAGE

Work = Callable[[int, int], Callable[[], object]]  # for so many frames of this side


def decoding(frames: int, side: int) -> Callable[[], object]:
    """Decodes `frames` frames."""
    vae = load_vae(TINY)
    z = torch.randn(1, 4, vae.plan.latents_for(frames), side // 8, side // 8)
    return lambda: vae.decode(z)


def encoding(frames: int, side: int) -> Callable[[], object]:
    """Encodes `frames` frames."""
    vae = load_vae(TINY)
    pixels = torch.rand(frames, side, side, 3)
    return lambda: vae.encode(pixels)


def windows(frames: int, side: int) -> Callable[[], object]:
    """From noise to images; two steps, context windows of 16 frames."""
    vae, model = load_vae(TINY), load_transformer(TINY)
    model = in_windows(model, 16, 0, SLICES)
    sigmas = release_sigmas(model.get_model_object("model_sampling"), "euler", 2)
    text = [[torch.randn(1, 8, 32), {}]]
    empty = torch.zeros(1, 4, vae.plan.latents_for(frames), side // 8, side // 8)

    def run() -> None:
        noise = comfy.sample.prepare_noise(empty, 0)
        z = comfy.sample.sample(
            model, noise, 2, 2.0, "euler", "normal", text, text, empty, sigmas=sigmas, disable_pbar=True
        )
        vae.decode(z)

    return run


@torch.no_grad()
def peak(work: Work, frames: int) -> int:
    """Bytes by which memory rises at most, once a short video has been through."""
    work(WINDOWED[0], SIDE)()
    return peak_above(work(frames, SIDE))


@torch.no_grad()
def pace(work: Work, short: int, long: int) -> float:
    """Seconds of a frame of a long video against one of a short: as many frames both ways, in turn."""
    brief, whole, times = work(short, TIMED_SIDE), work(long, TIMED_SIDE), long // short
    brief()
    took = [(seconds(lambda: [brief() for _ in range(times)]), seconds(whole)) for _ in range(3)]
    briefs, wholes = map(statistics.median, zip(*took, strict=True))
    return (wholes / long) / (briefs / (times * short))


def flatness(name: str, work: Work, makes_frames: bool) -> list[Row]:
    """Peaks of all lengths against the shortest, and the time of a frame."""
    peaks = {n: in_own_process(peak, work, n) - FRAME * n * makes_frames for n in LENGTHS}
    least, how = peaks[LENGTHS[0]], f"{SIDE} x {SIDE}, built-in VAE; above weights and the video itself"
    rows = []
    for frames in LENGTHS[1:]:
        figure = f"{peaks[frames] / least:.2f} × ({peaks[frames] / 1e6:.0f} of {least / 1e6:.0f} MB)"
        question = f"{name}: peak of {frames} frames against {LENGTHS[0]}"
        rows.append(Row(question, "≤ 1.05 ×", figure, peaks[frames] <= 1.05 * least, how))
    for short, long in pairwise(LENGTHS):
        slower = in_own_process(pace, work, short, long)
        question = f"{name}: time of a frame, {long} frames against {short}"
        how = f"{TIMED_SIDE} x {TIMED_SIDE}; {long // short} of {short} frames and one of {long} in turn, three times"
        rows.append(Row(question, "≤ 1.05 ×", f"{slower:.2f} ×", slower <= 1.05, how))
    return rows


def growth() -> list[Row]:
    """How many times the video is in memory, and how time grows, when all of it is made."""
    short, long = WINDOWED
    more = in_own_process(peak, windows, long) - in_own_process(peak, windows, short)
    times = more / (FRAME * (long - short))
    linear = in_own_process(pace, windows, short, long)
    how = f"from noise to images, two steps in windows of 16 frames; what {long - short} more frames take"
    question = f"Whole run: time of a frame, {long} frames against {short}"
    return [
        Row("Whole run: how often the video is in memory", "once", f"{times:.2f} ×", times <= 1.05, how),
        Row(
            question,
            "linear",
            f"{linear:.2f} ×",
            linear <= 1.05,
            "same: linear in windows",
        ),
    ]


def main() -> None:
    report(__file__, [*flatness("Decode", decoding, True), *flatness("Encode", encoding, False), *growth()])


if __name__ == "__main__":
    main()
