"""Does a frame of a long video take longer? As many frames both ways, in turn, in one process."""

import statistics
from itertools import pairwise

import torch

from .measure import Row, in_own_process, report, seconds
from .videos import LENGTHS, Work, decoding, encoding, windows

SIDE, PAIRS = 32, 7
IN_WINDOWS = (48, 144)  # frames in several windows; a single one is sampled without any


@torch.no_grad()
def pace(work: Work, short: int, long: int) -> float:
    """Seconds of a frame of a long video against one of a short: as many frames both ways, in turn.

    What follows one another shares what else the machine does: the median is that of pairs.
    """
    brief, whole, times = work(short, SIDE), work(long, SIDE), long // short
    ways = {"briefs": lambda: [brief() for _ in range(times)], "whole": whole}
    brief()
    ratios = []
    for pair in range(PAIRS):
        took = {name: seconds(ways[name]) for name in (list(ways) if pair % 2 else reversed(ways))}
        ratios.append((took["whole"] / long) / (took["briefs"] / (times * short)))
    return statistics.median(ratios)


def compared(name: str, work: Work, short: int, long: int) -> Row:
    """One row: a frame of `long` frames against one of `short`."""
    slower = in_own_process(pace, work, short, long)
    question = f"{name}: time of a frame, {long} frames against {short}"
    how = f"{SIDE} x {SIDE}; {long // short} of {short} frames and one of {long} in turn, median of {PAIRS} pairs"
    return Row(question, "≤ 1.05 ×", f"{slower:.2f} ×", slower <= 1.05, how)


def main() -> None:
    parts = [("Decode", decoding), ("Encode", encoding)]
    rows = [compared(name, work, short, long) for name, work in parts for short, long in pairwise(LENGTHS)]
    report(__file__, [*rows, compared("Whole run, in windows of 16 frames", windows, *IN_WINDOWS)])


if __name__ == "__main__":
    main()
