"""The transformer itself, or its motion modules alone, from clips to a component folder (paper 3.1, 4)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.ops
import torch
from torch import Tensor

from ..dit.motion_dit import MotionDiT, MotionDiTConfig
from ..release_config import transformer_config
from ..supported_models import RELEASES
from .dit import NoiseWeights, initialise_dit, initialise_motion, noise_objective
from .encoded import EncodedSet
from .export import write_whole
from .loop import Watch, fit, initialise
from .lora import PLAIN_NOISE, on_device, scaled
from .lora_run import DataSettings
from .plan import Plan

MOTION = "attn_temporal."
LEARNERS = ("motion", "image", "all")
LEARNING = ("transformer_blocks.", "proj_out.", "pos_embed.", "long_connect_fc.")  # as the releases' fine-tuning


@dataclass(frozen=True)
class Teaching:
    """What of a transformer learns: its "motion" modules alone, all but them ("image"), or "all"; and how.

    A `fresh` one has forgotten everything before. With `checkpointing`, blocks are computed twice to save memory.
    """

    learns: str
    noise: NoiseWeights = PLAIN_NOISE
    checkpointing: bool = True
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
    found: EncodedSet,
    data: DataSettings,
    plan: Plan,
    folder: Path,
    teaching: Teaching,
    watch: Watch | None = None,
) -> MotionDiT:
    """The network of `model`, taught what is in `found`, all that learns averaged; the MODEL stays as it is."""
    with torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(plan.seed)
        network = trainable_network(model, teaching)
        names = set(learning(network, teaching))
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)
        device = torch.get_default_device()
        batches = on_device(scaled(found.batches(data.batch, plan.seed, data.text_dropout), model), device)
        objective = noise_objective(network, batches, teaching.noise, plan.seed, teaching.checkpointing)
        told = {**vars(data), **vars(teaching.noise), "learns": teaching.learns, "fresh": teaching.fresh}
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
