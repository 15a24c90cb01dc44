"""Files of transformers of the built-in model's size, with random weights, to train from."""

import json
from dataclasses import replace
from pathlib import Path

import comfy.ops
import torch
from safetensors.torch import save_file

from .pack import part

initialize = part("easyanimate_models.training.initialize")
motion_dit_config = part("easyanimate_models.configs.motion_dit")
tiny = part("easyanimate_models.training.toy.tiny")
MotionDiT = part("easyanimate_models.dit.motion_dit").MotionDiT


def write_transformer(folder: Path, config) -> Path:
    """A transformer with its config.json in a new folder; returns the file."""
    torch.manual_seed(0)
    network = MotionDiT(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    initialize.reset_parameters(network).initialize_weights()
    torch.nn.init.normal_(network.proj_out.weight, std=0.1)
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "base.safetensors")
    (folder / "config.json").write_text(json.dumps(motion_dit_config.transformer_config(config)))
    return folder / "base.safetensors"


def write_image_transformer(folder: Path) -> Path:
    """A PixArt transformer: no motion modules, no long skips."""
    return write_transformer(folder, replace(tiny.DIT, motion=(), skips=None))
