"""The one way from text to conditioning: clean it if the text encoder wants that, tokenize, encode, pad, mask."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import comfy.model_management as mm
import torch
import torch.nn.functional as F
from torch import Tensor

from .prompt_cleaning import clean_prompt

SHOWN_LETTERS = 8  # of those that are lost
ENCODED_FOR = "easyanimate_text"  # in a CONDITIONING: the release whose way of reading prompts made it

Encode = Callable[[Any, list[Any]], list]  # a CLIP and the tokens of each text -> CONDITIONING


class TextEmbeddings(NamedTuple):
    """`context` [B, L, C] and `mask` [B, L], 1 for tokens and 0 for padding."""

    context: Tensor
    mask: Tensor


def encode_prompt(clip, texts: Sequence[str], clean: bool = True, encode: Encode | None = None) -> list:
    """The CONDITIONING of one text, or of several as one entry with a row each.

    `encode` does so for tokens that are not to be encoded by the host alone, such as those of a CLIP in training.
    """
    tokens = [clip.tokenize(cleaned(clip, text) if clean else text) for text in texts]
    return (encode or _by_host)(clip, tokens)


def cleaned(clip, text: str) -> str:
    """`text` as this CLIP wants it; stock T5 encoders are taken for V1 to V3's."""
    return getattr(clip.tokenizer, "clean", clean_prompt)(text)


def lost_text(clip, text: str, clean: bool = True) -> list[str]:
    """What of a prompt does not reach the model, in sentences: other scripts, and what is too long."""
    read = cleaned(clip, text) if clean else text
    notes, lost = [], _letters(text) - _letters(read)
    if lost:
        shown = "".join(sorted(lost)[:SHOWN_LETTERS])
        notes.append(f"Cleaning removed characters that the text encoder can't read ({shown}); write in English.")
    elif text.strip() and not read.strip():
        notes.append("Cleaning left nothing of the prompt; turn clean_text off, or write it differently.")
    return notes + (clip.tokenizer.notes(read) if hasattr(clip.tokenizer, "notes") else [])


def embeddings_of(conditioning: list) -> TextEmbeddings:
    """What the first entry of a CONDITIONING holds; without a mask, all of it counts."""
    context, options = conditioning[0]
    mask = options.get("attention_mask")
    return TextEmbeddings(context, torch.ones(context.shape[:2]) if mask is None else mask.float())


def stacked(rows: Sequence[TextEmbeddings]) -> TextEmbeddings:
    """One after the other; shorter ones are padded with zeros, and masked there."""
    longest = max(row.context.shape[1] for row in rows)
    padding = [longest - row.context.shape[1] for row in rows]
    context = [F.pad(row.context, (0, 0, 0, missing)) for row, missing in zip(rows, padding, strict=True)]
    masks = [F.pad(row.mask, (0, missing)) for row, missing in zip(rows, padding, strict=True)]
    return TextEmbeddings(torch.cat(context), torch.cat(masks))


def _letters(text: str) -> set[str]:
    """Letters of other than the Latin script, in lower case."""
    return {
        letter for letter in text.lower() if letter.isalpha() and not unicodedata.name(letter, "").startswith("LATIN")
    }


def _by_host(clip, tokens: list) -> list:
    parts = []
    for each in tokens:
        mm.throw_exception_if_processing_interrupted()
        parts.append(clip.encode_from_tokens_scheduled(each))
    if len(parts) == 1:
        return parts[0]
    context, mask = stacked([embeddings_of(part) for part in parts])
    return [[context, {"attention_mask": mask}]]
