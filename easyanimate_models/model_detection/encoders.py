"""Encoders of text and images, and ControlNets: the config of each by its tensors."""

import logging
from dataclasses import replace
from typing import NoReturn

import torch
from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer
from torch import Tensor

from ..dit.controlnet import ControlNetConfig
from ..files.checkpoint import Checkpoint, CheckpointError, describe, number_in, shape_of
from ..files.messages import shorten
from ..text_encoders.bert_mt5 import RULES, SPIECE, BertMT5TextEncoder, PromptRules
from ..text_encoders.prompt import ENCODED_FOR
from ..text_encoders.qwen2_vl import HEAD_DIM, WORDS, Qwen2VLTextEncoder
from ..text_encoders.t5 import T5TextEncoder
from .motion_dit import RELEASED_HEADS
from .probes import HEADS, Detector, count, require_claim, require_division

STABLE_DIFFUSION_CONTROL = ("zero_convs.", "controlnet_cond_embedding.", "input_hint_block.", "controlnet_down_blocks.")
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")  # of CLIP, that the host has
CLIP_EXTRAS = ("logit_scale", "text_projection", "text_projection.weight")  # beside the weights of either half
TEXT_HALF = "text_model."
T5_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
T5_GATED = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
T5_WORDS, T5_WORDS_TWICE = "shared.weight", "encoder.embed_tokens.weight"
MT5_WORDS = 250_000  # at least; T5 v1.1 has 32128
BERT_WORDS, BERT_QUERY = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight"
BERT_HEAD_DIM = 64
OF_V4 = "cross_attention_dim_t5"  # in the config.json of V4's transformer alone
QWEN_ROOTS = ("qwen2_vl.transformer.model.", "language_model.model.", "model.language_model.", "language_model.")
QWEN_BIAS, QWEN_GATE = "model.layers.0.self_attn.q_proj.bias", "model.layers.0.mlp.gate_proj.weight"
QWEN25_VISION = "visual.blocks.0.mlp.gate_proj.weight"  # of Qwen2.5-VL alone
WANTED = "Qwen2-VL, which V5.1 needs; choose the release's text_encoder folder, or a file of Qwen2-VL-7B-Instruct."


def detect_controlnet(checkpoint: Checkpoint) -> ControlNetConfig:
    """The config of a PixArt ControlNet under our names; heads can be given in the file's metadata or config.json."""
    tensors, name = checkpoint.tensors, checkpoint.path.name
    if any(probe in key for key in tensors for probe in STABLE_DIFFUSION_CONTROL):
        raise CheckpointError(
            f"{name} is a Stable Diffusion ControlNet, not a PixArt one; load it with the stock Load ControlNet Model "
            "and use it with a Stable Diffusion model that refines the frames."
        )
    if "controlnet.0.before_proj.weight" not in tensors:
        raise CheckpointError(
            f"{name} is {describe(tensors)}, not a PixArt ControlNet; choose one such as PixArt-XL-2-1024-ControlNet."
        )
    claimed = str(checkpoint.metadata.get(HEADS, number_in(checkpoint.config, HEADS, RELEASED_HEADS, name)))
    width = shape_of(checkpoint, "controlnet.0.before_proj.weight", 2)[0]
    heads = int(claimed) if claimed.isdecimal() and len(claimed) < 6 else 0
    if not heads or width % heads:
        raise CheckpointError(
            f"{name} has width {width}, which is not divisible by {shorten(claimed)} heads; download it again."
        )
    return ControlNetConfig(width, count(checkpoint, "controlnet.", 8), heads)


def vision_half(checkpoint: Checkpoint) -> Checkpoint:
    """The vision model out of a whole CLIP, as the releases and the hub have it; what is none comes back as it is."""
    tensors = {k: v for k, v in checkpoint.tensors.items() if not k.startswith(TEXT_HALF) and k not in CLIP_EXTRAS}
    config, vision = checkpoint.config, checkpoint.config.get("vision_config")
    if isinstance(vision, dict):
        projection = {"projection_dim": config["projection_dim"]} if "projection_dim" in config else {}
        config = {"model_type": "clip_vision_model", **{k: v for k, v in vision.items() if v is not None}, **projection}
    return replace(checkpoint, tensors=tensors, config=config)


