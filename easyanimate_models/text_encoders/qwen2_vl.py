"""The text encoder of V5.1: the text tower of Qwen2-VL, out of the host's Llama, with 256 rows of its chat template.

The transformer ignores the mask, so rows of padding are live input and must be as in the original: each is the padding
token, seeing the prompt only, at a position of its own.
"""

import logging
from dataclasses import dataclass
from typing import Any

import comfy.model_management as mm
import comfy.ops
import comfy.text_encoders.llama
import comfy.text_encoders.qwen_image
import torch
from comfy import sd1_clip
from torch import Tensor

from ..files.checkpoint import embed_config
from ..host import quantisation_options
from .prompt import ENCODED_FOR
from .tokens import Row, as_typed, ids_of, too_long

TOKENS = 256
PADDING = 151643
HEAD_DIM = 128
LAYER = -2  # the last but one, without the final norm
BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
NAME = "qwen2_vl"
INDEX, ONE = "index", "one"
PADDING_POSITIONS = (INDEX, ONE)
WORDS = "model.embed_tokens.weight"
TAUGHT = "taught"  # to the tokenizer: whether each token has an embedding, where some have none
TAUGHT_WORDS = "taught_words"  # in the config.json of such a text encoder, and to the tokenizer
FIRST = 8  # tokens, punctuation marks; a text encoder of few words lacks some


class Qwen2VLTokenizer(comfy.text_encoders.qwen_image.Qwen25_7BVLITokenizer):
    """The host's Qwen tokenizer; every prompt, in its template, is 256 tokens: padded or cut at its end.

    The original knows no weights, so brackets are text.
    """

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {})
        self.embedding_directory = embedding_directory
        self.min_length = TOKENS
        self.before, self.after = (len(self.tokenizer(text)["input_ids"]) for text in (BEFORE, AFTER))
        self.taught: Tensor | None = (tokenizer_data or {}).get(TAUGHT)
        self.words: tuple[str, ...] = (tokenizer_data or {}).get(TAUGHT_WORDS, ())

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> list[Row]:
        row = self._row(text, return_word_ids, **kwargs)
        for note in self._notes(row):
            logging.warning("%s", note)
        return [row[:TOKENS]]

    def notes(self, text: str) -> list[str]:
        """What of a prompt does not reach the model, in sentences; nothing when all does."""
        return self._notes(self._row(text))

    def _row(self, text: str, return_word_ids: bool = False, **kwargs) -> Row:
        kwargs["disable_weights"] = True
        return super().tokenize_with_weights(f"{BEFORE}{text}{AFTER}", return_word_ids, **kwargs)[0]

    def _notes(self, row: Row) -> list[str]:
        end, notes = len(row) - self.after, self._unknown_words(row)
        if end > TOKENS:
            lost = self.tokenizer.decode(ids_of(row[TOKENS:end]), skip_special_tokens=True)
            notes.append(too_long(end - self.before, TOKENS - self.before, lost))
        return notes

    def _unknown_words(self, row: Row) -> list[str]:
        """A note on the pieces of a prompt that a small text encoder has no embedding for, if there are any."""
        if self.taught is None:
            return []
        ids = [token for token in ids_of(row) if not self.taught[token]]
        words = dict.fromkeys(self.tokenizer.decode([token]).strip() for token in ids)
        if not (listed := ", ".join(word for word in words if word)):
            return []
        known = f" It knows only: {', '.join(self.words)}." if self.words else ""
        return [f"This text encoder was not taught these words and ignores them: {listed}.{known}"]


class EasyAnimateQwen2VLTokenizer(sd1_clip.SD1Tokenizer):
    """What the host expects the tokenizer of a CLIP to be."""

    clean = staticmethod(as_typed)
    lora_root = f"{NAME}.transformer."

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {}, name=NAME, tokenizer=Qwen2VLTokenizer)

    def notes(self, text: str) -> list[str]:
        """What of a prompt does not reach the model, in sentences."""
        return getattr(self, NAME).notes(text)

    def state_dict(self) -> dict[str, Tensor]:
        """What a file that the host saves must say, since nothing else in it tells Qwen2-VL from Qwen2.5-VL."""
        return embed_config({"model_type": NAME})


