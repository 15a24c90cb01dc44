"""Does memory grow with the length of a video? Each peak is that of a process of its own."""

import torch

from .measure import Row, in_own_process, peak_above, report
from .videos import LENGTHS, WINDOWED, Work, decoding, encoding, windows

SIDE = 96
FRAME = 4 * 3 * SIDE * SIDE  # bytes of an IMAGE


@torch.no_grad()
def peak(work: Work, frames: int) -> int:
    """Bytes by which memory rises at most, once a short video has been through."""
    work(WINDOWED[0], SIDE)()
    return peak_above(work(frames, SIDE))


def flatness(name: str, work: Work, makes_frames: bool) -> list[Row]:
    """Peaks of all lengths against the shortest."""
    peaks = {n: in_own_process(peak, work, n) - FRAME * n * makes_frames for n in LENGTHS}
    least, how = peaks[LENGTHS[0]], f"{SIDE} x {SIDE}, built-in VAE; above weights and the video itself"
    rows = []
    for frames in LENGTHS[1:]:
        figure = f"{peaks[frames] / least:.2f} × ({peaks[frames] / 1e6:.0f} of {least / 1e6:.0f} MB)"
        question = f"{name}: peak of {frames} frames against {LENGTHS[0]}"
        rows.append(Row(question, "≤ 1.05 ×", figure, peaks[frames] <= 1.05 * least, how))
    return rows


def copies() -> Row:
    """How many times the video is in memory when all of it is made."""
    short, long = WINDOWED
    more = in_own_process(peak, windows, long) - in_own_process(peak, windows, short)
    times = more / (FRAME * (long - short))
    how = f"from noise to images, two steps in windows of 16 frames; what {long - short} more frames take"
    return Row("Whole run: how often the video is in memory", "once", f"{times:.2f} ×", times <= 1.05, how)


def main() -> None:
    report(__file__, [*flatness("Decode", decoding, True), *flatness("Encode", encoding, False), copies()])


if __name__ == "__main__":
    main()
