"""A video far longer than a window: does what it shows stay the same, in the memory of one window?"""

import math

import comfy.sample
import torch

from easyanimate_models.files.model_files import TINY
from easyanimate_models.sampling.long_video import in_windows
from easyanimate_models.sampling.schedules import release_sigmas
from easyanimate_models.sd import load_text_encoder, load_transformer, load_vae
from easyanimate_models.training.toy.judging import classify
from easyanimate_models.training.toy.shapes import FRAMES, SIZE
from easyanimate_models.vae.slicing import SLICES
from easyanimate_models.vae.video_sizes import latent_size, window_size

from .measure import Row, in_own_process, peak_above, report, seconds

PROMPT, COLOUR, SHAPE = "a red ball stays still on a black background", "red", "circle"
LENGTH, OVERLAP, STEPS = 577, 16, 25


@torch.no_grad()
def made(frames: int) -> tuple[list[tuple[str, str]], int, float]:
    """Colour and shape of every 24 frames, bytes above the weights, and seconds."""
    model, clip, vae = load_transformer(TINY), load_text_encoder(TINY), load_vae(TINY)
    model = in_windows(model, FRAMES, OVERLAP, SLICES)
    sigmas = release_sigmas(model, "euler", STEPS)
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PROMPT, ""))
    empty = torch.zeros(1, 4, *latent_size(SIZE, SIZE, frames))
    noise = comfy.sample.prepare_noise(empty, 0)
    latents: list[torch.Tensor] = []

    def sample() -> None:
        conditioning = STEPS, 2.0, "euler", "normal", positive, negative, empty
        latents.append(comfy.sample.sample(model, noise, *conditioning, sigmas=sigmas, disable_pbar=True))

    times: list[float] = []
    peak = peak_above(lambda: times.append(seconds(sample)))
    video = vae.decode(latents[0], seams="overlap")[0]
    judged = [classify(part) for part in video.split(FRAMES) if len(part) == FRAMES]
    return [(s.colour, s.shape) for s in judged], peak, times[0]


def windows(frames: int) -> int:
    """How many windows that many frames take."""
    window, shared = window_size(FRAMES, OVERLAP, SLICES)
    return 1 + math.ceil((SLICES.latents_for(frames) - window) / (window - shared))


def main() -> None:
    judged, long_peak, long = in_own_process(made, LENGTH)
    _, short_peak, short = in_own_process(made, 2 * FRAMES)
    colour, shape = (sum(part[i] == expected for part in judged) for i, expected in enumerate((COLOUR, SHAPE)))
    how = f"{PROMPT!r}, windows of {FRAMES} frames that share {OVERLAP}, looked at in parts of {FRAMES} frames"
    more = (long_peak - short_peak) / 1e6
    per_window = long / windows(LENGTH) / (short / windows(2 * FRAMES))
    parts = len(judged)
    rows = [
        Row(f"{LENGTH} frames: parts in the right colour", "all", f"{colour} of {parts}", colour == parts, how),
        Row(f"{LENGTH} frames: parts in the right shape", "all", f"{shape} of {parts}", shape == parts, "same"),
        Row(f"Sampling memory, {LENGTH} frames beyond {2 * FRAMES}", "that of latents", f"{more:.1f} MB", None, "same"),
        Row(
            f"Sampling: time of a window, {windows(LENGTH)} windows against {windows(2 * FRAMES)}",
            "linear",
            f"{per_window:.2f} ×",
            per_window <= 1.05,
            "same; every window adds to the whole latent",
        ),
    ]
    report(__file__, rows)


if __name__ == "__main__":
    main()
