"""The one way from text to conditioning: clean it if the text encoder wants that, tokenize, encode, pad, mask."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.model_management as mm
import torch
import torch.nn.functional as F
from torch import Tensor

from .prompt_cleaning import clean_prompt

SHOWN_LETTERS = 8  # of those that are lost
ENCODED_FOR = "easyanimate_text"  # in a CONDITIONING: the release whose way of reading prompts made it
FIRST = "easyanimate_first_text"  # there too, beside a second text: what the first encoder gave with it
SECOND, SECOND_MASK = "conditioning_mt5xl", "attention_mask_mt5xl"  # there too, as the host names what mT5 gives

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
    return _with_mask(context, options.get("attention_mask"))


def second_embeddings_of(conditioning: list) -> TextEmbeddings | None:
    """What the first entry of a CONDITIONING holds of a second text encoder, as V4 and V5 have."""
    options = conditioning[0][1]
    return _with_mask(options[SECOND], options.get(SECOND_MASK)) if SECOND in options else None


def _with_mask(context: Tensor, mask: Tensor | None) -> TextEmbeddings:
    return TextEmbeddings(context, torch.ones(context.shape[:2]) if mask is None else mask.float())


def require_text_of(release: str, conditioning: Mapping[str, Any]) -> None:
    """Raise `ValueError` when a prompt was encoded for another release, or joined by nodes that know one text encoder.

    `conditioning` is what the host hands to `extra_conds`; what other text encoders made says no release.
    """
    read_for, context = conditioning.get(ENCODED_FOR), conditioning.get("cross_attn")
    if read_for is not None and read_for != release:
        raise ValueError(
            f"The prompt was encoded for {read_for}, but this transformer is {release}; choose {release}'s text "
            "encoder and release in Load EasyAnimate Text Encoder."
        )
    mask = conditioning.get("attention_mask")
    if context is not None and mask is not None and SECOND in conditioning and mask.shape[1] != context.shape[1]:
        raise ValueError(
            f"Two prompts were joined, but {release} reads each with two text encoders, and stock nodes join only the "
            "first one's; write them as one prompt."
        )
    first = conditioning.get(FIRST)
    if context is not None and first is not None and context.any() and not _same(context, first):
        raise ValueError(
            f"A node mixed the prompt with another, but {release} reads each with two text encoders, and stock nodes "
            "mix only the first one's; write them as one prompt."
        )


def _same(context: Tensor, first: Tensor) -> bool:
    """Whether `context` is `first`, rounding and another device aside."""
    return context is first or context.shape == first.shape and torch.allclose(context.to(first), first, atol=1e-3)


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
    options = {"attention_mask": mask, **{k: v for k, v in parts[0][0][1].items() if k == ENCODED_FOR}}
    second = [embeddings for part in parts if (embeddings := second_embeddings_of(part)) is not None]
    if second:
        options[SECOND], options[SECOND_MASK] = stacked(second)
        options[FIRST] = context
    return [[context, options]]
