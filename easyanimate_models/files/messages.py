"""What errors say of a value."""

LARGEST, SHOWN = 10**18, 60  # of a number that is written out; letters


def briefly(value: object) -> str:
    """The beginning of what a file says."""
    said = repr(value) if not isinstance(value, int) or abs(value) < LARGEST else "a huge number"
    return said if len(said) <= SHOWN else f"{said[:SHOWN]}..."