@dataclass
class Qwen2VLConfig(comfy.text_encoders.llama.Qwen25_7BVLI_Config):
    """The host's config of Qwen2.5-VL 7B, whose text tower has the same sizes; rotary positions of text are plain."""

    rope_dims = None
    padding_positions: str = INDEX


class Qwen2VLText(comfy.text_encoders.llama.BaseLlama, torch.nn.Module):
    """The text tower alone; the host's own class would build another vision tower too."""

    def __init__(self, config_dict: dict, dtype, device, operations):
        super().__init__()
        self.config = Qwen2VLConfig(**config_dict)
        self.num_layers, self.dtype = self.config.num_hidden_layers, dtype
        self.model = comfy.text_encoders.llama.Llama2_(self.config, device=device, dtype=dtype, ops=operations)

    def forward(self, input_ids, attention_mask: Tensor | None = None, **kwargs):
        """As the host's towers; padding can be put at position 1, as some versions of the original's library do."""
        positions = None
        if attention_mask is not None and self.config.padding_positions == ONE:
            positions = (attention_mask.cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)
        return self.model(input_ids, attention_mask=attention_mask, position_ids=positions, **kwargs)


class Qwen2VLEncoder(sd1_clip.SDClipModel):
    """The host's encoder around the text tower, which gives every row of the last layer but one."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            layer="hidden",
            layer_idx=LAYER,
            textmodel_json_config={},
            dtype=dtype,
            special_tokens={"pad": PADDING},
            layer_norm_hidden_state=False,
            model_class=Qwen2VLText,
            enable_attention_masks=True,
            return_attention_masks=True,
            model_options=model_options or {},
        )


def taught_tokens(words: Tensor) -> Tensor | None:
    """Which tokens have an embedding among `words` `[N, C]`: None for all; those of others are zero."""
    if words[:FIRST].float().any(1).all():
        return None
    return words.float().any(1)


@dataclass(frozen=True)
class Qwen2VLTextEncoder:
    """A text tower of these sizes (by the names in its config.json), to be loaded as the host's CLIP.

    `taught` is of `taught_tokens`, `words` are what its config.json says of it.
    """

    sizes: dict[str, int]
    padding_positions: str = INDEX
    taught: Tensor | None = None
    words: tuple[str, ...] = ()
    name = "Qwen2-VL text encoder"
    precisions = "bf16"  # of its files that every host reads
    ignored = ("visual.", "lm_head.")
    tokenizer = EasyAnimateQwen2VLTokenizer

    @property
    def tokenizer_data(self) -> dict:
        """What the tokenizer is told of the weights."""
        return {} if self.taught is None else {TAUGHT: self.taught, TAUGHT_WORDS: self.words}

    def skeletons(self) -> list[torch.nn.Module]:
        """The text tower without memory behind its weights, to compare a file with."""
        return [Qwen2VLText(self.sizes, torch.float32, "meta", comfy.ops.disable_weight_init)]

    def model_class(self, tensors: dict[str, Tensor]) -> type:
        """What the host's CLIP builds for these weights."""
        stored, quantisation = tensors["model.norm.weight"].dtype, quantisation_options(tensors)

        class EasyAnimateQwen2VL(sd1_clip.SD1ClipModel):
            def __init__(self, device="cpu", dtype=None, model_options=None):
                options = {**(model_options or {}), **quantisation}
                dtype = mm.pick_weight_dtype(stored, dtype, device)
                super().__init__(device, dtype, options, name=NAME, clip_model=Qwen2VLEncoder)

            def encode_token_weights(self, token_weight_pairs) -> tuple[Any, Any, dict]:
                context, pooled, extra = super().encode_token_weights(token_weight_pairs)
                return context, pooled, {**extra, ENCODED_FOR: "V5.1"}

        return EasyAnimateQwen2VL

    def model_options(self) -> dict:
        """What the class is given besides."""
        return {f"{NAME}_model_config": {**self.sizes, "padding_positions": self.padding_positions}}
