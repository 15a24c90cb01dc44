"""How errors quote a value."""

MAX_NUMBER, SHOWN = 10**18, 60  # the largest number that is written out; letters of anything


def shorten(value: object) -> str:
    """The beginning of a value's `repr`, short enough for a sentence."""
    text = repr(value) if not isinstance(value, int) or abs(value) < MAX_NUMBER else "a huge number"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
