"""How a step saves memory: the tokens go through what is wide in parts, and long skips may wait in RAM."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

OPTION = "step_plan"  # of transformer_options

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class StepPlan:
    """How one step runs: `part_bytes` of tokens at once, long skips kept in RAM or on the device.

    By default, parts are few enough bytes to save memory, and enough tokens to fill a GPU and to hide that weights kept
    in RAM are sent for each part. Parts change nothing but rounding.
    """

    part_bytes: int = 24 * 2**20
    skips_in_ram: bool = False

    def spans(self, x: Tensor, dim: int, unit: int = 1) -> list[tuple[int, int]]:
        """Start and length of the parts of `x` along `dim`, alike in size and, but for the last, multiples of `unit`.

        No part has more than `part_bytes`, unless a single unit has.
        """
        length = x.shape[dim]
        if not x.numel():
            return [(0, length)]
        unit_bytes = unit * x.numel() // length * x.element_size()
        at_once, units = max(1, self.part_bytes // unit_bytes), -(-length // unit)
        count = -(-units // at_once)
        size = -(-units // count) * unit
        return [(start, min(size, length - start)) for start in range(0, length, size)]

    def update(self, x: Tensor, change: Callable[..., Tensor], *beside: Tensor, dim: int = 1, unit: int = 1) -> Tensor:
        """`x` with each part replaced by `change(part, *parts of beside)`, of the same shape.

        Where there are several parts and no gradients, `x` itself changes. `beside` are split like `x`, along `dim`.
        """
        spans = self.spans(x, dim, unit)
        if len(spans) == 1:
            return change(x, *beside)
        if torch.is_grad_enabled():
            return torch.cat([change(*_narrowed(span, dim, x, *beside)) for span in spans], dim=dim)
        for span in spans:
            part, *others = _narrowed(span, dim, x, *beside)
            part.copy_(change(part, *others))
        return x

    def shared(self, x: Tensor, function: Callable[[Tensor], Tensor], dim: int = 1) -> Callable[[Tensor], Tensor]:
        """`function`, which two passes over the parts of `x` call; once is enough where `x` is a single part."""
        if len(self.spans(x, dim)) > 1:
            return function
        once = function(x)
        return lambda part: once

    def make(
        self, x: Tensor, function: Callable[..., Tensors], *beside: Tensor, before: Tensors = (), dim: int = 1
    ) -> Tensors:
        """What `function(part, *parts of beside)` makes of each part, put together along `dim`: as many new tensors.

        In front of them come those of `before`, where there are any.
        """
        spans = self.spans(x, dim)
        if len(spans) == 1 or torch.is_grad_enabled():
            made = [function(*_narrowed(span, dim, x, *beside)) for span in spans]
            made = [before, *made] if before else made
            return made[0] if len(made) == 1 else tuple(torch.cat(parts, dim) for parts in zip(*made, strict=True))
        offset = before[0].shape[dim] if before else 0
        wholes: Tensors = ()
        for span in spans:
            parts = function(*_narrowed(span, dim, x, *beside))
            wholes = wholes or tuple(_as_long(part, offset + x.shape[dim], dim) for part in parts)
            _write(wholes, parts, dim, offset + span[0])
            del parts  # before the next ones are made
        _write(wholes[: len(before)], before, dim, 0)
        return wholes


@dataclass(frozen=True)
class Stage:
    """A moment of a step in which much is alive: so many tensors as long as all tokens, and as long as a part.

    `at_once` more are alive where all tokens are one part.
    """

    whole: float
    parts: float
    at_once: float = 0

    def bytes(self, tokens: int, part: int) -> float:
        """Of token tensors and parts of so many bytes each."""
        return tokens * (self.whole + (self.at_once if part == tokens else 0)) + part * self.parts


@dataclass(frozen=True)
class Footprint:
    """What a step takes beside the weights, in token tensors: the worst of its stages, and the long skips.

    Of `skips` in RAM, `returning` are on the device.
    """

    stages: tuple[Stage, ...]
    skips: int = 0
    returning: int = 0

    def bytes(self, tokens: int, plan: StepPlan) -> float:
        """For `tokens`, the bytes of one token tensor, under a plan."""
        part = min(tokens, plan.part_bytes)
        skips = min(self.returning, self.skips) if plan.skips_in_ram else self.skips
        return tokens * skips + max(stage.bytes(tokens, part) for stage in self.stages)


DEFAULT = StepPlan()


def plan_of(options: dict | None) -> StepPlan:
    """The plan that the model has put into `transformer_options`, else the default."""
    return (options or {}).get(OPTION, DEFAULT)


def _narrowed(span: tuple[int, int], dim: int, *tensors: Tensor) -> list[Tensor]:
    return [tensor.narrow(dim, *span) for tensor in tensors]


def _as_long(part: Tensor, length: int, dim: int) -> Tensor:
    shape = list(part.shape)
    shape[dim] = length
    return part.new_empty(shape)


def _write(wholes: Tensors, parts: Tensors, dim: int, start: int) -> None:
    for whole, part in zip(wholes, parts, strict=True):
        whole.narrow(dim, start, part.shape[dim]).copy_(part)
