"""LoRA files, under every naming they come in, as the host's own patches on MODEL and CLIP.

EasyAnimate's trainer flattens module names behind `lora_unet__` (the name of its root module is empty, hence two
underscores); kohya, PEFT and the host each have a prefix of their own. All are resolved against the weights that the
model really has, and the host merges, unmerges and offloads.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import comfy.lora
import comfy.utils
import torch
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter
from torch import Tensor

from .files.checkpoint import SHOWN_KEYS, Checkpoint, CheckpointError, describe, read_checkpoint

DENOISER = "diffusion_model."
T5 = "t5xxl.transformer."  # of stock text encoders; ours say theirs
FLATTENED = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")
DOTTED = ("transformer.", "base_model.model.", "unet.base_model.model.", "")
TEXT_FLATTENED = ("lora_te__", "lora_te_", "lora_te1_")
TEXT_DOTTED = ("text_encoder.", "text_encoder.base_model.model.")
TEXT = ("lora_te", "text_encoder")
PART = re.compile(
    r"(?:\.processor)?[._]lora(?:_up|_down|_mid|_A|_B|_linear_layer|\.up|\.down)?(?:\.|$).*"
    r"|\.(?:alpha|dora_scale|diff|diff_b|set_weight|reshape_weight|w_norm|b_norm|(?:hada|lokr|oft|boft)_\w+)$"
)
MATRIX = re.compile(
    r"[._]lora(?:_up|_down|_mid|_A|_B|_linear_layer|\.up|\.down)?(?:\.\w+)?\.weight$|\.(?:hada|lokr)_w\w+$"
)
LOOKS_LIKE = (
    ("attn_temporal", "EasyAnimate V1-V3"),
    ("__blocks_0_", "EasyAnimate V4"),
    ("__transformer_blocks_0_norm1_linear", "EasyAnimate V5"),
    ("_txt_ff_", "EasyAnimate V5"),
    ("blocks_0_self_attn", "Wan"),
    ("double_blocks_", "Flux or HunyuanVideo"),
    ("single_transformer_blocks_", "Flux"),
    ("down_blocks_", "Stable Diffusion"),
    ("input_blocks_", "Stable Diffusion"),
    ("transformer_blocks_", "PixArt or another transformer"),
)


def load_lora(path: str | Path, model, clip=None, strength_model: float = 1.0, strength_clip: float = 1.0):
    """`model` (MODEL) and `clip` (CLIP or None) as clones with the LoRA in `path` added, each by its strength.

    A weight becomes `W + strength * alpha / rank * up @ down`; strengths may be negative.
    Raises `CheckpointError` when the file is no LoRA, or when none of its layers belongs to what was given.
    """
    patches, text_patches = lora_patches(path, model, clip)
    model = model.clone()
    model.add_patches(patches, strength_model)
    if clip is not None:
        clip = clip.clone()
        clip.add_patches(text_patches, strength_clip)
    return model, clip


def lora_patches(path: str | Path, model, clip=None, complete: bool = False) -> tuple[dict, dict]:
    """The host's patches of a LoRA file, by the weights of `model` and of `clip` that they change.

    Raises `CheckpointError` as `load_lora` does, and when it is to be `complete` for every layer that doesn't fit.
    """
    checkpoint = read_checkpoint(path, "lora")
    layers = layers_in(checkpoint.tensors)
    if not layers:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(checkpoint.tensors)}, not a LoRA; choose a LoRA file."
        )
    _require_shapes(checkpoint)
    names = transformer_names(model.model)
    patches = _fitting(checkpoint.tensors, names, model.model)
    text_names, text_patches = {}, {}
    if clip is not None:
        text_names = text_encoder_names(clip)
        text_patches = _fitting(checkpoint.tensors, text_names, clip.cond_stage_model)
    used = _used(layers, names, patches) | _used(layers, text_names, text_patches)
    if complete and used and (left := sorted(layers - used)):
        raise CheckpointError(
            f"{checkpoint.path.name} changes {len(left)} layers that are not trained here (such as {left[0]}); train "
            "all that it changes, such as the text encoder, or choose another LoRA."
        )
    _report(checkpoint, layers, used, clip is not None)
    return patches, text_patches


def _require_shapes(checkpoint: Checkpoint) -> None:
    """What the host multiplies must be matrices, what it takes for a number one number."""
    for key, tensor in checkpoint.tensors.items():
        number, matrix = key.endswith(".alpha"), MATRIX.search(key)
        if number and tensor.numel() != 1 or matrix and (tensor.ndim < 2 or 0 in tensor.shape):
            raise CheckpointError(
                f"{checkpoint.path.name} has {key} of shape {tuple(tensor.shape)}, which is not valid in a LoRA; "
                "download it again."
            )


def layers_in(keys: Iterable[str]) -> set[str]:
    """The layers that a file's keys change, under the file's own names; empty when it is no LoRA."""
    return {PART.sub("", key) for key in keys if PART.search(key)}


def transformer_names(model) -> dict[str, str]:
    """Every name that a LoRA may give a weight of a host model -> the key of the weight."""
    names = comfy.lora.model_lora_keys_unet(model, {})
    return names | _aliases(model.state_dict(), DENOISER, FLATTENED, DOTTED)


def text_encoder_names(clip) -> dict[str, str]:
    """The same for the text encoder inside a host CLIP."""
    model, root = clip.cond_stage_model, getattr(clip.tokenizer, "lora_root", T5)
    names = comfy.lora.model_lora_keys_clip(model, {})
    return names | _aliases(model.state_dict(), root, TEXT_FLATTENED, TEXT_DOTTED)


def _aliases(keys: Iterable[str], root: str, flattened: Iterable[str], dotted: Iterable[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for key in keys:
        if key.startswith(root) and key.endswith(".weight"):
            layer = key[len(root) : -len(".weight")]
            names |= {prefix + layer.replace(".", "_"): key for prefix in flattened}
            names |= {prefix + layer: key for prefix in dotted}
    return names


def _fitting(tensors: dict[str, Tensor], names: dict[str, str], model) -> dict:
    """The host's patches whose shapes are those of the weights; the host itself would only log the others."""
    patches, known = comfy.lora.load_lora(tensors, names, log_missing=False), set(model.state_dict())
    shapes = {key: comfy.utils.get_attr(model, key).shape for key in known.intersection(patches)}  # not as stored
    return {key: patch for key, patch in patches.items() if key in shapes and _fits(patch, shapes[key])}


