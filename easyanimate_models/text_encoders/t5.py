"""The T5 text encoder of V1 to V3: the host's T5 with 120 tokens, padded and masked."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import comfy.model_management as mm
import comfy.ops
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.t5
import torch
from comfy import sd1_clip

from ..host import t5_options
from .prompt_cleaning import clean_prompt
from .tokens import ids_of, too_long

TOKENS = 120
END, UNKNOWN = 1, 2
XXL_CONFIG = Path(comfy.text_encoders.sd3_clip.__file__).with_name("t5_config_xxl.json")


class T5Tokenizer(comfy.text_encoders.sd3_clip.T5XXLTokenizer):
    """The host's T5 tokenizer; every prompt is 120 tokens: cut with `</s>` kept, or padded."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {}, min_length=TOKENS)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs):
        row = super().tokenize_with_weights(text, return_word_ids, **kwargs)[0]
        for note in self._notes(row):
            logging.warning("%s", note)
        if len(row) > TOKENS:
            end = next(token for token in row if token[0] == END)
            row = [*row[: TOKENS - 1], end]
        return [row]

    def notes(self, text: str) -> list[str]:
        """What of a prompt does not reach the model, in sentences; nothing when all does."""
        return self._notes(super().tokenize_with_weights(text)[0])

    def _notes(self, row: list) -> list[str]:
        found, tokens = [], ids_of(row)
        if unknown := tokens.count(UNKNOWN):
            found.append(f"The text encoder does not know {unknown} parts of the prompt; write it in English.")
        if len(row) > TOKENS:
            lost = self.tokenizer.decode(tokens[TOKENS - 1 :], skip_special_tokens=True)
            found.append(too_long(len(row), TOKENS, lost))
        return found


class EasyAnimateTokenizer(sd1_clip.SD1Tokenizer):
    """What the host expects the tokenizer of a CLIP to be; it says how prompts are cleaned for it."""

    clean = staticmethod(clean_prompt)
    lora_root = "t5xxl.transformer."  # of the weights that a LoRA for the text encoder names

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(embedding_directory, tokenizer_data or {}, clip_name="t5xxl", tokenizer=T5Tokenizer)

    def notes(self, text: str) -> list[str]:
        """What of a prompt does not reach the model, in sentences."""
        return getattr(self, self.clip).notes(text)


class T5Encoder(comfy.text_encoders.sd3_clip.T5XXLModel):
    """The host's T5, given the attention mask and handing it on for cross-attention.

    Padding comes out as zeros, by which it is known when stock nodes join or mix prompts and their masks don't follow.
    """

    def __init__(self, **kwargs):
        super().__init__(attention_mask=True, **kwargs)
        self.zero_out_masked = True


@dataclass(frozen=True)
class T5TextEncoder:
    """A T5 v1.1 encoder of these sizes (by the names in its config.json), to be loaded as the host's CLIP."""

    sizes: dict[str, int]
    tokenizer_data: dict = field(default_factory=dict)
    name = "T5 text encoder"
    precisions = "fp16 or fp8"  # of its files that every host reads
    ignored = ()
    tokenizer = EasyAnimateTokenizer

    def skeletons(self) -> list[torch.nn.Module]:
        """The host's T5 without memory behind its weights, to compare a file with."""
        config = {**json.loads(XXL_CONFIG.read_text(encoding="utf-8")), **self.sizes}
        return [comfy.text_encoders.t5.T5(config, torch.float32, "meta", comfy.ops.disable_weight_init)]

    def model_class(self, tensors: dict[str, torch.Tensor]) -> type:
        """What the host's CLIP builds for these weights."""
        detected = comfy.text_encoders.sd3_clip.t5_xxl_detect(tensors)

        class EasyAnimateT5(sd1_clip.SD1ClipModel):
            def __init__(self, device="cpu", dtype=None, model_options=None):
                options = {**(model_options or {}), **t5_options(detected)}
                dtype = mm.pick_weight_dtype(detected.get("dtype_t5"), dtype, device)  # fp32 needn't fill memory
                super().__init__(device=device, dtype=dtype, name="t5xxl", clip_model=T5Encoder, model_options=options)

        return EasyAnimateT5

    def model_options(self) -> dict:
        """What the class is given besides."""
        return {"t5xxl_model_config": self.sizes}
