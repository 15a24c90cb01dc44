"""V3's network and Slice VAE against the original's, from a checkout that the person brings: same sizes, in turn.

Both have random weights at the released widths; the checkout is only imported.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from easyanimate_models.configs.motion_dit import transformer_config
from easyanimate_models.configs.vae import vae_config
from easyanimate_models.supported_models import EasyAnimateV3

from .measure import DEVICE, Row, against, report
from .networks import SLICE_VAE, TEXT_TOKENS, V3, filled, slice_vae, step_inputs, transformer

DEPTH, FRAMES, SIDE = 4, 4, 32  # layers; latents: 1024 tokens
LATENTS = (1, 4, 4, 24, 24)  # 16 frames of 192 x 192
DTYPE = torch.bfloat16  # of the released transformer: in float32 on a CPU, nine tenths of both are the same products
TEXT_TO_VIDEO = replace(V3, in_channels=4, depth=DEPTH, skips=None, clip_tokens=False)
STEP = f"{DEPTH} layers of V3's width, batch 2 of {FRAMES * SIDE * SIDE // 4} tokens, {TEXT_TOKENS} of text, bfloat16"
DECODE = "16 frames of 192 x 192, the released widths, float32"


def our_step():
    """A step of our network."""
    network = transformer(TEXT_TO_VIDEO, DTYPE)
    inputs = step_inputs(TEXT_TO_VIDEO, 2, FRAMES, (SIDE, SIDE), DTYPE)
    return lambda: network(**inputs)


def their_step(folder: Path):
    """The same of the original's."""
    sys.path.insert(0, str(folder))
    from easyanimate.models.transformer3d import Transformer3DModel

    settings = {k: v for k, v in transformer_config(TEXT_TO_VIDEO).items() if not k.startswith("_")}
    network = filled(Transformer3DModel(**settings, num_embeds_ada_norm=1000, norm_eps=1e-6)).to(DEVICE, DTYPE).eval()
    inputs = step_inputs(TEXT_TO_VIDEO, 2, FRAMES, (SIDE, SIDE), DTYPE)
    given = {
        "timestep": inputs["timesteps"],
        "encoder_hidden_states": inputs["context"],
        "text_embedding_mask": inputs["attention_mask"][:, None],
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "return_dict": False,
    }
    return lambda: network(inputs["x"], **given)


def our_decode():
    """Our VAE's decoding."""
    network, z = slice_vae(), torch.randn(LATENTS, device=DEVICE)
    return lambda: network.decode(z)


def their_decode(folder: Path):
    """The same of the original's."""
    sys.path.insert(0, str(folder))
    from easyanimate.models.autoencoder_magvit import AutoencoderKLMagvit

    settings = {k: v for k, v in vae_config(SLICE_VAE, EasyAnimateV3.vae_flags).items() if not k.startswith("_")}
    network = filled(AutoencoderKLMagvit(**{"slice_mag_vae": False, **settings})).to(DEVICE).eval()
    z = torch.randn(LATENTS, device=DEVICE)
    return lambda: network.decode(z)


@torch.no_grad()
def rows(folder: Path) -> list[Row]:
    """Speed of both in pairs, and the peak of each in a process of its own."""
    return [
        *against("the original", "DiT step", 1.1, our_step, partial(their_step, folder), STEP),
        *against("the original", "Slice VAE decode", 1.5, our_decode, partial(their_decode, folder), DECODE),
    ]


if __name__ == "__main__":
    report(__file__, rows(Path(sys.argv[1])))
