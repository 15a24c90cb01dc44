"""The text encoders of V4 and V5: BERT and mT5-XL, the host's own, one prompt through both.

Both releases have the same weights. V4 hides padding from the encoders and cuts mT5's text; V5 lets padding take part.
"""

import json
import logging
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.model_management as mm
import comfy.ops
import comfy.text_encoders.bert
import comfy.text_encoders.hydit
import comfy.text_encoders.t5
import torch
from torch import Tensor

from ..files.checkpoint import embed_config
from ..host import quantisation_options
from .prompt import ENCODED_FOR, FIRST, SECOND, SECOND_MASK
from .tokens import Row, as_typed, ids_of, too_long

BERT_TOKENS, MT5_TOKENS = 77, 256
BERT, MT5 = "hydit_clip", "mt5xl"  # the host's names, by which its CLIPSave writes a file for each
SPIECE = "spiece_model"
SPECIAL = (0, 1, 2)  # padding, end and unknown of mT5
FIXED = {
    name: Path(comfy.text_encoders.hydit.__file__).with_name(file)
    for name, file in ((BERT, "hydit_clip.json"), (MT5, "mt5_config_xl.json"))
}


@dataclass(frozen=True)
class PromptRules:
    """How a release reads prompts: whether padding is hidden from the encoders, and mT5's pieces that count."""

    release: str
    masked: bool
    pieces: int | None = None


RULES = {
    rules.release: rules for rules in (PromptRules("V4", masked=True, pieces=140), PromptRules("V5", masked=False))
}


class BertTokenizer(comfy.text_encoders.hydit.HyditBertTokenizer):
    """The host's BERT tokenizer; every prompt is 77 tokens: cut with `[SEP]` kept, or padded. Brackets are text."""

    def __init__(self):
        super().__init__()
        self.tokenizer.model_max_length = sys.maxsize  # else its library warns of what is cut here

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> list[Row]:
        row = self._row(text, return_word_ids, **kwargs)
        return [row if len(row) <= BERT_TOKENS else [*row[: BERT_TOKENS - 1], row[-1]]]

    def notes(self, text: str) -> list[str]:
        """What of a prompt only mT5 reads."""
        row = self._row(text)
        if len(row) <= BERT_TOKENS:
            return []
        lost = self.tokenizer.decode(ids_of(row[BERT_TOKENS - 1 : -1]))
        return [f"BERT reads {BERT_TOKENS} tokens of the prompt's {len(row)}; only mT5 reads these words: {lost}"]

    def _row(self, text: str, return_word_ids: bool = False, **kwargs) -> Row:
        return super().tokenize_with_weights(text, return_word_ids, **{**kwargs, "disable_weights": True})[0]


class MT5Tokenizer(comfy.text_encoders.hydit.MT5XLTokenizer):
    """The host's mT5 tokenizer; every prompt is 256 tokens: cut with `</s>` kept, or padded. Brackets are text."""

    def __init__(self, rules: PromptRules, tokenizer_data: dict):
        super().__init__(tokenizer_data=tokenizer_data)
        self.rules = rules

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> list[Row]:
        row = self._row(text)
        if self.rules.pieces:
            text = self._text_of(row[: self.rules.pieces])
        row = self._row(text, return_word_ids, **kwargs)
        return [row if len(row) <= MT5_TOKENS else [*row[: MT5_TOKENS - 1], row[-1]]]

    def notes(self, text: str) -> list[str]:
        """What of a prompt does not reach the model, in sentences; nothing when all does."""
        row, found = self._row(text), []
        if unknown := ids_of(row).count(SPECIAL[2]):
            found.append(f"mT5 does not know {unknown} parts of the prompt; write them in another way.")
        limit = (self.rules.pieces or MT5_TOKENS - 1) + 1
        tokens = len([token for token in ids_of(row) if token != SPECIAL[0]])
        if tokens > limit:
            found.append(too_long(tokens, limit, self._text_of(row[limit - 1 :])))
        return found

    def _text_of(self, row: Row) -> str:
        """What tokens say; unknown parts are left out."""
        return self.tokenizer.tokenizer.decode([token for token in ids_of(row) if token not in SPECIAL])

    def _row(self, text: str, return_word_ids: bool = False, **kwargs) -> Row:
        return super().tokenize_with_weights(text, return_word_ids, **{**kwargs, "disable_weights": True})[0]


