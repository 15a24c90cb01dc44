"""What training a LoRA takes at 512×512, with the frozen base in bf16 or fp8, and with blocks of it in RAM.

Counted on tensors without numbers, at the releases' width and depth: a forward pass whose blocks are recomputed in the
backward pass. Attention takes what a fused one does. A CPU measures two such steps that are small enough for it.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from easyanimate_models.host import patcher_class
from easyanimate_models.supported_models import EasyAnimateV3, EasyAnimateV51
from easyanimate_models.training.denoiser.block_swap import AT_WORK, BlockSwap
from easyanimate_models.training.denoiser.frozen_base import FrozenDenoiser
from easyanimate_models.training.denoiser.lora import LoraSettings, add_adapters
from easyanimate_models.training.denoiser.objective import checkpointed_blocks

from .live_bytes import LiveBytes
from .measure import Row, in_own_process, machine, peak_above, report
from .networks import filled
from .step_memory import CPU, GB, META, OF_7B, V3, Size, inputs_of

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
RANK = 16
LEARNT = 20  # bytes of a trained number: itself, its gradient and average, and two of AdamW's
RELEASES = {"V3": EasyAnimateV3, "V5.1 7B": EasyAnimateV51}
SIZES = (Size("V3", V3, 512, 512, 48, 12), Size("V5.1 7B", OF_7B, 512, 512, 49, 13))
SMALL_V3 = Size("V3", replace(V3, width=576, heads=8, depth=6, skips=None), 256, 256, 32, 8)
SMALL_V51 = Size("V5.1 7B", replace(OF_7B, width=768, heads=12, depth=6, mmdit_layers=3), 256, 256, 13, 4)
MEASURED = ((SMALL_V3, 0), (SMALL_V3, 4), (SMALL_V51, 2))


class FusedAttention(torch.autograd.Function):
    """What a fused attention keeps and gives, on tensors without numbers."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(given) for given in ctx.saved_tensors[:3])


def fused(function, q: Tensor, k: Tensor, v: Tensor, *_, skip_reshape: bool = False, **__) -> Tensor:
    """In place of the host's attention."""
    out = FusedAttention.apply(q, k, v)
    return out.transpose(1, 2).flatten(2) if skip_reshape else out


@dataclass(frozen=True)
class Step:
    """A step of LoRA training: `take` it; `known` are the tensors that are there before and after."""

    take: Callable[[], None]
    known: list[Tensor]
    network: nn.Module
    learnt: int  # numbers that are trained


def step_of(size: Size, dtype: torch.dtype, device: torch.device) -> Step:
    """A LoRA of every layer on a frozen base of `dtype`, which computes in bfloat16 if that is fp8."""
    release = RELEASES[size.release](size.config)
    release.set_inference_dtype(dtype, BF16 if dtype == FP8 else None)
    model = release.get_model({}, device=META)
    model.diffusion_model = model.diffusion_model.to_empty(device=device)
    if device == CPU:
        filled(model.diffusion_model)
    patcher = patcher_class(disable_dynamic=True)(model, device, device)
    with torch.device(device):
        patcher, adapters = add_adapters(patcher, LoraSettings(RANK, RANK))
    patcher.patch_model(device)
    model.requires_grad_(False)
    for parameter in adapters.parameters():
        parameter.grad = torch.zeros_like(parameter)
    denoiser, inputs = FrozenDenoiser(model), {name: t.float() for name, t in inputs_of(size, device).items()}
    options = checkpointed_blocks(size.config.depth)
    if device == META:
        options["optimized_attention_override"] = fused

    def take() -> None:
        with torch.enable_grad():
            predicted = denoiser(inputs["x"], inputs["timesteps"], **texts, transformer_options=options)
            predicted.float().square().mean().backward()

    texts = {name: tensor for name, tensor in inputs.items() if name not in ("x", "timesteps")}
    gradients = [parameter.grad for parameter in adapters.parameters()]
    known = [*inputs.values(), *model.diffusion_model.parameters(), *adapters.parameters(), *gradients]
    return Step(take, known, model.diffusion_model, sum(p.numel() for p in adapters.parameters()))


def swapping(stack: ExitStack, step: Step, blocks_to_swap: int, device: torch.device) -> int:
    """From now on so many blocks wait in RAM; the bytes of weights that stay on the device."""
    weights = list(step.network.parameters())
    if blocks_to_swap:
        swap = BlockSwap(step.network.blocks_in_order, blocks_to_swap, device)
        swap.open()
        stack.callback(swap.close)
        streamed = {id(p) for block in swap.streamed for p in block.parameters()}
        weights = [p for p in weights if id(p) not in streamed]
    return sum(p.nbytes for p in weights)


def counted(size: Size, dtype: torch.dtype, blocks_to_swap: int) -> tuple[int, int]:
    """Bytes of weights that stay on the device, and the most that a step takes beside them and what is learnt."""
    step = step_of(size, dtype, META)
    with ExitStack() as stack:
        weights = swapping(stack, step, blocks_to_swap, META)
        live = stack.enter_context(LiveBytes(*step.known))
        step.take()
    return weights, live.peak


def measured(size: Size, blocks_to_swap: int) -> int:
    """Bytes by which memory rises, on the CPU, in the second step; the first one swaps no blocks, and leaves none."""
    step = step_of(size, torch.float32, CPU)
    step.take()
    with ExitStack() as stack:
        swapping(stack, step, blocks_to_swap, CPU)
        return peak_above(step.take)


def measured_row(size: Size, blocks_to_swap: int) -> Row:
    """What is counted against what a process takes."""
    found, (_, expected) = in_own_process(measured, size, blocks_to_swap), counted(size, torch.float32, blocks_to_swap)
    figure = f"{expected / found:.2f} × ({expected / 1e6:.0f} of {found / 1e6:.0f} MB)"
    how = f"{size.config.depth} layers {size.config.width} wide, swapped ones copied, {machine()}, float32, rank {RANK}"
    question = f"LoRA of {size}, {blocks_to_swap} blocks swapped: counted against measured"
    return Row(question, "0.85 to 1.15", figure, abs(expected / found - 1) <= 0.15, how)


def table() -> str:
    """What artists look for: what training takes, and what swapping blocks saves."""
    lines = ["| LoRA of | base | swapped | base on the GPU | step | LoRA | in all |", "|---|---|---|---|---|---|---|"]
    for size in SIZES:
        depth = size.config.depth
        for dtype, name in ((BF16, "bf16"), (FP8, "fp8")):
            learnt = LEARNT * step_of(size, dtype, META).learnt
            for swapped in (0, depth // 2, depth - AT_WORK):
                weights, peak = counted(size, dtype, swapped)
                figures = (f"{each / GB:.1f} GB" for each in (weights, peak, learnt, weights + peak + learnt))
                lines.append("| " + " | ".join([str(size), name, f"{swapped} of {depth}", *figures]) + " |")
    return "\n".join(lines) + (
        "\n\nOne clip at a time. *Base*: the frozen transformer. *Step*: activations, blocks recomputed, and what\n"
        f"is sent of those that are swapped. *LoRA*: rank {RANK} on every layer, with its gradient, average and\n"
        "AdamW's state, in float32.\n"
    )


def main() -> None:
    rows = [measured_row(*each) for each in MEASURED]
    report(__file__, rows, table())


if __name__ == "__main__":
    main()