def _fits(patch, shape: torch.Size) -> bool:
    if isinstance(patch, LoRAAdapter):
        up, down, _, mid = patch.weights[:4]
        same_rank = up.shape[1] == down.shape[0]
        return same_rank and (mid is not None or (up.shape[0], down[0].numel()) == (shape[0], shape[1:].numel()))
    if isinstance(patch, tuple) and patch[0] in ("diff", "set"):
        return patch[1][0].shape == shape
    changed = _changed_shape(patch)
    return changed is None or changed == (shape[0], shape[1:].numel())


def _changed_shape(patch) -> tuple[int, int] | None:
    """Rows and columns of what a LoHa or LoKr changes; None for one that decomposes a convolution, and for others."""
    if isinstance(patch, LoHaAdapter) and patch.weights[5] is None:
        first, second = (patch.weights[i : i + 2] for i in (0, 3))
        shapes = [(a.shape[0], b.shape[1]) for a, b in (first, second)]
        return shapes[0] if shapes[0] == shapes[1] else (0, 0)
    if isinstance(patch, LoKrAdapter) and patch.weights[7] is None:
        w1, w2, _, w1_a, w1_b, w2_a, w2_b = patch.weights[:7]
        (rows, columns), (more_rows, more_columns) = _factor(w1, w1_a, w1_b), _factor(w2, w2_a, w2_b)
        return rows * more_rows, columns * more_columns
    return None


def _factor(whole: Tensor | None, a: Tensor | None, b: Tensor | None) -> tuple[int, int]:
    """Rows and columns of a factor that a file has whole or as a product; none where it has neither."""
    if whole is not None:
        return whole.shape[0], whole[0].numel()
    return (0, 0) if a is None or b is None else (a.shape[0], b.shape[1])


def _used(layers: set[str], names: dict[str, str], patches: dict) -> set[str]:
    patched = {_module(key) for key in patches}
    return {layer for layer in layers if layer in names and _module(names[layer]) in patched}


def _module(key: str) -> str:
    return key.removesuffix(".weight").removesuffix(".bias")


def _report(checkpoint: Checkpoint, layers: set[str], used: set[str], with_clip: bool) -> None:
    """An error when nothing fits, a warning when some layers don't, a hint when only the CLIP is missing."""
    name, text = checkpoint.path.name, {layer for layer in layers if layer.startswith(TEXT)}
    if not used and text == layers and not with_clip:
        raise CheckpointError(f"{name} changes the text encoder only; connect the text encoder to the clip input.")
    if not used:
        raise CheckpointError(
            f"{name} looks like a LoRA for {_looks_like(layers)}: none of its {len(layers)} layers match this model "
            "by name and size; choose a LoRA that was trained on this release."
        )
    if text and not with_clip:
        logging.info("%s also changes the text encoder (%d layers); connect clip to use them.", name, len(text))
        layers = layers - text
    unused = sorted(layers - used)
    if unused:
        first = ", ".join(unused[:SHOWN_KEYS])
        logging.warning("%s: %d of %d layers do not match and are skipped: %s", name, len(unused), len(layers), first)


def _looks_like(layers: set[str]) -> str:
    flat = [layer.replace(".", "_") for layer in layers]
    kinds = (kind for probe, kind in LOOKS_LIKE if any(probe in layer for layer in flat))
    return next(kinds, "an unknown model")
