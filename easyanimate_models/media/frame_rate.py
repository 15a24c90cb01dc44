"""The frame rate at which a model learns, and what of a clip's own rate is close enough."""

MIN_FPS, MAX_FPS = 1, 240
SAME_RATE = 0.005  # by how much a rate may differ: 23.976 is 24


def require_frame_rate(fps: float) -> None:
    """Raise `ValueError` unless clips can be resampled to `fps`; 0 leaves each at its own rate."""
    if fps and not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(f"fps is {fps}; set it to the frames per second of the model, or to 0 to resample none.")


def is_same_rate(fps: float, other: float) -> bool:
    """Whether two rates are the same, or nearly so."""
    return abs(fps / other - 1) < SAME_RATE
