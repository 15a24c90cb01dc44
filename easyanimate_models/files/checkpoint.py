"""Weights on disk: one file, an index with its shards, a component folder or a release folder.

Reading is strict and never leaves the folder it was given; every error is one sentence that says what to do.
Pickles (.bin, .pt, .pth, .ckpt) are read as weights only: nothing in them is executed.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor, nn

from ..host import out_of_memory
from .messages import SHOWN, shorten
from .pickles import PICKLE_SUFFIXES, UnsafePickleError, read_pickle

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")  # the better one first
SAFE_SUFFIXES = (".safetensors", ".sft")
WEIGHT_SUFFIXES = (*SAFE_SUFFIXES, *PICKLE_SUFFIXES)
PREFERRED = ("diffusion_pytorch_model", "model", "pytorch_model")
HOST_PREFIXES = {"transformer": "model.diffusion_model.", "vae": "first_stage_model."}
EMBEDDED_CONFIG = "easyanimate_config"  # config.json as a tensor of bytes, in files that the host saved
SHOWN_KEYS = 3
MOST = 2**31  # of any number in a config.json
QUANTISATION = ("scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".comfy_quant")
SAMPLED = 256  # numbers of each tensor in a fingerprint


class CheckpointError(ValueError):
    """A file can't be used; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of one component, its config.json and file header (empty without one), and where they came from."""

    path: Path
    tensors: dict[str, Tensor]
    config: dict
    metadata: dict


def read_checkpoint(path: str | Path, component: str) -> Checkpoint:
    """Read `component` ("transformer", "vae", "text_encoder") from a file, an index or a folder."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; put the file there or choose another one.")
    if path.is_dir() and (path / component).is_dir():
        path = path / component
    weights = _weights_in(path, component) if path.is_dir() else [path]
    if weights[0].name.endswith(INDEX_SUFFIXES):
        weights = _shards(weights[0])
    folder = path if path.is_dir() else path.parent
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in weights:
        part, header = _read_file(file)
        tensors.update(part)
        metadata.update(header or {})
        mm.throw_exception_if_processing_interrupted()
    tensors = _without_host_prefix(tensors, component)
    embedded = tensors.pop(EMBEDDED_CONFIG, None)
    config = _read_config(folder / "config.json") if embedded is None else _embedded_config(embedded, path)
    return Checkpoint(path, tensors, config, metadata)


def _without_host_prefix(tensors: dict[str, Tensor], component: str) -> dict[str, Tensor]:
    """One component of a file that the host saved; its VAEs are taken only where they are ours."""
    prefix = HOST_PREFIXES.get(component, "")
    ours = prefix + EMBEDDED_CONFIG in tensors
    if not prefix or not (ours or component == "transformer" and any(key.startswith(prefix) for key in tensors)):
        return tensors
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _weights_in(folder: Path, component: str) -> list[Path]:
    """The index, or the one weights file, of a component folder; safetensors before pickles."""
    for index_suffix, suffixes in zip(INDEX_SUFFIXES, (SAFE_SUFFIXES, PICKLE_SUFFIXES), strict=True):
        indices = sorted(file for file in folder.glob(f"*{index_suffix}") if file.is_file())
        if indices:
            return indices[:1]
        files = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in suffixes and f.is_file()]
        named = [f for f in files if f.stem in PREFERRED]
        if len(named) == 1 or len(files) == 1:
            return named or files
        if files:
            break
    found = ", ".join(f.name for f in files) or "none"
    raise CheckpointError(
        f"{folder} should contain the weights of one {component.replace('_', ' ')}, in a single file or with an "
        f"index, but contains: {found}."
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names; they must lie beside it."""
    listing = _read_json(index)
    weight_map = listing.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} lists no weights; download it again.")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        if Path(name).name != name or "\\" in name:
            raise CheckpointError(f"{index} points outside its folder, to {shorten(name)}; don't trust this file.")
        if not os.path.isfile(index.parent / name):  # pathlib's raises for names that are too long
            raise CheckpointError(
                f"{index.name} names {name[:SHOWN]}, which is missing from {index.parent}; download it too."
            )
    return [index.parent / name for name in names]


def _read_file(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    if path.suffix.lower() not in WEIGHT_SUFFIXES or not path.is_file():  # a pipe would be waited for
        raise CheckpointError(f"{path.name} is not a weights file; choose a safetensors file.")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return _read_pickle(path), None
    try:
        return comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except Exception as error:  # the reader's own errors have no common base
        if out_of_memory(error):
            raise
        if "MetadataIncompleteBuffer" in str(error) or "file not fully covered" in str(error):
            raise CheckpointError(f"{path.name} is cut short; download it again.") from error
        raise CheckpointError(f"{path.name} is not a valid safetensors file; download it again.") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        return read_pickle(path)
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{path.name} is damaged or contains more than weights, so it was not opened (it could run code); get it "
            "as safetensors."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path.name} {error}.") from error


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON; download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should contain a JSON object; download it again.")
    return content


def _read_config(path: Path) -> dict:
    return _read_json(path) if path.is_file() else {}


