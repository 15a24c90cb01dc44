"""The transformer itself, or its motion modules alone, from clips to a component folder (paper 3.1, 4)."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import comfy.ops
import torch
from torch import Tensor

from ..dit.motion_dit import MotionDiT, MotionDiTConfig
from ..release_config import transformer_config
from ..supported_models import RELEASES
from .dit import initialise_motion, noise_objective
from .encoded import EncodedSet
from .export import write_whole
from .loop import Watch, fit, initialise
from .lora import PLAIN_NOISE, on_device, scaled
from .lora_run import DataSettings
from .plan import Plan

MOTION = "attn_temporal."
LEARNING = ("transformer_blocks.", "proj_out.", "pos_embed.", "long_connect_fc.")  # as the releases' fine-tuning


def trainable_network(model, with_motion: bool) -> MotionDiT:
    """The network of a MODEL in float32, for training; an image transformer gets V1's motion modules if wanted.

    New motion modules are silent: at first the network makes of each frame what it made before.
    """
    config = model.model.diffusion_model.config
    if with_motion and not config.motion:
        config = replace(config, motion=RELEASES[0].motion)
    network = initialise(MotionDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init))
    initialise_motion(network)
    weights = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    missing, unexpected = network.load_state_dict(weights, strict=False)
    strangers = [name for name in missing if MOTION not in name] + list(unexpected)
    if strangers:
        raise ValueError(f"The transformer can't be trained as it is loaded, first at {strangers[0]}; load it in bf16.")
    return network


def learning(network: MotionDiT, motion_only: bool) -> Iterator[str]:
    """The names of the weights that learn: motion modules alone, or what the releases fine-tuned."""
    for name, _ in network.named_parameters():
        if MOTION in name if motion_only else name.startswith(LEARNING):
            yield name


def train_transformer(
    model,
    found: EncodedSet,
    data: DataSettings,
    plan: Plan,
    folder: Path,
    motion_only: bool,
    checkpointing: bool,
    watch: Watch | None = None,
) -> MotionDiT:
    """The network of `model`, taught what is in `found`, all that learns averaged; the MODEL stays as it is."""
    with torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(plan.seed)
        network = trainable_network(model, motion_only)
        names = set(learning(network, motion_only))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)
        device = torch.get_default_device()
        batches = on_device(scaled(found.batches(data.batch, plan.seed, data.text_dropout), model), device)
        objective = noise_objective(network, batches, PLAIN_NOISE, plan.seed, checkpointing)
        told = {**vars(data), "motion_only": motion_only}
        return fit(folder, network, objective, plan, watch=watch, told=told)


def save_transformer(network: MotionDiT, folder: Path) -> Path:
    """A component folder as the releases have it: config.json and bfloat16 weights."""
    return _write(folder, "diffusion_pytorch_model", network.config, network.state_dict())


def save_motion_module(network: MotionDiT, folder: Path, name: str) -> Path:
    """The motion modules alone, as `NAME_mm.safetensors`, with the config.json that says which kind they are."""
    weights = {key: tensor for key, tensor in network.state_dict().items() if MOTION in key}
    return _write(folder, f"{name}_mm", network.config, weights)


def _write(folder: Path, name: str, config: MotionDiTConfig, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(transformer_config(config), indent=2) + "\n", encoding="utf-8")
    file = folder / f"{name}.safetensors"
    write_whole(file, {key: tensor.bfloat16() for key, tensor in weights.items()}, {"format": "pt"})
    return file
