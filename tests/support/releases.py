"""V1 in its two files and V2, tiny and untrained, where users put them, and prompts that run them."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.ops import disable_weight_init
from safetensors.torch import save_file

from tools import comfyui
from tools.workflows.author import node

from .pack import part
from .prompts import empty, ksampler, sampler, text_to_video
from .recorded import golden
from .tiny_networks import DIT, randomise

motion_dit = part("easyanimate_models.dit.motion_dit")
motion_module = part("easyanimate_models.dit.motion_module")
supported_models = part("easyanimate_models.supported_models")
embed_config = part("easyanimate_models.files.checkpoint").embed_config
transformer_config = part("easyanimate_models.configs.motion_dit").transformer_config

PREFIX = "easyanimate-test-"
V1_BASE, V1_MOTION_MODULE, V2 = (f"{PREFIX}{name}" for name in ("v1-base.pth", "v1-mm.safetensors", "v2.safetensors"))
VAES = {"V1": f"{PREFIX}V1.safetensors", "V2": f"{PREFIX}V2.safetensors"}
RECORDED_VAES = {"V1": "v1_e2e/sd_vae", "V2": "v2_mag_vae/mag_vae"}
TEXT_WIDTH = 32  # of the tiny text encoder


@contextlib.contextmanager
def release_files() -> Iterator[None]:
    """All of them among the models of this process, for as long as this lasts."""
    models = comfyui.BASE / "models"
    _save_v1(models / "diffusion_models")
    _save_v2(models / "diffusion_models")
    for release, name in RECORDED_VAES.items():
        recorded = golden(name)
        save_file(recorded.weights | embed_config(recorded.config["constructor"]), models / "vae" / VAES[release])
    try:
        yield
    finally:
        for file in models.glob(f"*/{PREFIX}*"):
            file.unlink()


def _save_v1(folder: Path) -> None:
    """A PixArt checkpoint as it was released, and the motion module beside it."""
    sizes = {"hidden_size": 96, "depth": 2, "caption_channels": TEXT_WIDTH, "micro_condition": False}
    base = PixArtMS(**sizes, operations=disable_weight_init)
    motion = motion_module.MotionModule(96, supported_models.EasyAnimateV1.motion[0], None, None, disable_weight_init)
    randomise(base)
    randomise(motion)
    torch.save({"state_dict": base.state_dict()}, folder / V1_BASE)
    blocks = [f"transformer_blocks.{i}.attn_temporal." for i in range(2)]
    tensors = {block + k: v.clone() for block in blocks for k, v in motion.state_dict().items()}
    save_file(tensors, folder / V1_MOTION_MODULE)


def _save_v2(folder: Path) -> None:
    config = replace(DIT, caption_channels=TEXT_WIDTH, motion=supported_models.EasyAnimateV2.motion)
    network = motion_dit.MotionDiT(config, operations=disable_weight_init)
    randomise(network)
    save_file(network.state_dict() | embed_config(transformer_config(config)), folder / V2)


def release_to_video(release: str, **changed) -> dict:
    """Prompt to ten frames, with the stock sampler for V1 and ours for V2; `changed` are nodes by name."""
    if release == "V1":
        files = {"transformer": V1_BASE, "motion_module": V1_MOTION_MODULE}
        sample = ksampler(steps=2)
    else:
        files = {"transformer": V2}
        sample = sampler(steps=2)
    nodes = text_to_video(
        model=node("EasyAnimateLoadTransformer", **files, weight_dtype="default"),
        vae=node("EasyAnimateLoadVAE", vae=VAES[release]),
        empty=empty(10, 64, 48, vae=["vae", 0]),
        sampler=sample,
    )
    return nodes | changed
