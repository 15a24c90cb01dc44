"""The transformer itself, or its motion modules alone, from clips to a component folder (paper 3.1, 4)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management as mm
import comfy.ops
import torch
from torch import Tensor

from ...configs.motion_dit import transformer_config
from ...dit.motion_dit import MotionDiT, MotionDiTConfig
from ...files.atomic import write_safetensors
from ...files.checkpoint import embed_config
from ...host import patcher_class
from ...supported_models import RELEASES
from ..clips.latent_cache import LatentDataset
from ..clips.settings import DataSettings
from ..loop import fit, initialise
from ..samples import NOBODY, Audience, samples_of
from ..training_plan import Plan
from .lora import on_device, scaled
from .objective import METHOD, Method, initialise_dit, initialise_motion, noise_objective

MOTION = "attn_temporal."
LEARNING = ("transformer_blocks.", "proj_out.", "pos_embed.", "long_connect_fc.")  # as the releases' fine-tuning


@dataclass(frozen=True)
class Teaching:
    """What of a transformer learns: its "motion" modules alone, all but them ("image"), or "all"; and how.

    A `fresh` one has forgotten everything before.
    """

    learns: str
    method: Method = METHOD
    fresh: bool = False


def trainable_network(model, teaching: Teaching) -> MotionDiT:
    """The network of a MODEL in float32, for training; an image transformer gets V1's motion modules if they learn.

    New motion modules are silent: at first the network makes of each frame what it made before.
    """
    config = model.model.diffusion_model.config
    if teaching.learns == "motion" and not config.motion:
        config = replace(config, motion=RELEASES[0].motion)
    network = initialise(MotionDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init))
    if teaching.fresh:
        initialise_dit(network)
        return network
    initialise_motion(network)
    weights = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    strangers = [name for name in missing if MOTION not in name] + list(unexpected)
    if strangers:
        raise ValueError(f"The transformer can't be trained as it is loaded, first at {strangers[0]}; load it in bf16.")
    return network


def learning(network: MotionDiT, teaching: Teaching) -> Iterator[str]:
    """The names of the weights that learn; of "all", what the releases fine-tuned, or everything where it is fresh."""
    for name, _ in network.named_parameters():
        is_motion, is_tuned = MOTION in name, teaching.fresh or name.startswith(LEARNING)
        if {"motion": is_motion, "image": not is_motion, "all": is_tuned}[teaching.learns]:
            yield name


def train_transformer(
    model,
    found: LatentDataset,
    data: DataSettings,
    plan: Plan,
    folder: Path,
    teaching: Teaching,
    audience: Audience = NOBODY,
) -> MotionDiT:
    """The network of `model`, taught what is in `found`, all that learns averaged; the MODEL stays as it is."""
    with torch.inference_mode(False), torch.enable_grad():
        device = mm.get_torch_device()
        mm.unload_all_models()  # takes LoRAs out of the weights, and leaves the device to what learns
        torch.manual_seed(plan.seed)
        network = trainable_network(model, teaching).to(device)
        names = set(learning(network, teaching))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)
        drawn = found.batches(data.batch, plan.seed, data.text_dropout, data.clip_dropout)
        batches = on_device(scaled(drawn, model), device)
        method = teaching.method
        objective = noise_objective(network, batches, method.noise, plan.seed, method.checkpointing)
        taught = {"learns": teaching.learns, "fresh": teaching.fresh, "clips": found.count}
        told = {**vars(data), **vars(method.noise), **taught}
        look = samples_of(audience, as_model(network, model), folder, mm.unload_all_models)
        return fit(folder, network, objective, plan, watch=audience.watch, told=told, look=look)


def as_model(network: MotionDiT, like):
    """A network in training as a MODEL of the host, of the release of `like`: it is the same network, not a copy.

    It stays on its device, and the host reckons with no room for it: it has it already.
    """
    release = type(like.model.model_config)(network.config)
    release.unet_config["disable_unet_model_creation"] = True
    model = release.get_model({})
    model.diffusion_model = network
    device = next(network.parameters()).device
    return patcher_class(disable_dynamic=True)(model, device, device, size=1)


def save_transformer(config: MotionDiTConfig, weights: dict[str, Tensor], folder: Path) -> Path:
    """A component folder as the releases have it: config.json and bfloat16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    told = json.dumps(transformer_config(config), indent=2)
    (folder / "config.json").write_text(told + "\n", encoding="utf-8")
    file = folder / "diffusion_pytorch_model.safetensors"
    write_safetensors(file, {key: tensor.bfloat16() for key, tensor in weights.items()}, {"format": "pt"})
    return file


def save_motion_module(config: MotionDiTConfig, weights: dict[str, Tensor], folder: Path, name: str) -> Path:
    """The motion modules alone, as `NAME_mm.safetensors`; which kind they are is said inside, for any folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}_mm.safetensors"
    write_safetensors(file, motion_weights(weights) | embed_config(transformer_config(config)), {"format": "pt"})
    return file


def motion_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The motion modules among them in bfloat16, as files have them."""
    return {key: tensor.bfloat16() for key, tensor in weights.items() if MOTION in key}
