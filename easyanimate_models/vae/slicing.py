"""How a video is cut into slices for the Slice VAE, in plain ints (paper section 3.2).

A slice of pixel frames is encoded on its own. A slice of latent frames is decoded with a view of the slice
before and after it, so that neighbours agree. Peak memory then depends on the slice, not on the video.
"""

from dataclasses import dataclass

TIME_RATIO = 4  # pixel frames per latent frame
FRAMES_PER_SLICE = 8
LATENTS_PER_SLICE = FRAMES_PER_SLICE // TIME_RATIO


@dataclass(frozen=True)
class EncodeSlice:
    """Pixel frames `[start, stop)` become latent frames `[latent_start, latent_stop)`."""

    start: int
    stop: int
    latent_start: int
    latent_stop: int


@dataclass(frozen=True)
class DecodeSlice:
    """Latent frames `[start, stop)`, seen from `[before, after)`, become pixel frames `[frame_start, frame_stop)`."""

    start: int
    stop: int
    before: int
    after: int
    frame_start: int
    frame_stop: int


def _spans(total: int, step: int) -> list[tuple[int, int]]:
    """An odd total starts with one frame alone (a still image); the rest goes in steps."""
    first = [(0, 1)] if total % 2 else []
    return first + [(i, min(i + step, total)) for i in range(len(first), total, step)]


def plan_encode(frames: int) -> list[EncodeSlice]:
    """The slices that encode `frames` pixel frames."""
    plan, latent = [], 0
    for start, stop in _spans(frames, FRAMES_PER_SLICE):
        latents = -(-(stop - start) // TIME_RATIO)
        plan.append(EncodeSlice(start, stop, latent, latent + latents))
        latent += latents
    return plan


def plan_decode(latents: int) -> list[DecodeSlice]:
    """The slices that decode `latents` latent frames; a lone first latent neither sees nor is seen."""
    plan, frame, lone = [], 0, latents % 2
    for start, stop in _spans(latents, LATENTS_PER_SLICE):
        is_image = stop - start == 1
        before = start if is_image else max(lone, start - LATENTS_PER_SLICE)
        after = stop if is_image else min(latents, stop + LATENTS_PER_SLICE)
        frames = 1 if is_image else TIME_RATIO * (stop - start)
        plan.append(DecodeSlice(start, stop, before, after, frame, frame + frames))
        frame += frames
    return plan


def latents_for(frames: int) -> int:
    """Latent frames that encoding `frames` pixel frames gives."""
    plan = plan_encode(frames)
    return plan[-1].latent_stop if plan else 0


def frames_for(latents: int) -> int:
    """Pixel frames that decoding `latents` latent frames gives."""
    plan = plan_decode(latents)
    return plan[-1].frame_stop if plan else 0
