"""V4's denoiser at real width: how near to the machine's limit a step runs, and what memory it takes."""

from dataclasses import replace

import comfy.ops
import torch

from easyanimate_models.dit.hunyuan_dit import HunyuanDiT, HunyuanDiTConfig
from easyanimate_models.dit.hunyuan_embedders import ResamplerConfig
from easyanimate_models.dit.step_plan import StepPlan

from .measure import CUDA, DEVICE, Row, in_own_process, machine, matrix_share, peak_above, report
from .networks import filled

V4 = HunyuanDiTConfig(
    in_channels=12,
    latent_channels=4,
    width=1408,
    depth=40,
    heads=16,
    inner=6144,
    caption_channels=1024,
    caption_channels_2=2048,
    text_length=77,
    text_length_2=256,
    pooled_channels=1024,
    resampler=ResamplerConfig(queries=16, channels=1024, projected=False),
    patch=2,
)
SHALLOW = replace(V4, depth=8)  # three of them skip: as long a step as a shared CPU should take
CLIP_TOKENS = 256
FRAMES, SIDE = 8, 16  # latents: 512 tokens in each of a batch of 2
SIZE = (256, 256, 16)  # pixels and frames of the peak
DTYPE = torch.bfloat16 if CUDA else torch.float32


def network(config: HunyuanDiTConfig, dtype: torch.dtype, device: torch.device = DEVICE) -> HunyuanDiT:
    """A transformer built as the host builds it."""
    return filled(HunyuanDiT(config, dtype=dtype, device=device, operations=comfy.ops.disable_weight_init)).eval()


def inputs(config: HunyuanDiTConfig, frames: int, sides: tuple[int, int], dtype: torch.dtype) -> dict:
    """Inputs of a step of batch 2: noisy latents of `frames` and height x width (in latents), texts, start image."""

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, device=DEVICE, dtype=dtype)

    return {
        "x": random(config.in_channels, frames, *sides),
        "timesteps": torch.full((2,), 500.0, device=DEVICE),
        "context": random(config.text_length, config.caption_channels),
        "context_t5": random(config.text_length_2, config.caption_channels_2),
        "clip_embeds": random(CLIP_TOKENS, config.caption_channels),
    }


@torch.no_grad()
def step_row() -> Row:
    """One step, against a large product in the same run."""
    config, frames, side = (V4, 12, 64) if CUDA else (SHALLOW, FRAMES, SIDE)
    denoiser, given = network(config, DTYPE), inputs(config, frames, (side, side), DTYPE)
    how = f"{config.depth} layers, batch 2 of {frames * side * side // 4} tokens"
    return matrix_share(lambda: denoiser(**given), DTYPE).row("V4 step", DTYPE, how)


@torch.no_grad()
def peak() -> int:
    """Bytes above the weights in a step of all layers, once a small one has been through."""
    denoiser = network(V4, torch.bfloat16)
    denoiser(**inputs(V4, 1, (4, 4), torch.bfloat16))
    width, height, frames = SIZE
    given = inputs(V4, frames // 4, (height // 8, width // 8), torch.bfloat16)
    return peak_above(lambda: denoiser(**given))


def estimate_row() -> Row:
    """What the host reckons with, against the peak."""
    width, height, frames = SIZE
    shape = (2, V4.in_channels, frames // 4, height // 8, width // 8)
    reckoned = network(V4, torch.bfloat16, torch.device("meta")).step_bytes(shape, 2, StepPlan())
    found = in_own_process(peak)
    figure = f"{reckoned / found:.2f} × ({reckoned / 1e6:.0f} of {found / 1e6:.0f} MB)"
    question = "V4 step: estimate against peak, {}×{}×{}".format(*SIZE)
    return Row(question, "0.85 to 1.15", figure, abs(reckoned / found - 1) <= 0.15, f"{machine()}, bfloat16, 40 layers")


def main() -> None:
    report(__file__, [step_row(), estimate_row()])


if __name__ == "__main__":
    main()
