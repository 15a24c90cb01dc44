"""The few differences between the host versions that we support, each named after the version that needs it."""

import contextlib
import inspect
import json
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import comfy.clip_vision
import comfy.context_windows
import comfy.ldm.flux.math
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor
from torch.overrides import TorchFunctionMode


def patcher_class(disable_dynamic: bool = False) -> type:
    """0.33 rebinds `CoreModelPatcher` at start-up, so it is looked up when called."""
    plain = comfy.model_patcher.ModelPatcher
    return plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)


def is_dynamic(patcher) -> bool:
    """0.33 streams weights; then they are assigned instead of copied."""
    return patcher.is_dynamic() if hasattr(patcher, "is_dynamic") else False


def static(patcher):
    """A MODEL whose weights lie in its modules: 0.33 makes another of one that it streams from the file."""
    return patcher.clone(disable_dynamic=True) if is_dynamic(patcher) else patcher


def clip_with_weights(target, state_dicts: list[dict[str, Tensor]], **kwargs) -> comfy.sd.CLIP:
    """0.33 takes the weights, a dictionary per file, in the constructor of CLIP, 0.3.75 after it."""
    if "state_dict" in inspect.signature(comfy.sd.CLIP.__init__).parameters:
        return comfy.sd.CLIP(target, state_dict=state_dicts, **kwargs)
    clip = comfy.sd.CLIP(target, **kwargs)
    for state_dict in state_dicts:
        clip.load_sd(state_dict)
    return clip


def clip_vision(config: dict) -> comfy.clip_vision.ClipVisionModel:
    """CLIP's image encoder, without its weights; 0.3.75 reads the config from a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config), encoding="utf-8")
        return comfy.clip_vision.ClipVisionModel(str(file))


def readable_quantisation(tensors: dict[str, Tensor], metadata: dict) -> dict[str, Tensor] | None:
    """Quantised weights as this host reads them: 0.33 has a newer form; 0.3.75 knows only scaled fp8 (else None)."""
    if hasattr(comfy.utils, "convert_old_quants"):
        return comfy.utils.convert_old_quants(dict(tensors), "", metadata=metadata)[0]
    newer = any(key.endswith((".weight_scale", ".comfy_quant")) for key in tensors)
    return None if newer else tensors


def t5_options(detected: dict) -> dict:
    """What `t5_xxl_detect` found beside the dtype: 0.3.75 and 0.33 name it differently."""
    options = {}
    if detected.get("t5xxl_scaled_fp8") is not None:
        options["t5xxl_scaled_fp8"] = detected["t5xxl_scaled_fp8"]
    if detected.get("t5_quantization_metadata") is not None:
        options["t5xxl_quantization_metadata"] = detected["t5_quantization_metadata"]
    return options


def quantisation_options(tensors: dict[str, Tensor]) -> dict:
    """How the host's text encoders are told that these weights are quantised; see `readable_quantisation`."""
    if hasattr(comfy.utils, "detect_layer_quantization"):
        found = comfy.utils.detect_layer_quantization(tensors, "")
        return {} if found is None else {"quantization_metadata": found}
    marker = tensors.get("scaled_fp8")
    if marker is None:
        return {}
    return {"scaled_fp8": torch.float8_e4m3fn if marker.dtype == torch.float32 else marker.dtype}


