"""The spatial half of the denoiser, a PixArt transformer: ours against that of diffusers."""

from dataclasses import replace

import torch
from diffusers import PixArtTransformer2DModel

from .measure import CUDA, DEVICE, Row, alternating, peak_above, report
from .networks import TEXT_TOKENS, V3, filled, step_inputs, transformer

DEPTH, SIDE = 8, 64  # layers, and latents of a 512 x 512 image
DTYPE = torch.bfloat16 if CUDA else torch.float32
CONFIG = replace(V3, in_channels=4, depth=DEPTH, motion=(), skips=None, clip_tokens=False)


def theirs() -> PixArtTransformer2DModel:
    """The same network by diffusers, with random weights."""
    network = PixArtTransformer2DModel(
        num_attention_heads=CONFIG.heads,
        attention_head_dim=CONFIG.width // CONFIG.heads,
        num_layers=DEPTH,
        sample_size=SIDE,
        cross_attention_dim=CONFIG.width,
        caption_channels=CONFIG.caption_channels,
        use_additional_conditions=False,
    )
    return filled(network).to(DEVICE, DTYPE).eval()


@torch.no_grad()
def main() -> None:
    ours, their, inputs = transformer(CONFIG, DTYPE), theirs(), step_inputs(CONFIG, 2, 1, (SIDE, SIDE), DTYPE)
    size = {"resolution": None, "aspect_ratio": None}

    def their_step():
        mask = inputs["attention_mask"].to(DTYPE)
        x, text = inputs["x"][:, :, 0], inputs["context"]
        return their(x, text, inputs["timesteps"], size, encoder_attention_mask=mask, return_dict=False)[0]

    works = {"ours": lambda: ours(**inputs), "theirs": their_step}
    took = alternating(7, **works)
    peaks = {name: peak_above(work) / 1e6 for name, work in works.items()}
    how = f"{DEPTH} layers of V3's width, {SIDE * SIDE // 4} tokens, batch 2, {TEXT_TOKENS} text tokens"
    gain = took["theirs"] / took["ours"]
    figure = f"{gain:.2f} × ({took['ours']:.2f} s against {took['theirs']:.2f} s)"
    peak = f"{peaks['ours']:.0f} MB against {peaks['theirs']:.0f} MB"
    rows = [
        Row("PixArt step: diffusers against ours", "≥ 1 ×", figure, gain >= 1, how),
        Row("PixArt step: peak, ours against diffusers", "", peak, None, how),
    ]
    report(__file__, rows)


if __name__ == "__main__":
    main()
