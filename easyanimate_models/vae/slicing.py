"""How a video is cut for each VAE, in plain ints (paper section 3.2). Peak memory depends on the cut, not on the video.

V3 cuts slices: pixel frames are encoded on their own, latent frames are decoded with a view of the slice before and
after, so that neighbours agree. V2 cuts windows that never see each other, V1 single frames. V5 encodes and decodes one
latent after the other, the network remembering those before; so does V4's decoder with pairs of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

TIME_RATIO = 4  # pixel frames per latent frame
FRAMES_PER_SLICE = 8
LATENTS_PER_SLICE = FRAMES_PER_SLICE // TIME_RATIO
FRAMES_PER_WINDOW, LATENTS_PER_WINDOW = 9, 3


@dataclass(frozen=True)
class EncodeSlice:
    """Pixel frames `[start, stop)` become latent frames `[latent_start, latent_stop)`."""

    start: int
    stop: int
    latent_start: int
    latent_stop: int
    single: bool = False  # whether its first latent stands for a single frame

    def frames_of(self) -> list[range]:
        """The pixel frames that each of its latents stands for; those that are left over belong to the last."""
        count = self.latent_stop - self.latent_start
        first = self.start + (1 if self.single and count > 1 else TIME_RATIO)
        starts = [self.start, *(first + TIME_RATIO * i for i in range(count - 1))]
        return [range(a, b) for a, b in zip(starts, [*starts[1:], self.stop], strict=True)]


@dataclass(frozen=True)
class DecodeSlice:
    """Latent frames `[start, stop)`, seen from `[before, after)`, become pixel frames `[frame_start, frame_stop)`.

    Its first `fade` frames are cross-faded with what is there already; the others replace it by `share`, 1 for all.
    """

    start: int
    stop: int
    before: int
    after: int
    frame_start: int
    frame_stop: int
    fade: int = 0
    share: float = 1.0

    @property
    def frames(self) -> int:
        """Pixel frames that it becomes."""
        return self.frame_stop - self.frame_start

    def shares(self) -> list[float]:
        """How much of what is there already each of its frames replaces."""
        rise = [(i + 0.5) / self.fade for i in range(self.fade)]
        return rise + [self.share] * (self.frames - self.fade)


@dataclass(frozen=True)
class FrameWeights:
    """What each pixel frame is the sum of: a weight for each frame of each slice, and one for what was there before."""

    slices: list[list[float]]
    before: list[float]


def frame_weights(slices: list[DecodeSlice]) -> FrameWeights:
    """The weights that slices end up with when each replaces its share of those before it."""
    left = [1.0] * max((s.frame_stop for s in slices), default=0)
    weights = []
    for s in reversed(slices):
        shares, frames = s.shares(), range(s.frame_start, s.frame_stop)
        weights.append([share * left[i] for share, i in zip(shares, frames, strict=True)])
        for share, i in zip(shares, frames, strict=True):
            left[i] *= 1 - share
    return FrameWeights(weights[::-1], left)


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


def plan_overlapping_decode(latents: int, length: int = LATENTS_PER_SLICE) -> list[DecodeSlice]:
    """Slices of `length` latent frames that share one with the slice before: four pixel frames to cross-fade in.

    That costs two decodes; longer slices cost less, but the network was not taught them and loses half a decibel.
    """
    lone = latents % 2
    plan = plan_decode(latents)[:lone]
    for start in range(lone, max(latents - 1, lone), length - 1):
        stop = min(start + length, latents)
        before, after = max(lone, start - LATENTS_PER_SLICE), min(latents, stop + LATENTS_PER_SLICE)
        first, end = (lone + TIME_RATIO * (i - lone) for i in (start, stop))
        plan.append(DecodeSlice(start, stop, before, after, first, end, TIME_RATIO if start > lone else 0))
    return plan


def plan_window_encode(frames: int) -> list[EncodeSlice]:
    """Windows of 9 frames, the last maybe shorter; the first frame of each is a latent of its own."""
    plan, latent = [], 0
    for start in range(0, frames, FRAMES_PER_WINDOW):
        stop = min(start + FRAMES_PER_WINDOW, frames)
        latents = 1 + (stop - start - 1) // TIME_RATIO
        plan.append(EncodeSlice(start, stop, latent, latent + latents, single=True))
        latent += latents
    return plan


def plan_window_decode(latents: int) -> list[DecodeSlice]:
    """Windows of 3 latents, the last maybe shorter; the first latent of each is a single frame."""
    plan, frame = [], 0
    for start in range(0, latents, LATENTS_PER_WINDOW):
        stop = min(start + LATENTS_PER_WINDOW, latents)
        frames = 1 + TIME_RATIO * (stop - start - 1)
        plan.append(DecodeSlice(start, stop, start, stop, frame, frame + frames))
        frame += frames
    return plan


def plan_frame_encode(frames: int) -> list[EncodeSlice]:
    """Every frame on its own."""
    return [EncodeSlice(i, i + 1, i, i + 1) for i in range(frames)]


def plan_frame_decode(latents: int) -> list[DecodeSlice]:
    """Every frame on its own."""
    return [DecodeSlice(i, i + 1, i, i + 1, i, i + 1) for i in range(latents)]


def plan_causal_encode(frames: int) -> list[EncodeSlice]:
    """The first frame alone, then four at a time; `frames` are 4n + 1."""
    first = [EncodeSlice(0, 1, 0, 1)] if frames else []
    return first + [EncodeSlice(TIME_RATIO * i - 3, TIME_RATIO * i + 1, i, i + 1) for i in range(1, frames // 4 + 1)]


def plan_causal_decode(latents: int) -> list[DecodeSlice]:
    """One latent at a time: the first is one frame, each later one four."""
    first = [DecodeSlice(0, 1, 0, 1, 0, 1)] if latents else []
    rest = ((i, TIME_RATIO * (i - 1) + 1) for i in range(1, latents))
    return first + [DecodeSlice(i, i + 1, i, i + 1, frame, frame + TIME_RATIO) for i, frame in rest]


def plan_pair_decode(latents: int) -> list[DecodeSlice]:
    """Pairs of latents, a last one maybe alone; a video of one latent is one frame."""
    if latents == 1:
        return [DecodeSlice(0, 1, 0, 1, 0, 1)]
    pairs = ((i, min(i + LATENTS_PER_SLICE, latents)) for i in range(0, latents, LATENTS_PER_SLICE))
    return [DecodeSlice(a, b, a, b, TIME_RATIO * a, TIME_RATIO * b) for a, b in pairs]


def all_frames(frames: int) -> int:
    """Every length can be encoded."""
    return frames


def one_and_fours(frames: int) -> int:
    """4n + 1 frames can be encoded."""
    return frames - (frames - 1) % TIME_RATIO if frames else 0


@dataclass(frozen=True)
class TimePlan:
    """How one kind of VAE cuts time: the slices for a count of frames or latents, and the most frames in one.

    `overlapping` are slices for decoding that share frames, where the network allows it. `crop` is how many of so
    many frames can be encoded; `trained_length` is the longest video that the release's transformer was trained on.
    `lone` latents at the start stand for a single frame, outside of all slices. `seamless` are slices that remember
    those before.
    """

    encode: Callable[[int], list[EncodeSlice]]
    decode: Callable[[int], list[DecodeSlice]]
    frames_per_slice: int
    time_ratio: int
    trained_length: int
    overlapping: Callable[[int], list[DecodeSlice]] | None = None
    crop: Callable[[int], int] = all_frames
    lone: int = 0
    seamless: bool = False

    @property
    def unit(self) -> int:
        """Latent frames of a slice, which stay together wherever latents are cut."""
        return self.latents_for(self.frames_per_slice)

    def latents_for(self, frames: int) -> int:
        """Latent frames that encoding `frames` pixel frames gives."""
        slices = self.encode(self.crop(frames))
        return slices[-1].latent_stop if slices else 0

    def frames_of(self, frames: int) -> list[range]:
        """The pixel frames, of so many, that each latent frame stands for."""
        return [span for s in self.encode(self.crop(frames)) for span in s.frames_of()]

    def frames_for(self, latents: int) -> int:
        """Pixel frames that decoding `latents` latent frames gives."""
        slices = self.decode(latents)
        return slices[-1].frame_stop if slices else 0


FRAMES = TimePlan(plan_frame_encode, plan_frame_decode, frames_per_slice=1, time_ratio=1, trained_length=80)  # V1
WINDOWS = TimePlan(plan_window_encode, plan_window_decode, FRAMES_PER_WINDOW, TIME_RATIO, trained_length=144)  # V2
SLICES = TimePlan(plan_encode, plan_decode, FRAMES_PER_SLICE, TIME_RATIO, 144, plan_overlapping_decode)  # V3
PAIRS = TimePlan(plan_encode, plan_pair_decode, FRAMES_PER_SLICE, TIME_RATIO, 144, seamless=True)  # V4
CAUSAL = TimePlan(  # V5, V5.1
    plan_causal_encode, plan_causal_decode, TIME_RATIO, TIME_RATIO, 49, crop=one_and_fours, lone=1, seamless=True
)

latents_for, frames_for = SLICES.latents_for, SLICES.frames_for
