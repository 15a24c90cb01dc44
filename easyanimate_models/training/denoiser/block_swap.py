"""Block swap: most blocks of a frozen network wait in RAM, each comes to the device for its own forward pass.

The blocks have to be recomputed in the backward pass (`checkpointed_blocks`), as a recomputed forward brings the
weights again: a copy, of which autograd holds what it needs until the gradient has passed the block.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial

import comfy.model_management as mm
import torch
from torch import nn

AT_WORK = 2  # blocks on the device of those that are swapped: one at work, and the next on its way

Weights = list[tuple[nn.Module, str, nn.Parameter]]


def require_swappable(blocks_to_swap: int, depth: int) -> None:
    """Raise `ValueError` when a network of `depth` blocks can't keep so many of them in RAM."""
    if not 0 <= blocks_to_swap <= depth - AT_WORK:
        raise ValueError(
            f"blocks_to_swap is {blocks_to_swap}, but this transformer has {depth} blocks, {AT_WORK} of which have to "
            f"be on the device; set it to {depth - AT_WORK} or less, or to 0 to swap none."
        )


class BlockSwap:
    """While it is open, `blocks_to_swap` of the blocks are in RAM at any time, the others on `device`.

    The last ones stay there (`staying`); the first ones (`streamed`) are in RAM, but for the one at work and the next.
    """

    def __init__(self, blocks: Iterable[nn.Module], blocks_to_swap: int, device: torch.device):
        blocks = list(blocks)
        require_swappable(blocks_to_swap, len(blocks))
        self.streamed, self.staying = blocks[: blocks_to_swap + AT_WORK], blocks[blocks_to_swap + AT_WORK :]
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._open = ExitStack()
        self._last = 0
        self._replaced: Weights = []
        self._arriving: dict[int, list[nn.Parameter]] = {}

    def open(self) -> None:
        """From now on the blocks, which have to be where they belong, are brought when they are called."""
        for index, block in enumerate([*self.streamed, *self.staying]):
            before = block.register_forward_pre_hook(partial(self._before, index))
            self._open.callback(before.remove)
            if index < len(self.streamed):
                after = block.register_forward_hook(self._after, always_call=True)
                self._open.callback(after.remove)
        if self._stream is not None:
            for block in self.streamed:
                _pin(block, self._open)

    def close(self) -> None:
        """Leave nothing behind; the blocks stay where they are."""
        if self._stream is not None:
            self._stream.synchronize()  # before memory that is read from is no longer pinned
        self._arriving.clear()
        self._open.close()

    def _before(self, index: int, block: nn.Module, _) -> None:
        """Give a block its weights, and send for those of the next: in the backward pass, the one before."""
        step = 1 if index == 0 or index > self._last else -1
        self._last = index
        if index < len(self.streamed):
            copies = self._arriving.pop(index, None) or self._sent(index)
            if self._stream is not None:
                torch.cuda.current_stream(self.device).wait_stream(self._stream)
            self._replaced = weights_of(block)
            for (module, name, _), copy in zip(self._replaced, copies, strict=True):
                setattr(module, name, copy)
        following = index + step
        if 0 <= following < len(self.streamed) and following not in self._arriving:
            self._arriving = {following: self._sent(following)}

    def _after(self, *_) -> None:
        """Take a block's copies away from it, also where recomputing ends early."""
        for module, name, weight in self._replaced:
            setattr(module, name, weight)
        self._replaced = []

    def _sent(self, index: int) -> list[nn.Parameter]:
        """Copies of a block's weights, on their way to the device."""
        weights = [weight for *_, weight in weights_of(self.streamed[index])]
        if self._stream is None:
            return [_copy(weight, self.device) for weight in weights]
        self._stream.wait_stream(torch.cuda.current_stream(self.device))  # whatever had this memory before
        with torch.cuda.stream(self._stream):
            return [_copy(weight, self.device) for weight in weights]


def weights_of(block: nn.Module) -> Weights:
    """The weights of a block, with the module that each belongs to and its name there."""
    modules = block.modules()
    return [(module, *named) for module in modules for named in module.named_parameters(recurse=False)]


def move_all_but(module: nn.Module, apart: Iterable[nn.Module], device: torch.device) -> None:
    """`Module.to` for all of a module except what lies in some of those in it."""
    apart = set(apart)
    if apart.isdisjoint(module.modules()):
        module.to(device)
        return
    module._apply(lambda tensor: tensor.to(device), recurse=False)  # what `to` does
    for child in module.children():
        if child not in apart:
            move_all_but(child, apart, device)


def _copy(weight: nn.Parameter, device: torch.device) -> nn.Parameter:
    copy = weight.detach().to(device, non_blocking=True, copy=True)
    return nn.Parameter(copy, requires_grad=False)


def _pin(block: nn.Module, opened: ExitStack) -> None:
    """Pin a block in RAM, as far as the host pins more, so that copies are made while the device works."""
    for *_, weight in weights_of(block):
        if mm.pin_memory(weight):
            opened.callback(mm.unpin_memory, weight.detach())  # another tensor of the same memory, which it keeps
