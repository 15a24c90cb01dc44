"""What a step takes beside the weights, at the sizes that artists make, and which of them fit an 8 GB card.

Peaks are counted on tensors without numbers, of the released networks, in bfloat16, for one prompt; a CPU measures two
of them. Steps in parts are compared in time with the same steps at once.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn

from easyanimate_models.dit import hunyuan_dit as hunyuan_network
from easyanimate_models.dit import motion_dit as motion_network
from easyanimate_models.dit.denoiser import Denoiser
from easyanimate_models.dit.motion_dit import LongSkips
from easyanimate_models.dit.skip_store import SkipStore
from easyanimate_models.dit.step_plan import OPTION, StepPlan
from easyanimate_models.model_base import STREAMED_PART
from easyanimate_models.supported_models import EasyAnimateV1, EasyAnimateV2
from easyanimate_models.vae.host_vae import TILE_MEMORY

from . import hunyuan_dit, mmdit_step
from .live_bytes import LiveBytes
from .measure import Row, compare, in_own_process, machine, peak_above, report
from .networks import V3, step_inputs, transformer

DTYPE = torch.bfloat16
CPU, META = torch.device("cpu"), torch.device("meta")
GB = 1e9
RESERVED = 1.4  # GB that the host leaves to the system and to its own needs
CARDS = (8, 12, 24)
AT_ONCE, STREAMED = StepPlan(part_bytes=2**62), StepPlan(part_bytes=STREAMED_PART)
V51 = mmdit_step.BLOCKS_OF_7B  # the number of alike blocks does not matter
OF_7B, OF_12B = replace(V51, depth=36, mmdit_layers=18), replace(V51, depth=48, mmdit_layers=48)


@dataclass(frozen=True)
class Size:
    """A video of a release: its network's config, width, height, frames, and how many latents those are."""

    release: str
    config: object
    width: int
    height: int
    frames: int
    latents: int
    whole: object = None  # the config whose weights count, where `config` is only a part of it

    def __str__(self) -> str:
        return f"{self.release} {self.width}×{self.height}×{self.frames}"

    @property
    def sides(self) -> tuple[int, int]:
        return self.height // 8, self.width // 8


V1 = replace(V3, in_channels=4, motion=EasyAnimateV1.motion, skips=None, clip_tokens=False)
V2 = replace(V3, in_channels=4, motion=EasyAnimateV2.motion, clip_tokens=False)
V4 = hunyuan_dit.V4
SIZES = (
    Size("V1", V1, 512, 512, 80, 80),
    Size("V2", V2, 768, 768, 144, 36),
    Size("V3", V3, 256, 256, 144, 36),
    Size("V3", V3, 512, 512, 144, 36),
    Size("V3", V3, 768, 768, 144, 36),
    Size("V3", V3, 720, 1280, 144, 36),
    Size("V4", V4, 512, 512, 144, 36),
    Size("V4", V4, 768, 768, 144, 36),
    Size("V4", V4, 720, 1280, 144, 36),
    *(
        Size(f"{release} {name}", V51, *size, 49, 13, whole)
        for release, name, whole in (("V5.1", "7B", OF_7B), ("V5.1", "12B", OF_12B))
        for size in ((512, 512), (576, 1008), (768, 1344))
    ),
)
TARGETS = {  # size -> GB asked with skips on the device, and in RAM
    "V3 768×768×144": (3.4, 1.2),
    "V3 720×1280×144": (None, 1.8),
    "V4 768×768×144": (None, 1.6),
    "V5.1 7B 768×1344×49": (1.6, None),
}
V51_BLOCK = replace(V51, depth=1, mmdit_layers=1)
MEASURED = (
    Size("V3", replace(V3, depth=8, skips=LongSkips(stored=3, start=5)), 256, 256, 48, 12),
    Size("V5.1", V51_BLOCK, 384, 384, 33, 9),
)
TIMED = (  # at least two parts each
    Size("V3", replace(V3, depth=1, skips=None), 512, 512, 48, 12),
    Size("V4", replace(V4, depth=2), 512, 512, 40, 10),
    Size("V5.1", V51_BLOCK, 384, 384, 33, 9),
)


