"""Where long skips wait for the second half of a network: on the device, or in RAM."""

import torch
from torch import Tensor

from .step_plan import StepPlan


class SkipStore:
    """A stack of token tensors. Those in RAM come back one ahead of their use, beside what is computed meanwhile."""

    def __init__(self, plan: StepPlan, device: torch.device):
        self._in_ram = plan.skips_in_ram
        self._device = device
        self._stack: list[Tensor] = []
        self._next: Tensor | None = None  # on its way back
        self._stream = torch.cuda.Stream(device) if self._in_ram and device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._stack) + (self._next is not None)

    def push(self, x: Tensor) -> None:
        """Keep `x`, which may change afterwards."""
        x = x if torch.is_grad_enabled() else x.clone()
        self._stack.append(self._sent(x) if self._in_ram else x)

    def pop(self) -> Tensor:
        """The last one that was pushed, on the device."""
        if not self._in_ram:
            return self._stack.pop()
        skip = self._fetched() if self._next is None else self._next
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        self._next = self._fetched() if self._stack else None
        return skip

    def _sent(self, x: Tensor) -> Tensor:
        """A copy in RAM, pinned so that it is made while the device goes on."""
        copy = _in_ram(x)
        if self._stream is None:
            return copy.copy_(x)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            copy.copy_(x, non_blocking=True)
        x.record_stream(self._stream)
        return copy

    def _fetched(self) -> Tensor:
        """The last one in RAM, on its way to the device."""
        copy = self._stack.pop()
        skip = torch.empty_like(copy, device=self._device, pin_memory=False)
        if self._stream is None:
            return skip.copy_(copy)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))  # whatever had this memory before
        with torch.cuda.stream(self._stream):
            skip.copy_(copy, non_blocking=True)
        skip.record_stream(self._stream)
        return skip


def _in_ram(like: Tensor) -> Tensor:
    if like.device.type == "cuda":
        try:
            return torch.empty_like(like, device="cpu", pin_memory=True)
        except RuntimeError:  # the system pins no more
            pass
    return torch.empty_like(like, device="cpu")