class BertMT5Tokenizer(comfy.text_encoders.hydit.HyditTokenizer):
    """What the host expects the tokenizer of a CLIP to be: a row of tokens for BERT, and one for mT5."""

    clean = staticmethod(as_typed)
    lora_root = f"{BERT}.transformer.bert."  # of the weights that a LoRA for the text encoder names

    def __init__(self, rules: PromptRules, embedding_directory=None, tokenizer_data=None):
        self.rules = rules
        self.hydit_clip = BertTokenizer()
        self.mt5xl = MT5Tokenizer(rules, tokenizer_data or {})

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict[str, list[Row]]:
        for note in self.notes(text):
            logging.warning("%s", note)
        return super().tokenize_with_weights(text, return_word_ids, **kwargs)

    def notes(self, text: str) -> list[str]:
        """What of a prompt does not reach the model, in sentences."""
        return self.hydit_clip.notes(text) + self.mt5xl.notes(text)

    def state_dict(self) -> dict[str, Tensor]:
        """mT5's vocabulary and the release go into the files that the host saves."""
        config = embed_config({ENCODED_FOR: self.rules.release})
        return {f"{MT5}.{name}": tensor for name, tensor in {**self.mt5xl.state_dict(), **config}.items()}


class BertMT5Encoder(torch.nn.Module):
    """The host's two encoders; `options` are what each is given beside the sizes, `dtypes` those of their files."""

    def __init__(
        self, rules: PromptRules, dtypes: list, options: list[dict], device="cpu", dtype=None, model_options=None
    ):
        super().__init__()
        self.rules, self.dtypes = rules, set()
        kinds = comfy.text_encoders.hydit.HyditBertModel, comfy.text_encoders.hydit.MT5XLModel
        for name, kind, stored, more in zip((BERT, MT5), kinds, dtypes, options, strict=True):
            used = mm.pick_weight_dtype(stored, dtype, device)
            encoder = kind(device=device, dtype=used, model_options={**(model_options or {}), **more})
            encoder.enable_attention_masks = rules.masked
            self.add_module(name, encoder)
            self.dtypes.add(used)

    @property
    def encoders(self) -> list:
        """BERT's and mT5's."""
        return [getattr(self, name) for name in (BERT, MT5)]

    def encode_token_weights(self, token_weight_pairs: dict[str, list[Row]]):
        """BERT's embeddings `[1, 77, C]`, no pooled ones, and what else CONDITIONING holds: mT5's `[1, 256, C2]`."""
        (bert, _, extra), (mt5, _, second) = (
            encoder.encode_token_weights(token_weight_pairs[name])
            for name, encoder in zip((BERT, MT5), self.encoders, strict=True)
        )
        masks = {"attention_mask": extra["attention_mask"], SECOND_MASK: second["attention_mask"]}
        return bert, None, {**masks, FIRST: bert, SECOND: mt5, ENCODED_FOR: self.rules.release}

    def load_sd(self, sd: dict[str, Tensor]):
        """Either's weights."""
        return self.encoders[not any(key.startswith("bert.") for key in sd)].load_sd(sd)

    def set_clip_options(self, options: dict) -> None:
        for encoder in self.encoders:
            encoder.set_clip_options(options)

    def reset_clip_options(self) -> None:
        for encoder in self.encoders:
            encoder.reset_clip_options()


@dataclass(frozen=True)
class BertMT5TextEncoder:
    """BERT and mT5 of these sizes (by the names in their config.json), to be loaded as one CLIP of the host.

    `spiece` is mT5's vocabulary, the bytes of its SentencePiece model.
    """

    bert: dict[str, int]
    mt5: dict[str, int]
    rules: PromptRules
    spiece: Tensor
    name = "BERT and mT5 text encoder"
    precisions = "fp16"  # of its files that every host reads
    ignored = ("pooler.", "cls.", "position_ids", SPIECE)

    @property
    def tokenizer(self) -> partial:
        """What the host makes the tokenizer with."""
        return partial(BertMT5Tokenizer, self.rules)

    @property
    def tokenizer_data(self) -> dict:
        """What the tokenizer is given."""
        return {SPIECE: self.spiece}

    def skeletons(self) -> list[torch.nn.Module]:
        """Both without memory behind their weights, to compare files with."""
        kinds = comfy.text_encoders.bert.BertModel, comfy.text_encoders.t5.T5
        sizes = ({**json.loads(FIXED[name].read_text(encoding="utf-8")), **s} for name, s in self._sizes().items())
        fixed = (torch.float32, "meta", comfy.ops.disable_weight_init)
        return [kind(config, *fixed) for kind, config in zip(kinds, sizes, strict=True)]

    def model_class(self, bert: dict[str, Tensor], mt5: dict[str, Tensor]) -> partial:
        """What the host's CLIP builds for these weights."""
        dtypes = [bert["bert.embeddings.LayerNorm.weight"].dtype, mt5["encoder.final_layer_norm.weight"].dtype]
        return partial(BertMT5Encoder, self.rules, dtypes, [quantisation_options(each) for each in (bert, mt5)])

    def model_options(self) -> dict:
        """What that is given besides."""
        return {f"{name}_model_config": sizes for name, sizes in self._sizes().items()}

    def _sizes(self) -> dict[str, dict[str, int]]:
        return {BERT: self.bert, MT5: self.mt5}
