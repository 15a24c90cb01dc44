"""Pickles that run code when they are opened as any object, which our readers must never do."""

import io

import torch


class Call:
    """Unpickled, it calls `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(content, **options) -> bytes:
    """What `torch.save` writes."""
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()
