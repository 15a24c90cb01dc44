"""Low-rank adapters on T5 (V1 to V3) or BERT (V4, V5), so that a LoRA can teach new words.

Texts are encoded again in every step. Of V4's and V5's two text encoders BERT alone learns, as in the original.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from comfy.text_encoders.t5 import T5LayerNorm
from torch import Tensor, nn

from ...lora import T5
from ...text_encoders.bert_mt5 import BERT, MT5, BertMT5Encoder, BertMT5Tokenizer
from ...text_encoders.prompt import ENCODED_FOR, FIRST, SECOND, SECOND_MASK, encode_prompt
from ...text_encoders.t5 import T5Encoder
from ..clips.latent_cache import text_tensors
from ..samples import PreviewInputs, conditioning
from .lora import LoraSettings, LowRank

BERT_ROOT = BertMT5Tokenizer.lora_root


class TrainableTextEncoder:
    """A CLIP of the host with adapters in the attention and feed-forward layers of T5 or BERT, which gradients reach.

    Raises `ValueError` for other text encoders.
    """

    def __init__(self, clip, settings: LoraSettings):
        blocks, self.encode = _kind_of(clip.cond_stage_model)
        self.clip, self.adapters = clip.clone(), nn.ModuleDict()
        for name, module in clip.cond_stage_model.named_modules():
            if isinstance(module, nn.Linear) and name.startswith(blocks):
                adapter = LowRank(module.weight.shape, settings, getattr(module, "scale_weight", None))
                self.adapters[name.replace(".", "/")] = adapter
                self.clip.patcher.add_weight_wrapper(f"{name}.weight", adapter)

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """The texts as a `Batch` names them, a row each; the host must have loaded the CLIP."""
        return text_tensors(encode_prompt(self.clip, texts, encode=self.encode))

    def encode_prompts(self, inputs: PreviewInputs) -> tuple[list[list], list]:
        """Positive and negative conditioning of previews, encoded with the adapters as they are now."""
        settings, extra = inputs.settings, inputs.positives[0][0][1]
        positives = [conditioning(self.clip, [prompt], extra) for prompt in settings.all_prompts]
        return positives, conditioning(self.clip, [settings.negative], inputs.negative[0][1])


class _Kind(NamedTuple):
    """What of a text encoder learns, layers whose names begin with `blocks`, and its `encode` for `encode_prompt`."""

    blocks: str
    encode: Callable[[Any, list], list]


def require_trainable(clip) -> None:
    """Raise `ValueError` where `TrainableTextEncoder` would."""
    _kind_of(clip.cond_stage_model)


def _kind_of(model) -> _Kind:
    if isinstance(getattr(model, "t5xxl", None), T5Encoder):
        return _Kind(f"{T5}encoder.block.", _encode_t5)
    if isinstance(model, BertMT5Encoder):
        return _Kind(f"{BERT_ROOT}encoder.layer.", _encode_bert_and_mt5)
    raise ValueError(
        "This text encoder can't be trained; load T5, or BERT and mT5, with Load EasyAnimate Text Encoder, or turn "
        "the training of the text encoder off."
    )


def _encode_t5(clip, tokens: list) -> list:
    """The conditioning of several texts at once, a row each; the host's own way leaves no gradients."""
    t5 = clip.cond_stage_model.t5xxl
    _prepare(t5, clip)
    with _inputs_of_norms_kept(t5):
        context, _, extra = t5.encode(_rows(tokens, "t5xxl"))
    return [[context, {"attention_mask": extra["attention_mask"]}]]


def _encode_bert_and_mt5(clip, tokens: list) -> list:
    """The same by BERT, and by mT5, which stays as it is."""
    model = clip.cond_stage_model
    _prepare(model, clip)
    bert, mt5 = model.encoders
    context, _, extra = bert.encode(_rows(tokens, BERT))
    with torch.no_grad():
        second, _, more = mt5.encode(_rows(tokens, MT5))
    masks = {"attention_mask": extra["attention_mask"], SECOND_MASK: more["attention_mask"]}
    return [[context, {**masks, FIRST: context, SECOND: second, ENCODED_FOR: model.rules.release}]]


def _prepare(encoder, clip) -> None:
    encoder.reset_clip_options()
    encoder.set_clip_options({"execution_device": clip.patcher.load_device})


def _rows(tokens: list, name: str) -> list[list]:
    """The tokens of each text for the encoder of this name."""
    return [[token for token, *_ in each[name][0]] for each in tokens]


@contextmanager
def _inputs_of_norms_kept(network: nn.Module) -> Iterator[None]:
    """The host adds in place to the inputs of norms, which their gradients need unchanged: give them copies."""
    norms = [module for module in network.modules() if isinstance(module, T5LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, args: (args[0].clone(),)) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
