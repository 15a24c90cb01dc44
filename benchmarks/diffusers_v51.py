"""V5.1's network and VAE against those of diffusers: random weights, real widths, few blocks, in turn."""

import torch
from comfy.ops import disable_weight_init
from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel

from easyanimate_models.supported_models import EasyAnimateV51
from easyanimate_models.vae.slice_vae import SliceVAEConfig

from .measure import DEVICE, Row, against, report
from .mmdit_step import BLOCKS_OF_7B, LATENTS, TEXT_TOKENS, inputs, network
from .networks import filled

VAE = SliceVAEConfig(
    channels=(128, 256, 512, 512),
    layers=2,
    latent_channels=16,
    norm_groups=32,
    scaling_factor=0.7125,
    norm="frame",
    attention=None,
)
VIDEO = (1, 16, 3, 24, 24)  # 9 frames of 192 x 192
STEP = f"4 of the 7B's 36 blocks, batch 2 of 512 tokens and {TEXT_TOKENS} of text, bfloat16"
DECODE = "9 frames of 192 x 192, the released widths, float32"
DTYPE = torch.bfloat16  # of the released files: in float32 on a CPU, nine tenths of both are the same products


def our_step():
    """A step of our network."""
    model, given = network(dtype=DTYPE), inputs(BLOCKS_OF_7B, *LATENTS, dtype=DTYPE)
    return lambda: model(**given)


def their_step():
    """The same of diffusers'."""
    config = BLOCKS_OF_7B
    model = EasyAnimateTransformer3DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=config.in_channels,
        out_channels=config.latent_channels,
        patch_size=config.patch,
        num_layers=config.depth,
        mmdit_layers=config.mmdit_layers,
        add_norm_text_encoder=config.text_norm,
        text_embed_dim=config.caption_channels,
    )
    model, given = filled(model).to(DEVICE, DTYPE).eval(), inputs(config, *LATENTS, dtype=DTYPE)
    latents, inpainting = given["x"].split([config.latent_channels, config.in_channels - config.latent_channels], dim=1)
    named = {"encoder_hidden_states": given["context"], "inpaint_latents": inpainting, "return_dict": False}
    return lambda: model(latents, given["timesteps"], **named)


def our_decode():
    """Our VAE's decoding."""
    model = filled(EasyAnimateV51.vae(VAE, device=DEVICE, operations=disable_weight_init)).eval()
    model = model.to(memory_format=model.channels_last) if DEVICE.type == "cpu" else model
    z = torch.randn(VIDEO, device=DEVICE)
    return lambda: model.decode(z)


def their_decode():
    """The same of diffusers'."""
    model, z = filled(AutoencoderKLMagvit()).to(DEVICE).eval(), torch.randn(VIDEO, device=DEVICE)
    return lambda: model.decode(z, return_dict=False)


@torch.no_grad()
def rows() -> list[Row]:
    """Speed of both in pairs, and the peak of each in a process of its own."""
    return [
        *against("diffusers", "V5.1 step", 1.05, our_step, their_step, STEP),
        *against("diffusers", "V5.1 decode", 1.3, our_decode, their_decode, DECODE),
    ]


if __name__ == "__main__":
    report(__file__, rows())
