"""A vision-language model of a few thousand random weights, run by the real code of `transformers`."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:"]
WORDS = [*SPECIAL, *(f"word{i}" for i in range(50))]
PARTS = (
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
)
CONTENT = "{% if m['content'] is string %}{{ m['content'] }} {% else %}" + PARTS + "{% endif %}"
CHAT = "{% for m in messages %}USER: " + CONTENT + "{% endfor %}ASSISTANT:"
SIDE, PATCH = 28, 14


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LANGUAGE = LlamaConfig(vocab_size=len(WORDS), num_hidden_layers=1, num_key_value_heads=2, **SMALL, **ENDS)


def write_captioner(folder: Path) -> Path:
    """Save a vision-language model as `transformers` does; returns the folder."""
    torch.manual_seed(0)
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(**sizes),
        tokenizer=_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(num_hidden_layers=2, image_size=SIDE, patch_size=PATCH, projection_dim=16, **SMALL)
    at = WORDS.index("<image>")
    config = LlavaConfig(vision_config=vision, text_config=LANGUAGE, image_token_index=at, image_token_id=at)
    _save(LlavaForConditionalGeneration(config), folder)
    processor.save_pretrained(folder)
    return folder


def write_writer(folder: Path) -> Path:
    """Save a language model; returns the folder."""
    torch.manual_seed(1)
    _save(LlamaForCausalLM(LANGUAGE), folder)
    tokenizer = _tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, additional_special_tokens=["<image>"], **special)


def _save(model, folder: Path) -> None:
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
