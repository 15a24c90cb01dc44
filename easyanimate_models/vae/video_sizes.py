"""Frame and size arithmetic, in plain ints."""

from dataclasses import dataclass

from .slicing import SLICES, TimePlan

SIDE_STEP = 16  # 8 of the VAE times 2 of the patch
LENGTH_STEP = 8  # frames of a slice (V3)


@dataclass(frozen=True)
class VideoDefaults:
    """The video that a model makes when nobody says: size in pixels, length in frames, frames per second."""

    width: int = 672
    height: int = 384
    length: int = 72
    fps: float = 24.0


def latent_size(width: int, height: int, length: int, plan: TimePlan = SLICES) -> tuple[int, int, int]:
    """(latent frames, rows, columns) for a video of `length` frames, sizes in pixels, cut by a VAE's `plan`.

    Raises `ValueError` for sizes that no video has.
    """
    if length < 1:
        raise ValueError(f"A video needs at least 1 frame, not {length}; set length to 1 or more.")
    if width < SIDE_STEP or height < SIDE_STEP:
        raise ValueError(f"{width} x {height} is too small; width and height must be at least {SIDE_STEP}.")
    return plan.latents_for(length), height // SIDE_STEP * 2, width // SIDE_STEP * 2


def decoded_length(length: int, plan: TimePlan = SLICES) -> int:
    """How many frames come out when `length` are asked for. The same, for these lengths:

    V1 any; V2 1, 9n and what leaves 1 or 5 over; V3 1, 8n and 8n + 1; V4 1 and 8n; V5 and V5.1 4n + 1.
    """
    return plan.frames_for(plan.latents_for(length))


def length_note(frames: int, plan: TimePlan = SLICES) -> str | None:
    """What becomes of a clip of so many frames, in a sentence, unless it comes out of a VAE as long as it went in."""
    encoded, decoded = plan.crop(frames), decoded_length(frames, plan)
    if encoded < frames:
        return f"This VAE takes 4n + 1 frames: the first {encoded} of {frames} are encoded."
    if decoded != frames:
        return f"This VAE does not keep a length of {frames} frames: {decoded} will be decoded."
    return None


def shortest_video(plan: TimePlan = SLICES) -> int:
    """The smallest length that comes out as more than one frame."""
    return next(length for length in range(2, plan.frames_per_slice + 2) if decoded_length(length, plan) > 1)


def window_size(length: int, overlap: int, plan: TimePlan = SLICES) -> tuple[int, int]:
    """(length, overlap) of sampling windows in latent frames, whole slices each, for these numbers of frames.

    Raises `ValueError` when the overlap leaves no way forward.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"Windows of {length} frames can't overlap by {overlap}; make the overlap smaller.")
    slices = max(1, (length - plan.lone) // plan.frames_per_slice)
    shared = min(-(-overlap // plan.frames_per_slice), slices - 1)
    return plan.lone + slices * plan.unit, shared * plan.unit


@dataclass(frozen=True)
class ClipLengths:
    """The lengths that clips are trained in: `lone + n * step` frames, and single images."""

    step: int = LENGTH_STEP
    lone: int = 0

    @property
    def least(self) -> int:
        """The shortest clip."""
        return self.lone + self.step

    def longest(self, frames: int) -> int:
        """The longest clip in so many frames, 0 for none."""
        return frames - (frames - self.lone) % self.step if frames >= self.least else 0

    def below(self, frames: int) -> range:
        """All lengths shorter than that."""
        return range(self.least, frames, self.step)


SLICE_LENGTHS = ClipLengths()  # V1 to V4


def clip_lengths(plan: TimePlan) -> ClipLengths:
    """The lengths of clips whose time a VAE's `plan` cuts: 8n, or 4n + 1 of V5 and V5.1."""
    return ClipLengths(plan.frames_per_slice, plan.lone) if plan.lone else SLICE_LENGTHS