def out_of_memory(error: Exception) -> bool:
    """0.33 knows more kinds of it than the one exception class that 0.3.75 names; neither means the machine's own."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return True
    if hasattr(mm, "is_oom"):
        return mm.is_oom(error)
    return isinstance(error, mm.OOM_EXCEPTION)


def prepare_quantised(release, tensors: dict[str, Tensor], metadata: dict) -> dict[str, Tensor] | None:
    """Quantised transformer weights as this host reads them, which `release` then declares; None when it can't.

    0.33 keeps a scale beside each weight as its own kind of tensor; 0.3.75 has operations for scaled fp8.
    """
    readable = readable_quantisation(tensors, metadata)
    if readable is None:
        return None
    if hasattr(comfy.utils, "detect_layer_quantization"):
        release.quant_config = comfy.utils.detect_layer_quantization(readable, "")
        return readable
    marker = readable.get("scaled_fp8")
    if marker is not None:
        release.scaled_fp8 = torch.float8_e4m3fn if marker.dtype == torch.float32 else marker.dtype
        release.optimizations["fp8"] = marker.nelement() != 2
    return {k: v for k, v in readable.items() if k != "scaled_fp8"}


def fixed_empty_latent(model, latent: dict) -> Tensor:
    """An empty latent of another model in this model's shape; 0.33 also converts its ratios."""
    fix = comfy.sample.fix_empty_latent_channels
    ratios = {k: v for k, v in latent.items() if k.startswith("downscale_ratio")}
    takes_ratios = "downscale_ratio_spacial" in inspect.signature(fix).parameters
    return fix(model, latent["samples"], **(ratios if takes_ratios else {}))


def total_frames(window) -> int | None:
    """How many latent frames the video has that a context window is cut from; 0.3.75 does not say."""
    return getattr(window, "total_frames", 0) or None


def context_handler(length: int, overlap: int, causal: bool) -> comfy.context_windows.IndexListContextHandler:
    """The host's windows over latent frames; for causal latents each sees the frame before it as an anchor.

    0.33 does that itself, for 0.3.75 it is asked of `long_video.with_any_batch`.
    """
    kind = comfy.context_windows.IndexListContextHandler
    takes_anchor = "causal_window_fix" in inspect.signature(kind.__init__).parameters
    handler = kind(
        context_schedule=comfy.context_windows.get_matching_context_schedule("standard_static"),
        fuse_method=comfy.context_windows.get_matching_fuse_method("pyramid"),
        context_length=length,
        context_overlap=overlap,
        dim=2,
        **({"causal_window_fix": causal} if takes_anchor else {}),
    )
    handler.needs_anchor = causal and not takes_anchor
    return handler


def prepares_for_windows(model) -> None:
    """Tell the host to reckon with the memory of one window."""
    comfy.context_windows.create_prepare_sampling_wrapper(model)


@contextlib.contextmanager
def training(on: bool = True):
    """0.33 casts weights another way while something learns; off, as if nothing did."""
    before = getattr(mm, "in_training", None)
    if before is not None:
        mm.in_training = on
    try:
        yield
    finally:
        if before is not None:
            mm.in_training = before


def rotates_by_a_kernel() -> bool:
    """0.33 turns heads by their positions in one kernel, unless something learns; 0.3.75 by sums in float32."""
    return hasattr(comfy.ldm.flux.math, "_apply_rope1")


class OwnSums(TorchFunctionMode):
    """0.33's language models write a sum over what they were given; within this it is a new tensor, which can learn."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        named = dict(kwargs or {})
        if function is torch.add:
            named.pop("out", None)
        return function(*args, **named)


def knows_search_aliases() -> bool:
    """Since 0.33 a node can list words that it is found by."""
    return "search_aliases" in inspect.signature(io.Schema).parameters


def knows_advanced_inputs() -> bool:
    """Since 0.33 editors fold away inputs that are marked as advanced; 0.3.75 is left to show all."""
    return "advanced" in inspect.signature(io.Int.Input).parameters


def require_choice(what: str, name: str, options: Iterable[str]) -> str:
    """`name`, one of the options of an input. 0.3.75 takes any string for a choice; `ValueError` for another one."""
    if name not in options:
        raise ValueError(f"There is no {what} named {name!r:.60}; refresh and choose again.")
    return name


def show_text(node: str, text: str) -> None:
    """A line of text below a node while it runs."""
    from server import PromptServer

    if hasattr(PromptServer.instance, "send_progress_text"):
        PromptServer.instance.send_progress_text(text, node)


def show_warnings(node: str, sentences: list[str]) -> None:
    """Sentences below a node while it runs, and in the log."""
    text = "\n".join(sentences)
    logging.warning("%s", text)
    show_text(node, text)