class Peaks(NamedTuple):
    """GB of a step beside the weights: as it is, with long skips in RAM if there are any, with weights streamed."""

    plain: float
    in_ram: float | None
    streamed: float


class SkipsElsewhere(SkipStore):
    """Long skips in a RAM that is not counted: only those on the device are tensors."""

    def _sent(self, x: Tensor) -> Tensor:
        return x.new_empty(0)

    def _fetched(self) -> Tensor:
        empty = self._stack.pop()
        return empty.new_empty(self._shape)

    def push(self, x: Tensor) -> None:
        self._shape = x.shape
        super().push(x)


def network_of(config, device: torch.device = CPU) -> Denoiser:
    """A released network with random weights, or with none."""
    if isinstance(config, type(V3)):
        return transformer(config, DTYPE, device)
    make = hunyuan_dit.network if isinstance(config, type(V4)) else mmdit_step.network
    return make(config, DTYPE, device)


def inputs_of(size: Size, device: torch.device = CPU) -> dict[str, Tensor]:
    """One prompt's step."""
    config, shape = size.config, (1, size.latents, size.sides)
    if isinstance(config, type(V3)):
        return step_inputs(config, *shape, DTYPE, device)
    if isinstance(config, type(V4)):
        return {k: v[:1].to(device) for k, v in hunyuan_dit.inputs(config, *shape[1:], DTYPE).items()}
    return {k: v.to(device) for k, v in mmdit_step.inputs(config, 1, size.latents, *size.sides, dtype=DTYPE).items()}


@torch.no_grad()
def counted(size: Size, plan: StepPlan) -> int:
    """The most bytes alive beside the weights, attention's own not among them."""
    network, given = network_of(size.config, META), inputs_of(size, META)
    options = {OPTION: plan, "optimized_attention_override": without_numbers}
    with ExitStack() as stack:
        for module in (motion_network, hunyuan_network):
            stack.enter_context(patch.object(module, "SkipStore", SkipsElsewhere))
        live = stack.enter_context(LiveBytes(*given.values(), *network.parameters()))
        network(**given, transformer_options=options)
    return live.peak


@torch.no_grad()
def sent(size: Size, plan: StepPlan) -> float:
    """How often a step has all weights sent, when none of them stay on the device."""
    network, given, moved = network_of(size.config, META), inputs_of(size, META), 0

    def called(module: nn.Module, *_) -> None:
        nonlocal moved
        moved += sum(p.nbytes for p in module.parameters(recurse=False))

    for module in network.modules():
        module.register_forward_hook(called)
    network(**given, transformer_options={OPTION: plan, "optimized_attention_override": without_numbers})
    return moved / sum(p.nbytes for p in network.parameters())


def sent_row(size: Size) -> Row:
    """What larger parts save where weights are streamed."""
    times, small, whole = sent(size, STREAMED), sent(size, StepPlan()), weights(size)
    figure = f"{times:.1f} × the weights, {times * whole:.0f} GB ({small:.1f} × in parts as small as elsewhere)"
    how = "counted on tensors without numbers; a part of the tokens has each weight sent"
    return Row(f"{size}, no weight stays on the GPU: sent for a step", "", figure, None, how)


def without_numbers(function, q: Tensor, *_, skip_reshape: bool = False, **__) -> Tensor:
    """What attention gives."""
    return torch.empty_like(q.transpose(1, 2)).flatten(2) if skip_reshape else torch.empty_like(q)


@torch.no_grad()
def measured(size: Size) -> int:
    """Bytes by which memory rises, on the CPU, once a small step has been through."""
    network, given = network_of(size.config), inputs_of(size)
    network(**inputs_of(replace(size, width=64, height=64, latents=1)))
    return peak_above(lambda: network(**given))