def detect_image_encoder(checkpoint: Checkpoint, usual: dict) -> dict:
    """The config of a CLIP vision encoder, in the words of `usual`, which holds for files without a config.json."""
    config, name = checkpoint.config, checkpoint.path.name
    if "visual_projection.weight" not in checkpoint.tensors:
        raise CheckpointError(
            f"{name} is {describe(checkpoint.tensors)}, not a CLIP vision model; choose the release's image_encoder, "
            "or a CLIP ViT-L/14 vision model."
        )
    projected, width = shape_of(checkpoint, "visual_projection.weight", 2)
    layers = count(checkpoint, "vision_model.encoder.layers.")
    detected = {"num_hidden_layers": layers, "hidden_size": width, "projection_dim": projected}
    claims = {size: config.get(size, usual[size]) for size in detected}
    wrong = [
        f"{size} is {detected[size]} instead of {shorten(claims[size])}"
        for size in detected
        if detected[size] != claims[size]
    ]
    if wrong:
        raise CheckpointError(
            f"{name} is not a complete CLIP ViT-L/14 vision model: its {', '.join(wrong)}; download it again or choose "
            "another file."
        )
    sizes = {key: number_in(config, key, value, name) for key, value in usual.items() if type(value) is int}
    require_division(checkpoint, width, sizes[HEADS])
    kinds = {key: config.get(key, usual[key]) for key in ("hidden_act", "model_type")}
    if kinds["model_type"] != usual["model_type"] or kinds["hidden_act"] not in ACTIVATIONS:
        raise CheckpointError(
            f"{name} is not CLIP ViT-L/14 according to its config.json; choose the release's image_encoder."
        )
    return {**usual, **sizes, **kinds, **detected}


def detect_t5(checkpoint: Checkpoint) -> T5TextEncoder:
    """The sizes of a T5 encoder by its tensors."""
    sizes = _t5_sizes(checkpoint)
    if sizes["vocab_size"] >= MT5_WORDS:
        raise CheckpointError(
            f"{checkpoint.path.name} is mT5, the second text encoder of V4 and V5; choose BERT as text_encoder and "
            "this one as text_encoder_2."
        )
    return T5TextEncoder(sizes)


def _t5_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    if T5_WORDS not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path.name} lacks {T5_WORDS}, its word embeddings; download it again.")
    heads = shape_of(checkpoint, T5_BIAS, 2)[1]
    inner, width = shape_of(checkpoint, "encoder.block.0.layer.0.SelfAttention.q.weight", 2)
    sizes = {
        "num_layers": count(checkpoint, "encoder.block.", 8),
        "num_heads": heads,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": shape_of(checkpoint, T5_GATED, 2)[0],
        "vocab_size": shape_of(checkpoint, T5_WORDS, 2)[0],
    }
    for name, size in sizes.items():
        require_claim(checkpoint, name, size)
    return sizes


def _with_one_vocabulary(checkpoint: Checkpoint) -> Checkpoint:
    """Some T5 files hold the word embeddings under a second name, or only there; the host saves more beside them."""
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in CLIP_EXTRAS}
    words = tensors.pop(T5_WORDS_TWICE, None)
    if words is not None:
        tensors.setdefault(T5_WORDS, words)
    return replace(checkpoint, tensors=tensors)


T5 = Detector(((T5_BIAS, 2), (T5_GATED, 2)), detect_t5, _with_one_vocabulary)


def detect_qwen2_vl(checkpoint: Checkpoint) -> Qwen2VLTextEncoder:
    """The sizes of Qwen2-VL's text tower by its tensors."""
    _require_qwen2_vl(checkpoint)
    words, width = shape_of(checkpoint, WORDS, 2)
    queries = shape_of(checkpoint, QWEN_BIAS, 1)[0]
    keys = shape_of(checkpoint, "model.layers.0.self_attn.k_proj.bias", 1)[0]
    if queries % HEAD_DIM or keys % HEAD_DIM:
        raise CheckpointError(f"{checkpoint.path.name} has heads of another width than {HEAD_DIM}; it is not {WANTED}")
    sizes = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": shape_of(checkpoint, QWEN_GATE, 2)[0],
        "num_hidden_layers": count(checkpoint, "model.layers.", 12),
        "num_attention_heads": queries // HEAD_DIM,
        "num_key_value_heads": keys // HEAD_DIM,
    }
    for size, value in sizes.items():
        require_claim(checkpoint, size, value)
    return Qwen2VLTextEncoder(sizes)


def _require_qwen2_vl(checkpoint: Checkpoint) -> None:
    """Other models of Qwen have a text tower of the same sizes with other weights."""
    name, kind = checkpoint.path.name, checkpoint.config.get("model_type")
    if any(key.endswith(QWEN25_VISION) for key in checkpoint.tensors):
        raise CheckpointError(f"{name} is Qwen2.5-VL, which has other weights than {WANTED}")
    if kind is not None and not str(kind).startswith("qwen2_vl"):
        raise CheckpointError(f"{name} is {shorten(kind)} according to its config.json, not {WANTED}")
    if kind is None and not any("visual." in key for key in checkpoint.tensors):
        logging.warning(
            "%s has neither a vision tower nor a config.json, by which Qwen2-VL is told from Qwen2.5-VL and others of "
            "the same size; only Qwen2-VL-7B-Instruct gives V5.1 the right text.",
            name,
        )


def _as_text_tower(checkpoint: Checkpoint) -> Checkpoint:
    """Newer libraries, other models that hold Qwen2-VL, and the host's CLIPSave name the text tower differently."""
    probe = QWEN_BIAS.removeprefix("model.")
    root = next((root for root in QWEN_ROOTS if root + probe in checkpoint.tensors), None)
    if root is None:
        return checkpoint
    renamed = {f"model.{k.removeprefix(root)}" if k.startswith(root) else k: v for k, v in checkpoint.tensors.items()}
    renamed.pop("qwen2_vl.logit_scale", None)
    return replace(checkpoint, tensors=renamed)


