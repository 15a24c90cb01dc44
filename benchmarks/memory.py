"""Does memory grow with the length of a video, and does the time of a frame? Each figure from a process of its own."""

import statistics

import comfy.sample
import torch

from easyanimate_models.long_video import in_windows
from easyanimate_models.model_files import TINY
from easyanimate_models.schedules import release_sigmas
from easyanimate_models.sd import load_transformer, load_vae
from easyanimate_models.vae.slicing import SLICES

from .measure import Row, in_own_process, peak_above, report, seconds

SIDE = 128
LENGTHS = (16, 144, 577)
WINDOWED = (32, 144)  # frames in several windows; a single one is sampled without any
FRAME = 4 * 3 * SIDE * SIDE  # bytes of an IMAGE


@torch.no_grad()
def decoded(frames: int) -> tuple[int, float]:
    """Bytes above weights and output while decoding, and seconds."""
    vae = load_vae(TINY)
    vae.decode(torch.randn(1, 4, 6, SIDE // 8, SIDE // 8))
    z = torch.randn(1, 4, vae.plan.latents_for(frames), SIDE // 8, SIDE // 8)
    peak, took = peak_and_seconds(lambda: vae.decode(z))
    return peak - FRAME * frames, took


@torch.no_grad()
def encoded(frames: int) -> tuple[int, float]:
    """Bytes above weights and input while encoding, and seconds."""
    vae = load_vae(TINY)
    vae.encode(torch.rand(16, SIDE, SIDE, 3))
    pixels = torch.rand(frames, SIDE, SIDE, 3)
    return peak_and_seconds(lambda: vae.encode(pixels))


@torch.no_grad()
def whole_run(frames: int) -> tuple[int, float]:
    """Bytes above the weights from noise to images, and seconds; two steps, context windows of 16 frames."""
    vae, model = load_vae(TINY), load_transformer(TINY)
    model = in_windows(model, 16, 0, SLICES)
    sigmas = release_sigmas(model.get_model_object("model_sampling"), "euler", 2)
    text = [[torch.randn(1, 8, 32), {}]]

    def run(length: int) -> None:
        empty = torch.zeros(1, 4, vae.plan.latents_for(length), SIDE // 8, SIDE // 8)
        noise = comfy.sample.prepare_noise(empty, 0)
        z = comfy.sample.sample(
            model, noise, 2, 2.0, "euler", "normal", text, text, empty, sigmas=sigmas, disable_pbar=True
        )
        vae.decode(z)

    run(32)
    return peak_and_seconds(lambda: run(frames))


def peak_and_seconds(work) -> tuple[int, float]:
    """Bytes by which memory rises at most, and seconds: the median of as many runs as half a minute has room for."""
    times: list[float] = []
    peak = peak_above(lambda: times.append(seconds(work)))
    more = min(4, int(30 / times[0]))
    return peak, statistics.median([seconds(work) for _ in range(more)] or times)


def flatness(name: str, work) -> list[Row]:
    """Peaks of all lengths against the shortest, and the time of a frame."""
    found = {frames: in_own_process(work, frames) for frames in LENGTHS}
    least, how = found[LENGTHS[0]][0], f"{SIDE} x {SIDE}, built-in VAE; above weights and the video itself"
    rows = []
    for frames in LENGTHS[1:]:
        peak = found[frames][0]
        figure = f"{peak / least:.2f} × ({peak / 1e6:.0f} of {least / 1e6:.0f} MB)"
        question = f"{name}: peak of {frames} frames against {LENGTHS[0]}"
        rows.append(Row(question, "≤ 1.05 ×", figure, peak <= 1.05 * least, how))
    for short, long in ((16, 144), (144, 577)):
        slower = (found[long][1] / long) / (found[short][1] / short)
        question = f"{name}: time of a frame, {long} frames against {short}"
        rows.append(Row(question, "≤ 1.05 ×", f"{slower:.2f} ×", slower <= 1.05, "same"))
    return rows


def growth() -> list[Row]:
    """How many times the video is in memory, and how time grows, when all of it is made."""
    found = {frames: in_own_process(whole_run, frames) for frames in WINDOWED}
    (short, quick), (long, slow) = found.values()
    times = (long - short) / (FRAME * (WINDOWED[1] - WINDOWED[0]))
    how = f"from noise to images, two steps in windows of 16 frames; what {WINDOWED[1] - WINDOWED[0]} more frames take"
    linear = slow / WINDOWED[1] / (quick / WINDOWED[0])
    question = "Whole run: time of a frame, {1} frames against {0}".format(*WINDOWED)
    return [
        Row("Whole run: how often the video is in memory", "once", f"{times:.2f} ×", times <= 1.05, how),
        Row(question, "linear", f"{linear:.2f} ×", linear <= 1.05, "same: linear in windows"),
    ]


def main() -> None:
    report(__file__, [*flatness("Decode", decoded), *flatness("Encode", encoded), *growth()])


if __name__ == "__main__":
    main()