@torch.no_grad()
def time_row(size: Size) -> Row:
    """A step in parts against the same step at once."""
    network, given = network_of(size.config), inputs_of(size)
    works = (partial(network, **given, transformer_options={OPTION: plan}) for plan in (StepPlan(), AT_ONCE))
    found = compare(*works, pairs=3)
    figure = f"{1 / found.gain:.3f} × ({found.ours:.2f} s against {found.theirs:.2f} s)"
    parts = len(StepPlan().spans(torch.empty(1, tokens(size), size.config.width, dtype=DTYPE, device=META), 1))
    how = f"{size}, {size.config.depth} layers, {parts} parts; {machine()}, bfloat16, median of 3 pairs"
    return Row(f"{size.release} step in parts: time against at once", "≤ 1.02 ×", figure, 1 / found.gain <= 1.02, how)


def tokens(size: Size) -> int:
    return size.latents * (size.sides[0] // 2) * (size.sides[1] // 2)


def target_rows(peaks: dict[str, Peaks]) -> list[Row]:
    rows, how = [], "counted on tensors without numbers, bfloat16, one prompt, above the weights"
    for name, asked in TARGETS.items():
        for where, least, found in zip(("", ", skips in RAM"), asked, peaks[name][:2], strict=True):
            if least is not None:
                rows.append(Row(f"{name}{where}", f"≤ {least} GB", f"{found:.2f} GB", found <= least, how))
    return rows


def measured_row(size: Size) -> Row:
    """What is counted against what a process takes."""
    found, expected = in_own_process(measured, size), counted(size, StepPlan())
    figure = f"{expected / found:.2f} × ({expected / 1e6:.0f} of {found / 1e6:.0f} MB)"
    how = f"{size.config.depth} layers, {machine()}, bfloat16"
    return Row(f"{size}: counted against measured", "0.85 to 1.15", figure, abs(expected / found - 1) <= 0.15, how)


def weights(size: Size) -> float:
    """GB in bfloat16."""
    return 2 * sum(p.numel() for p in network_of(size.whole or size.config, META).parameters()) / GB


def fits(peak: Peaks, weight: float, card: int) -> str:
    """Whether a step fits: with all weights on the GPU, with most of them streamed from RAM by the host, or not."""
    room = card - RESERVED
    if room >= weight + min(each for each in peak[:2] if each is not None):
        return "yes"
    return "weights streamed" if room >= 0.1 * weight + peak.streamed else "no"


def table(peaks: dict[str, Peaks]) -> str:
    """What artists look for: which sizes fit which GPU."""
    lines = [
        "| video | weights | one step | skips in RAM | streamed | " + " | ".join(f"{card} GB" for card in CARDS) + " |"
    ]
    lines.append("|" + "---|" * (5 + len(CARDS)))
    for size in SIZES:
        weight, (step, in_ram, streamed) = weights(size), peaks[str(size)]
        others = ("" if each is None else f"{each:.1f} GB" for each in (in_ram, streamed))
        cells = [str(size), f"{weight:.1f} GB", f"{step:.1f} GB", *others]
        lines.append("| " + " | ".join([*cells, *(fits(peaks[str(size)], weight, card) for card in CARDS)]) + " |")
    return (
        "\n".join(lines)
        + "\n\nA step takes its memory beside the weights, in bfloat16; both prompts run one after the "
        f"other where they do not fit together. The VAE's tiles take {TILE_MEMORY / GB:.1f} GB at most, at any size.\n"
    )


def peaks_of(size: Size) -> Peaks:
    """What a step of this size takes."""
    has_skips = network_of(size.config, META).footprint.skips > 0
    in_ram = counted(size, StepPlan(skips_in_ram=True)) / GB if has_skips else None
    streamed = counted(size, replace(STREAMED, skips_in_ram=has_skips)) / GB
    return Peaks(counted(size, StepPlan()) / GB, in_ram, streamed)


def main() -> None:
    peaks = {str(size): peaks_of(size) for size in SIZES}
    rows = [*target_rows(peaks), *map(sent_row, SIZES[-2:]), *map(measured_row, MEASURED)]
    rows += [in_own_process(time_row, size) for size in TIMED]
    report(__file__, rows, table(peaks))


if __name__ == "__main__":
    main()