QWEN2_VL = Detector(((QWEN_BIAS, 1), (QWEN_GATE, 2)), detect_qwen2_vl, _as_text_tower)


def detect_bert_mt5(bert: Checkpoint, mt5: Checkpoint, rules: PromptRules) -> BertMT5TextEncoder:
    """The sizes of V4's and V5's two text encoders by their tensors."""
    first, second = bert.path.name, mt5.path.name
    if T5.recognises(bert) and BERT.recognises(mt5):
        raise CheckpointError(f"{first} is mT5 and {second} BERT; swap text_encoder and text_encoder_2.")
    if not BERT.recognises(bert):
        raise CheckpointError(
            f"{first} is {describe(bert.tensors)}, not BERT, to which mT5 is the second text encoder; choose V4's or "
            "V5's text_encoder, or no text_encoder_2."
        )
    if not T5.recognises(mt5):
        raise CheckpointError(
            f"{second} is {describe(mt5.tensors)}, not mT5; choose V4's or V5's text_encoder_2, or their folder."
        )
    sizes = _t5_sizes(mt5)
    return BertMT5TextEncoder(_bert_sizes(bert), sizes, rules, _vocabulary(mt5, sizes["vocab_size"]))


def prompt_rules(release: str | None, mt5: Checkpoint, transformer: dict) -> PromptRules:
    """V4's or V5's: as asked, else as the file that the host saved or the transformer's config.json beside it says."""
    said = release or mt5.config.get(ENCODED_FOR) or ("V4" if OF_V4 in transformer else None)
    if said is None and not transformer:
        logging.info("%s: prompts are read as V5 does; for V4, choose its release folder or release.", mt5.path.name)
    if said not in (None, *RULES):
        raise CheckpointError(f"No release named {shorten(said)} reads prompts with BERT and mT5; choose V4 or V5.")
    return RULES[said or "V5"]


def _bert_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    words, width = shape_of(checkpoint, BERT_WORDS, 2)
    heads = number_in(checkpoint.config, HEADS, max(1, width // BERT_HEAD_DIM), checkpoint.path.name)
    require_division(checkpoint, width, heads)
    embeddings, layer = "bert.embeddings.", "bert.encoder.layer."
    sizes = {
        "hidden_size": width,
        "intermediate_size": shape_of(checkpoint, f"{layer}0.intermediate.dense.weight", 2)[0],
        "max_position_embeddings": shape_of(checkpoint, f"{embeddings}position_embeddings.weight", 2)[0],
        "num_hidden_layers": count(checkpoint, layer, 16),
        "type_vocab_size": shape_of(checkpoint, f"{embeddings}token_type_embeddings.weight", 2)[0],
        "vocab_size": words,
    }
    for name, size in sizes.items():
        require_claim(checkpoint, name, size)
    return {**sizes, HEADS: heads}


def _vocabulary(mt5: Checkpoint, words: int) -> Tensor:
    """The bytes of mT5's SentencePiece model, if it is one and has no more pieces than mT5 has words."""
    name, spiece = mt5.path.name, mt5.tensors.get(SPIECE)
    if spiece is None:
        raise CheckpointError(
            f"spiece.model, mT5's vocabulary, is missing beside {name}; put it there, out of the release's tokenizer_2."
        )
    try:
        pieces = SPieceTokenizer(spiece.to(torch.uint8)).tokenizer.get_piece_size()
    except (RuntimeError, TypeError, OSError) as error:
        raise CheckpointError(f"The spiece.model that belongs to {name} is damaged; download it again.") from error
    if pieces > words:
        raise CheckpointError(
            f"{name} has {words} words, but the spiece.model that belongs to it {pieces}; choose mT5-XL and the "
            "spiece.model of the release's tokenizer_2."
        )
    return spiece.to(torch.uint8)


def _refuse_bert_alone(checkpoint: Checkpoint) -> NoReturn:
    raise CheckpointError(
        f"{checkpoint.path.name} is BERT, the first of two text encoders of V4 and V5; choose mT5 as text_encoder_2."
    )


def _with_root(checkpoint: Checkpoint) -> Checkpoint:
    """The releases name BERT's weights without a root; the host has one."""
    root, tensors = "bert.", checkpoint.tensors
    if root + BERT_QUERY.removeprefix(root) in tensors or BERT_QUERY.removeprefix(root) not in tensors:
        return checkpoint
    beside = (*CLIP_EXTRAS, "scaled_fp8")
    return replace(checkpoint, tensors={k if k in beside else root + k: v for k, v in tensors.items()})


BERT = Detector(((BERT_WORDS, 2), (BERT_QUERY, 2)), _refuse_bert_alone, _with_root)
