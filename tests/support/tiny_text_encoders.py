"""Text encoders of V4 to V5.1 as small as their tokenizers allow, with random weights, and the folders they come in."""

import io
import json
from pathlib import Path

import comfy.ops
import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

from .pack import part
from .tiny_networks import random

bert_mt5 = part("easyanimate_models.text_encoders.bert_mt5")
qwen2_vl = part("easyanimate_models.text_encoders.qwen2_vl")
QWEN = {
    "vocab_size": 151657,
    "hidden_size": 16,
    "intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
QWEN_7B = {  # as published
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
SENTENCES = ["a red ball moves left", "the small fox runs", "一只熊猫在竹林里", "A (red:1.4) [ball] moves, of it."]
BERT = {
    "hidden_size": 64,
    "intermediate_size": 16,
    "max_position_embeddings": 512,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "type_vocab_size": 2,
    "vocab_size": 47020,
}
MT5 = {"num_layers": 1, "num_heads": 2, "d_model": 16, "d_kv": 8, "d_ff": 16, "vocab_size": 300}
OF_TRANSFORMER = {"V4": {"cross_attention_dim_t5": 16}, "V5": {"text_embed_dim_t5": 16}}  # in its config.json
META = (torch.float32, "meta", comfy.ops.disable_weight_init)


def qwen(words: int = QWEN["vocab_size"]) -> dict[str, Tensor]:
    """Qwen2-VL's text tower of so many words, with a bit of its vision tower and its head, which nobody needs."""
    beside = {"visual.patch_embed.proj.weight": random(4, 4), "lm_head.weight": random(4, 4)}
    return {**_weights(qwen2_vl.Qwen2VLText({**QWEN, "vocab_size": words}, *META)), **beside}


def write_qwen(folder: Path, config: bool = True) -> Path:
    """V5.1's release folder with nothing but a text encoder; returns it."""
    _write(folder / "text_encoder", qwen(), {"model_type": "qwen2_vl", **QWEN} if config else None)
    return folder


def bert_and_mt5(words: int = BERT["vocab_size"]) -> list[dict[str, Tensor]]:
    """V4's and V5's text encoders as the releases name their weights, BERT's with the pooler that nobody needs."""
    pair = bert_mt5.BertMT5TextEncoder({**BERT, "vocab_size": words}, MT5, bert_mt5.RULES["V5"], torch.empty(0))
    bert, mt5 = map(_weights, pair.skeletons())
    bert = {key.removeprefix("bert."): weight for key, weight in bert.items()}
    return [{**bert, "pooler.dense.weight": random(64, 64), "pooler.dense.bias": random(64)}, mt5]


def write_bert_and_mt5(folder: Path, release: str) -> Path:
    """V4's or V5's release folder with both text encoders, their tokenizer, and the transformer's config.json."""
    for name, weights, sizes in zip(("text_encoder", "text_encoder_2"), bert_and_mt5(), (BERT, MT5), strict=True):
        _write(folder / name, weights, sizes)
    for name in ("tokenizer_2", "transformer"):
        (folder / name).mkdir()
    (folder / "tokenizer_2" / "spiece.model").write_bytes(spiece(MT5["vocab_size"]))
    (folder / "transformer" / "config.json").write_text(json.dumps(OF_TRANSFORMER[release]))
    return folder


def spiece(words: int = 300) -> bytes:
    """A SentencePiece model like mT5's, of at most so many pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=words,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    )
    return model.getvalue()


def _weights(skeleton: torch.nn.Module) -> dict[str, Tensor]:
    """Random weights in float16, with norms near one."""
    weights = {}
    for seed, (name, weight) in enumerate(skeleton.state_dict().items()):
        values = random(*weight.shape, seed=seed)
        norm = weight.ndim == 1 and name.endswith("weight")
        weights[name] = (1 + 0.1 * values if norm else values / weight.shape[-1] ** 0.5).half()
    return weights


def _write(folder: Path, weights: dict[str, Tensor], config: dict | None) -> None:
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