def number_in(config: dict, name: str, default, file: str, kind: type = int):
    """A number above 0 out of the config.json beside `file`, or inside it; `default` where it says nothing."""
    value = config.get(name)
    if value is None:
        return default
    kinds, what = ((int,), "whole number") if kind is int else ((int, float), "number")
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= MOST:
        raise CheckpointError(
            f"The config.json beside {file} sets {name} to {shorten(value)}, which is not a valid {what}; replace it "
            "with the right one."
        )
    return value


def shape_of(checkpoint: Checkpoint, key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor by which a model is known: it must be there, with so many dimensions, none of them 0."""
    tensor = checkpoint.tensors.get(key)
    if tensor is None:
        raise CheckpointError(f"{checkpoint.path.name} lacks {key}; download it again.")
    if tensor.ndim != dimensions or 0 in tensor.shape:
        raise CheckpointError(
            f"{checkpoint.path.name} has {key} of shape {tuple(tensor.shape)}, which is not valid; download it again."
        )
    return tuple(tensor.shape)


def embed_config(config: dict) -> dict[str, Tensor]:
    """What a file that the host saves must hold so that `read_checkpoint` finds `config` in it."""
    return {EMBEDDED_CONFIG: torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)}


def _embedded_config(tensor: Tensor, path: Path) -> dict:
    try:
        config = json.loads(bytes(tensor.to(torch.uint8).flatten().tolist()))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"The {EMBEDDED_CONFIG} inside {path.name} is damaged; save the model again.")
    return config


def describe(tensors: Iterable[str]) -> str:
    """What a file looks like by its keys, for error messages."""
    keys = set(tensors)
    for probe, name in LOOKS_LIKE:
        if any(probe in key for key in keys):
            return name
    return "an unknown kind of file"


LOOKS_LIKE = (
    (".lora_down.", "a LoRA"),
    (".lora_A.", "a LoRA"),
    (".copied_block.", "a PixArt ControlNet"),
    ("controlnet_blocks.0.transformer_block.", "a PixArt ControlNet"),
    ("zero_convs.", "a Stable Diffusion ControlNet"),
    ("controlnet_cond_embedding.", "a Stable Diffusion ControlNet"),
    ("input_blocks.0.0.weight", "a Stable Diffusion checkpoint"),
    ("attn_temporal.temporal_transformer", "an EasyAnimate V1-V3 transformer"),
    (".attn_clip.", "an EasyAnimate V4 transformer"),
    ("time_extra_emb.", "an EasyAnimate V4 transformer"),
    ("text_proj_t5.", "an EasyAnimate V5 transformer"),
    ("text_proj.1.", "an EasyAnimate V5.1 transformer"),
    (".txt_ff.", "an EasyAnimate V5 or V5.1 transformer"),
    ("long_connect_fc", "an EasyAnimate transformer"),
    ("adaln_single.linear.weight", "a PixArt image transformer"),
    ("down_blocks.0.convs.0.conv1", "an EasyAnimate video VAE"),
    ("decoder.up_blocks.0.resnets", "an image VAE"),
    ("decoder.up.0.block", "an image VAE"),
    ("SelfAttention.q.weight", "a T5 text encoder"),
    ("vision_model.", "a CLIP vision model"),
    ("text_model.", "a CLIP text encoder"),
    ("attention.self.query.weight", "a BERT text encoder"),
    (".self_attn.q_proj.bias", "a Qwen language model"),
    (".self_attn.q_proj.weight", "a language model"),
)


def require_fit(
    module: nn.Module, checkpoint: Checkpoint, what: str, ignored: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The checkpoint's tensors, if they are those of `module`. Raises `CheckpointError` about keys, shapes, dtypes."""
    tensors = {k: v for k, v in checkpoint.tensors.items() if not any(part in k for part in ignored)}
    own = module.state_dict()
    shapes = {k: tuple(v.shape) for k, v in own.items()}
    problems = [f"lacks {k}" for k in shapes if k not in tensors]
    problems += [f"has an unexpected {k}" for k in tensors if k not in shapes]
    problems += [
        f"has {k} of shape {tuple(tensors[k].shape)} instead of {shape}"
        for k, shape in shapes.items()
        if k in tensors and tuple(tensors[k].shape) != shape
    ]
    if not any(key.endswith(QUANTISATION) for key in checkpoint.tensors):
        floats = {k for k, v in own.items() if v.is_floating_point()}
        problems += [f"has {k} in {v.dtype}" for k, v in tensors.items() if k in floats and not v.is_floating_point()]
    if problems:
        more = f" (and {len(problems) - SHOWN_KEYS} more)" if len(problems) > SHOWN_KEYS else ""
        raise CheckpointError(
            f"{checkpoint.path.name} is not a complete {what}: it {', '.join(problems[:SHOWN_KEYS])}{more}; "
            "download it again or choose another file."
        )
    logging.debug("%s: %d tensors fit %s", checkpoint.path.name, len(tensors), what)
    return tensors


def fingerprint_weights(weights: dict[str, Tensor]) -> str:
    """A short digest of weights by their names, from a few numbers of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        flat = tensor.flatten()
        sampled = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sampled.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
