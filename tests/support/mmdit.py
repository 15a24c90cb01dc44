"""The MMDiT of V5 and V5.1, small enough for a test, and recorded ones as components."""

from dataclasses import replace
from pathlib import Path

import torch

from .components import write_component
from .pack import part
from .recorded import golden
from .tiny_networks import random, tiny_patcher

mmdit = part("easyanimate_models.dit.mmdit")
supported_models = part("easyanimate_models.supported_models")

MMDIT = mmdit.MMDiTConfig(
    in_channels=16,
    latent_channels=16,
    width=32,
    depth=3,
    mmdit_layers=2,
    heads=2,
    caption_channels=24,
    caption_channels_2=None,
    text_norm=True,
    timestep_channels=12,
    eps=1e-5,
    patch=2,
)
TWO_TEXTS = {"caption_channels_2": 20, "text_norm": False}  # what V5 changes
TO_DIFFUSERS = {  # our names of the text's own projections -> those of diffusers
    ".attn2.to_out.0.": ".attn1.to_add_out.",
    **{f".attn2.to_{x}.": f".attn1.add_{x}_proj." for x in "qkv"},
    **{f".attn2.norm_{x}.": f".attn1.norm_added_{x}." for x in "qk"},
}
CPU = torch.device("cpu")


def tiny_mmdit(**changed):
    """A ModelPatcher around `MMDIT`, in float32 on the CPU; of V5 if it takes two texts."""
    config = replace(MMDIT, **changed)
    kind = supported_models.EasyAnimateV51 if config.text_norm else supported_models.EasyAnimateV5
    return tiny_patcher(kind(config))


def inputs_of(network, *shape: int) -> dict[str, torch.Tensor]:
    """Random inputs of a network: latents of this shape `[B, F, H, W]`, timesteps and text."""
    batch, config = shape[0], network.config
    given = {
        "x": random(batch, config.in_channels, *shape[1:]),
        "timesteps": torch.linspace(900, 100, batch),
        "context": random(batch, 5, config.caption_channels, seed=1),
    }
    if config.caption_channels_2 is not None:
        given["context_t5"] = random(batch, 7, config.caption_channels_2, seed=2)
    return given


def in_diffusers_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an MMDiT as diffusers saves them."""

    def renamed(key: str) -> str:
        for ours, theirs in TO_DIFFUSERS.items():
            key = key.replace(ours, theirs)
        return key

    return {renamed(key): tensor for key, tensor in tensors.items()}


def recorded_component(folder: Path, name: str) -> Path:
    """A recorded transformer as a component folder."""
    found = golden(name)
    return write_component(folder, found.weights, found.config["constructor"])
