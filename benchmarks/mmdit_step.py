"""How near to the machine's limit one step of V5.1's denoiser runs, at its real width, and what memory it takes."""

from dataclasses import replace

import comfy.ops
import torch

from easyanimate_models.dit.mmdit import MMDiT, MMDiTConfig

from .measure import CUDA, DEVICE, Row, in_own_process, matrix_share, peak_above, report
from .networks import filled

DTYPE = torch.bfloat16 if CUDA else torch.float32
TEXT_TOKENS = 256
LATENTS = (2, 2, 32, 32)  # batch, frames, height, width: 512 tokens each
LONGER = (1, 8, 64, 64)  # 8192 tokens
BLOCKS_OF_7B = MMDiTConfig(  # its 36 blocks, a ninth of each kind
    in_channels=33,
    latent_channels=16,
    width=3072,
    depth=4,
    mmdit_layers=2,
    heads=48,
    caption_channels=3584,
    caption_channels_2=None,
    text_norm=True,
    timestep_channels=512,
    eps=1e-5,
    patch=2,
)


def network(config: MMDiTConfig = BLOCKS_OF_7B, dtype: torch.dtype = DTYPE, device: torch.device = DEVICE) -> MMDiT:
    """A transformer built as the host builds it, with random weights."""
    return filled(MMDiT(config, dtype=dtype, device=device, operations=comfy.ops.disable_weight_init)).eval()


def inputs(config: MMDiTConfig, batch: int, *size: int, dtype: torch.dtype = DTYPE) -> dict[str, torch.Tensor]:
    """Inputs of a step: latents of so many frames, height and width, and text."""
    like = {"device": DEVICE, "dtype": dtype}
    return {
        "x": torch.randn(batch, config.in_channels, *size, **like),
        "timesteps": torch.full((batch,), 500.0, device=DEVICE),
        "context": torch.randn(batch, TEXT_TOKENS, config.caption_channels, **like),
    }


def step_row() -> Row:
    """One step, against a large product in the same run."""
    model, given = network(), inputs(BLOCKS_OF_7B, *LATENTS)
    weights = sum(p.numel() for p in model.parameters())
    how = f"4 of the 7B's 36 blocks, {weights / 1e9:.2f} B parameters, batch 2 of 512 tokens and {TEXT_TOKENS} of text"
    return matrix_share(lambda: model(**given), DTYPE).row("V5.1 step", DTYPE, how)


@torch.no_grad()
def step_peak() -> int:
    """Bytes above the weights, of a step of one block."""
    config = replace(BLOCKS_OF_7B, depth=1, mmdit_layers=1)
    model, small, given = network(config), inputs(config, *LATENTS), inputs(config, *LONGER)
    model(**small)
    return peak_above(lambda: model(**given))


def peak_row() -> Row:
    """What a step takes beside the weights; the number of blocks does not matter."""
    peak, tokens = in_own_process(step_peak), LONGER[1] * LONGER[2] * LONGER[3] // 4
    state = (tokens + TEXT_TOKENS) * BLOCKS_OF_7B.width * DTYPE.itemsize
    figure = f"{peak / 1e6:,.0f} MB, {peak / state:.1f} times the tokens themselves"
    how = f"a block at real width, {tokens} tokens; what does not grow with the video is at most 0.9 GB in float32"
    return Row("V5.1 step: peak above weights", "", figure, None, how)


@torch.no_grad()
def main() -> None:
    report(__file__, [step_row(), peak_row()])


if __name__ == "__main__":
    main()
