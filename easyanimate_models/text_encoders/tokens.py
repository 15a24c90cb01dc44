"""Rows of tokens: what all text encoders say of a prompt, and how they cut it."""

from typing import Any

Row = list[tuple[Any, ...]]  # of the host: (id or embedding, weight), and the number of the word where asked for


def ids_of(row: Row) -> list[int]:
    """The ids of a row, without what textual inversion put between them."""
    return [token for token, *_ in row if isinstance(token, int)]


def too_long(tokens: int, limit: int, lost: str) -> str:
    """What is said of a prompt that does not fit."""
    return f"The prompt is {tokens} tokens long and the model reads {limit}; these words are dropped: {lost.strip()}"


def as_typed(text: str) -> str:
    """What text encoders read that were trained on prompts as they are."""
    return text
