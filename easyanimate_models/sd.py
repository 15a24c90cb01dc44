"""From a path to a host object: transformer -> ModelPatcher, VAE -> VAE, text encoder -> CLIP, CONTROL_NET.

A path is a weights file, an index file, a component folder (config.json beside the weights) or a release folder
(`transformer/`, `vae/`, `text_encoder/`). Anything that does not fit raises `CheckpointError`.
"""

import json
import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import comfy.clip_model
import comfy.clip_vision
import comfy.model_management as mm
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from safetensors.torch import load_file
from torch import Tensor

from . import model_detection
from .conditioning.pixart_control import PixArtControl
from .dit.controlnet import ControlNet
from .files.checkpoint import QUANTISATION, Checkpoint, CheckpointError, embed_config, read_checkpoint, require_fit
from .files.model_files import TINY
from .files.release_folder import PREVIEW, second_text_encoder, transformer_config, vae_colours, vocabulary
from .host import clip_vision, clip_with_weights, is_dynamic, patcher_class, prepare_quantised, readable_quantisation
from .latent_formats import with_previewer
from .memory import return_when_gone
from .model_detection.encoders import (
    detect_bert_mt5,
    detect_controlnet,
    detect_image_encoder,
    prompt_rules,
    vision_half,
)
from .names.motion_module import with_motion_module
from .names.pixart import control_with_our_names
from .sampling.guard import guarded
from .supported_models import Release
from .text_encoders.bert_mt5 import SPIECE, BertMT5TextEncoder
from .text_encoders.qwen2_vl import INDEX, TAUGHT_WORDS, WORDS, Qwen2VLTextEncoder, taught_tokens
from .text_encoders.t5 import T5TextEncoder
from .vae.host_vae import HostVAE
from .vae.previewer import FILE as PREVIEWER
from .vae.previewer import built_previewer

