"""What is wrong with a clip or an image."""


class MediaError(OSError):
    """A file that can't be used; the message names it, says why and what to do."""
