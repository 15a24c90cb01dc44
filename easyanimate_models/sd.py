"""From a path to a host object: transformer -> ModelPatcher, VAE -> VAE, text encoder -> CLIP.

A path is a safetensors file, an index file, a component folder (config.json beside the weights) or a release
folder (`transformer/`, `vae/`, `text_encoder/`). Anything that does not fit raises `CheckpointError`.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.clip_vision
import comfy.model_management as mm
import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.sd3_clip
import comfy.utils
import folder_paths
import torch

from .checkpoint import Checkpoint, CheckpointError, describe, read_checkpoint, require_fit
from .host import clip_with_weights, is_dynamic, patcher_class, readable_quantisation, scaled_fp8_dtype
from .model_detection import detect_t5, detect_transformer, detect_vae
from .text_encoders.t5 import EasyAnimateTokenizer, t5_model, t5_skeleton
from .vae.host_vae import HostVAE
from .vae.slice_vae import SliceVAE

WEIGHT_DTYPES = {
    "default": None,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
CONSTANT_TABLES = (".pos_encoder.pe",)  # sinusoids, a seventh of the file; computed when needed
TRAINING_LEFTOVERS = ("loss.",)
POSITION_NUMBERS = (".position_ids",)
CLIP_VIT_L = "clip_vision_config_vitl.json"  # of the host
QUANTISATION = ("scaled_fp8", ".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".comfy_quant")


def load_transformer(path: str | Path, *, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The denoiser as the host's ModelPatcher. `weight_dtype` is one of `WEIGHT_DTYPES`."""
    checkpoint = read_checkpoint(path, "transformer")
    release = detect_transformer(checkpoint)
    _choose_dtype(release, checkpoint, weight_dtype)
    model = release.get_model(checkpoint.tensors)
    weights = require_fit(model.diffusion_model, checkpoint, "EasyAnimate transformer", CONSTANT_TABLES)
    patcher = patcher_class(disable_dynamic)(
        model, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
    )
    dynamic = is_dynamic(patcher)
    if not dynamic:
        model.to(patcher.offload_device)
    model.diffusion_model.load_state_dict(weights, assign=dynamic)
    if hasattr(patcher, "cached_patcher_init"):  # 0.33 rebuilds a model that it trains or hooks
        patcher.cached_patcher_init = (partial(load_transformer, weight_dtype=weight_dtype), (path,))
    logging.info("EasyAnimate transformer %s: %s", checkpoint.path.name, type(release).__name__)
    return patcher


def _choose_dtype(release: comfy.supported_models_base.BASE, checkpoint: Checkpoint, weight_dtype: str) -> None:
    """Storage and compute dtype as the host chooses them for its own models."""
    supported = list(release.supported_inference_dtypes)
    dtype = WEIGHT_DTYPES[weight_dtype]
    scaled = scaled_fp8_dtype(checkpoint.tensors)
    if scaled is not None:
        raise CheckpointError(
            f"{checkpoint.path.name} holds scaled fp8 weights, which can't be read yet; choose the bf16 or fp32 file "
            "and set weight_dtype to fp8_e4m3fn."
        )
    if dtype is None:
        dtype = mm.unet_dtype(
            model_params=comfy.utils.calculate_parameters(checkpoint.tensors),
            supported_dtypes=supported,
            weight_dtype=comfy.utils.weight_dtype(checkpoint.tensors),
        )
    release.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, mm.get_torch_device(), supported))
    release.optimizations["fp8"] = weight_dtype.endswith("_fast")


def load_vae(path: str | Path) -> HostVAE:
    """The Slice VAE as the host's VAE."""
    checkpoint = read_checkpoint(path, "vae")
    model = SliceVAE(detect_vae(checkpoint))
    return HostVAE(model, require_fit(model, checkpoint, "EasyAnimate video VAE", TRAINING_LEFTOVERS))


def load_text_encoder(path: str | Path) -> comfy.sd.CLIP:
    """The T5 encoder as the host's CLIP, with 120 tokens and their mask."""
    checkpoint = with_one_vocabulary(read_checkpoint(path, "text_encoder"))
    sizes = detect_t5(checkpoint)
    weights = require_fit(t5_skeleton(sizes), checkpoint, "T5 text encoder", QUANTISATION)
    tensors = readable_quantisation(checkpoint.tensors, checkpoint.metadata)
    if tensors is None:
        raise CheckpointError(
            f"{checkpoint.path.name} is quantised in a way that this ComfyUI can't read; update ComfyUI or choose an "
            "fp16 or fp8 file."
        )

    class Target:
        params: dict = {}
        clip = t5_model(comfy.text_encoders.sd3_clip.t5_xxl_detect(tensors))
        tokenizer = EasyAnimateTokenizer

    return clip_with_weights(
        Target,
        tensors,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(weights),
        tokenizer_data={},
        model_options={"t5xxl_model_config": sizes},
    )


def load_image_encoder(path: str | Path) -> comfy.clip_vision.ClipVisionModel:
    """The CLIP vision encoder of an InP release as the host's CLIP_VISION."""
    checkpoint = read_checkpoint(path, "image_encoder")
    if "visual_projection.weight" not in checkpoint.tensors:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(checkpoint.tensors)}, not a CLIP vision model; choose the release's "
            "image_encoder, or a CLIP ViT-L/14 vision model."
        )
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    config = folder / "config.json" if checkpoint.config else Path(comfy.clip_vision.__file__).with_name(CLIP_VIT_L)
    encoder = comfy.clip_vision.ClipVisionModel(str(config))
    encoder.load_sd(require_fit(encoder.model, checkpoint, "CLIP ViT-L/14 vision model", POSITION_NUMBERS))
    return encoder


def with_one_vocabulary(checkpoint: Checkpoint) -> Checkpoint:
    """Some T5 files hold the word embeddings under a second name, or only there."""
    tensors = dict(checkpoint.tensors)
    words = tensors.pop("encoder.embed_tokens.weight", None)
    if words is not None:
        tensors.setdefault("shared.weight", words)
    return replace(checkpoint, tensors=tensors)