WEIGHT_DTYPES = {
    "default": None,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
TRAINING_LEFTOVERS = ("loss.",)
POSITION_NUMBERS = (".position_ids",)
CLIP_VIT_L = "clip_vision_config_vitl.json"  # of the host
UNREADABLE = "{} is quantised in a way that this version of ComfyUI can't read; update ComfyUI or choose the {} file."


def load_transformer(
    path: str | Path,
    motion_module: str | Path | None = None,
    *,
    weight_dtype: str = "default",
    disable_dynamic: bool = False,
):
    """The denoiser as the host's ModelPatcher. `weight_dtype` is one of `WEIGHT_DTYPES`.

    `motion_module` is V1's second file; `path` is then the PixArt transformer that it goes into.
    """
    checkpoint = read_transformer(path, motion_module)
    release = model_detection.detect_transformer(checkpoint)
    release.require_variant(checkpoint.path.name)
    if TINY in (Path(path), *Path(path).parents):
        with_previewer(release.latent_format, built_previewer(load_file(TINY / PREVIEWER)))
    weights = _fitting(release, checkpoint)
    tensors = prepare_quantised(release, weights, checkpoint.metadata)
    if tensors is None:
        raise CheckpointError(UNREADABLE.format(checkpoint.path.name, "bf16"))
    _choose_dtype(release, tensors, weight_dtype)
    patcher = _as_patcher(release, tensors, checkpoint.path.name, disable_dynamic)
    if hasattr(patcher, "cached_patcher_init"):  # 0.33 rebuilds a model that it trains or hooks
        patcher.cached_patcher_init = (partial(load_transformer, weight_dtype=weight_dtype), (path, motion_module))
    logging.info("EasyAnimate transformer %s: %s", checkpoint.path.name, type(release).__name__)
    return patcher


def with_weights(model, config, weights: dict[str, Tensor], *, disable_dynamic: bool = False):
    """A MODEL like `model` as it was loaded, its network of this `config`, with these weights in place of its own."""
    like = model.model.model_config
    release = type(like)(config)
    release.set_inference_dtype(like.unet_config["dtype"], like.manual_cast_dtype)
    release.optimizations, release.latent_format = like.optimizations, like.latent_format
    release.cfg = like.cfg
    changed = {name: tensor.to(like.unet_config["dtype"]) for name, tensor in weights.items()}
    tensors = {**model.model.diffusion_model.state_dict(), **changed}
    patcher = _as_patcher(release, tensors, "The transformer", disable_dynamic)
    if hasattr(patcher, "cached_patcher_init"):
        patcher.cached_patcher_init = (with_weights, (model, config, weights))
    return patcher


def _as_patcher(release: Release, tensors: dict[str, Tensor], name: str, disable_dynamic: bool):
    """The network of `release` with its weights; `name` is what they are called in errors."""
    model = release.get_model(tensors)
    patcher = patcher_class(disable_dynamic)(
        model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )
    dynamic = is_dynamic(patcher)
    if not dynamic:
        model.to(patcher.offload_device)
    _load(model.diffusion_model, tensors, dynamic, name)
    return_when_gone(model.diffusion_model)
    return guarded(patcher)


def read_transformer(path: str | Path, motion_module: str | Path | None = None) -> Checkpoint:
    """The tensors of a transformer under our names, a motion module file among them."""
    checkpoint = read_checkpoint(path, "transformer")
    checkpoint = model_detection.with_our_names(checkpoint, model_detection.TRANSFORMERS)
    if PREVIEW[0] not in checkpoint.config:  # MODEL shows the previews, but its VAE knows the colours
        checkpoint = replace(checkpoint, config={**checkpoint.config, **vae_colours(Path(path))})
    if motion_module is None:
        return checkpoint
    return with_motion_module(checkpoint, read_checkpoint(motion_module, "motion_module"))


def _fitting(release: Release, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors that the network needs, with the scales of quantised ones; all others are an error."""
    network = release.network(
        config=release.config, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init
    )
    require_fit(network, checkpoint, "EasyAnimate transformer", (*release.ignored, *QUANTISATION))
    return {k: v for k, v in checkpoint.tensors.items() if not any(part in k for part in release.ignored)}


def _load(network: torch.nn.Module, tensors: dict[str, Tensor], assign: bool, name: str) -> None:
    """Only scales may be left over on either side: of layers that are not quantised, or that the host ignores."""
    missing, unexpected = network.load_state_dict(tensors, strict=False, assign=assign)
    wrong = [key for key in (*missing, *unexpected) if not key.endswith(QUANTISATION)]
    if wrong:
        raise CheckpointError(UNREADABLE.format(name, "bf16"))


def _choose_dtype(release: Release, tensors: dict[str, Tensor], weight_dtype: str) -> None:
    """Storage and compute dtype as the host chooses them for its own models; quantised layers keep their own."""
    supported = list(release.supported_inference_dtypes)
    dtype, device = WEIGHT_DTYPES[weight_dtype], mm.get_torch_device()
    quantised = any(key.endswith(QUANTISATION) for key in tensors)
    if dtype is None or quantised:
        dtype = mm.unet_dtype(
            model_params=comfy.utils.calculate_parameters(tensors),
            supported_dtypes=supported,
            weight_dtype=None if quantised else comfy.utils.weight_dtype(tensors),
        )
    stored = None if getattr(release, "quant_config", None) else dtype
    release.set_inference_dtype(dtype, mm.unet_manual_cast(stored, device, supported))
    if not quantised:
        release.optimizations["fp8"] = weight_dtype.endswith("_fast")


def load_vae(path: str | Path) -> HostVAE:
    """A release's VAE as the host's VAE."""
    checkpoint = model_detection.with_our_names(read_checkpoint(path, "vae"), model_detection.VAES)
    detected = model_detection.detect_vae(checkpoint)
    release, config = detected.release, detected.config
    weights = require_fit(release.vae(config, device="meta"), checkpoint, "EasyAnimate video VAE", TRAINING_LEFTOVERS)
    logging.info("EasyAnimate VAE %s: %s", checkpoint.path.name, release.__name__)
    embedded = {**release.vae_flags, "norm_num_groups": config.norm_groups}
    if config.scaling_factor != release.latent_format.scale_factor:
        embedded["scaling_factor"] = config.scaling_factor
    if detected.video != release.video:
        embedded |= {f"default_{name}": value for name, value in asdict(detected.video).items()}
    embedded |= {name: checkpoint.config[name] for name in PREVIEW if name in checkpoint.config}
    vae = HostVAE(release.vae(config), weights, release, embed_config(embedded))
    vae.video = detected.video
    return_when_gone(vae.first_stage_model)
    return vae


def load_controlnet(path: str | Path) -> PixArtControl:
    """A PixArt ControlNet as the host's CONTROL_NET, for V1 to V3."""
    checkpoint = control_with_our_names(read_checkpoint(path, "controlnet"))
    config, tensors = detect_controlnet(checkpoint), checkpoint.tensors
    dtype = mm.unet_dtype(
        model_params=comfy.utils.calculate_parameters(tensors),
        supported_dtypes=[torch.bfloat16, torch.float16, torch.float32],
        weight_dtype=comfy.utils.weight_dtype(tensors),
    )
    skeleton = ControlNet(config, dtype=dtype, device="meta", operations=comfy.ops.manual_cast)
    weights = require_fit(skeleton, checkpoint, "PixArt ControlNet")
    network = ControlNet(config, dtype=dtype, operations=comfy.ops.manual_cast)
    patcher = patcher_class()(network, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())
    network.load_state_dict(weights, assign=is_dynamic(patcher))
    return_when_gone(network)
    return PixArtControl(patcher, checkpoint.path.name)


def load_text_encoder(
    path: str | Path,
    second: str | Path | None = None,
    *,
    release: str | None = None,
    padding_positions: str = INDEX,
) -> comfy.sd.CLIP:
    """A release's text encoder as the host's CLIP, which hands on the mask of its tokens.

    V4 and V5 have two: BERT in `path`, mT5 in `second` or beside it in a release folder; `release` is "V4" or "V5"
    where nothing beside them says which. `padding_positions` is V5.1's: "index" or "one", see `Qwen2VLText`.
    """
    second = second or second_text_encoder(Path(path))
    checkpoints = [_read_text_encoder(path, "text_encoder")]
    encoder: T5TextEncoder | Qwen2VLTextEncoder | BertMT5TextEncoder
    if second is None:
        encoder = _one_text_encoder(checkpoints[0], padding_positions)
    else:
        mt5 = _with_vocabulary(_read_text_encoder(second, "text_encoder_2"))
        encoder = detect_bert_mt5(checkpoints[0], mt5, prompt_rules(release, mt5, transformer_config(Path(path))))
        checkpoints.append(mt5)
    weights = [_text_weights(encoder, *pair) for pair in zip(encoder.skeletons(), checkpoints, strict=True)]

    class Target:
        params: dict = {}
        clip = encoder.model_class(*weights)
        tokenizer = encoder.tokenizer

    clip = clip_with_weights(
        Target,
        weights,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(map(comfy.utils.calculate_parameters, weights)),
        tokenizer_data=encoder.tokenizer_data,
        model_options=encoder.model_options(),
    )
    return_when_gone(clip.cond_stage_model)
    return clip


def _read_text_encoder(path: str | Path, component: str) -> Checkpoint:
    return model_detection.with_our_names(read_checkpoint(path, component), model_detection.TEXT_ENCODERS)


def _with_vocabulary(checkpoint: Checkpoint) -> Checkpoint:
    """mT5 with its vocabulary, which lies beside it where the file doesn't hold it."""
    found = None if SPIECE in checkpoint.tensors else vocabulary(checkpoint.path)
    return checkpoint if found is None else replace(checkpoint, tensors={**checkpoint.tensors, SPIECE: found})


def _one_text_encoder(checkpoint: Checkpoint, padding_positions: str) -> T5TextEncoder | Qwen2VLTextEncoder:
    encoder = model_detection.detect_text_encoder(checkpoint)
    if isinstance(encoder, Qwen2VLTextEncoder):
        taught = taught_tokens(checkpoint.tensors[WORDS])
        listed = checkpoint.config.get(TAUGHT_WORDS)
        words = tuple(map(str, listed)) if isinstance(listed, list) else ()
        return replace(encoder, padding_positions=padding_positions, taught=taught, words=words)
    return encoder


def _text_weights(encoder, skeleton: torch.nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors that one network of `encoder` needs, with the scales of quantised ones; all others are an error."""
    require_fit(skeleton, checkpoint, encoder.name, (*encoder.ignored, *QUANTISATION))
    needed = {k: v for k, v in checkpoint.tensors.items() if not any(part in k for part in encoder.ignored)}
    readable = readable_quantisation(needed, checkpoint.metadata)
    if readable is None or any(key not in readable for key in map(_quantised_by, readable) if key):
        raise CheckpointError(UNREADABLE.format(checkpoint.path.name, encoder.precisions))
    return readable


def _quantised_by(key: str) -> str | None:
    """The weight that a scale belongs to; of one that has none, the file names its layers in another way."""
    ending = next((ending for ending in QUANTISATION if ending.startswith(".") and key.endswith(ending)), None)
    return None if ending is None else f"{key.removesuffix(ending)}.weight"


def load_image_encoder(path: str | Path) -> comfy.clip_vision.ClipVisionModel:
    """The CLIP vision encoder of an InP release as the host's CLIP_VISION."""
    checkpoint = vision_half(read_checkpoint(path, "image_encoder"))
    usual = Path(comfy.clip_vision.__file__).with_name(CLIP_VIT_L)
    config = detect_image_encoder(checkpoint, json.loads(usual.read_text(encoding="utf-8")))
    skeleton = comfy.clip_model.CLIPVisionModelProjection(config, torch.float32, "meta", comfy.ops.manual_cast)
    weights = require_fit(skeleton, checkpoint, "CLIP ViT-L/14 vision model", POSITION_NUMBERS)
    encoder = clip_vision(config)
    encoder.load_sd(weights)
    return_when_gone(encoder.model)
    return encoder
