"""The models under adapters: on their device, frozen, in the precision that they were loaded in."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import comfy.model_management as mm
from torch import Tensor, nn

from .block_swap import BlockSwap, move_all_but

EMBEDDINGS = ("context", "context_t5", "clip_embeds")
EVERYTHING = 1e20  # bytes: the host makes all the room it can


class FrozenDenoiser(nn.Module):
    """The network of a MODEL, called in its own precision; its weights are not parameters of this module."""

    network: nn.Module

    def __init__(self, model):
        super().__init__()
        self.__dict__["network"] = model.diffusion_model  # past nn.Module, which would register it
        self.config = model.diffusion_model.config
        self.dtype = model.manual_cast_dtype or model.get_dtype()

    def forward(self, x: Tensor, t: Tensor, **kwargs) -> Tensor:
        cast = {name: kwargs[name].to(self.dtype) for name in EMBEDDINGS if name in kwargs}
        return self.network(x.to(self.dtype), t, **{**kwargs, **cast})


@contextmanager
def frozen_models(patcher, *others, blocks_to_swap: int = 0) -> Iterator[Callable[[], None]]:
    """What loads the model of `patcher` and the `others`, to be called first and whenever they had to make room.

    With `blocks_to_swap`, so many blocks of that model stay in RAM; afterwards all of it is there again.
    """
    if not blocks_to_swap:
        yield partial(load_frozen, patcher, *others)
        return
    if patcher.load_device == patcher.offload_device:
        logging.info("blocks_to_swap saves nothing here, as the transformer is trained in RAM.")
    swap = BlockSwap(patcher.model.diffusion_model.blocks_in_order, blocks_to_swap, patcher.load_device)

    def load() -> None:
        swap.close()
        _load_in_part(patcher, swap)
        load_frozen(*others)
        swap.open()

    try:
        yield load
    finally:
        swap.close()
        patcher.detach()


def load_frozen(*patchers) -> None:
    """Load all of each model onto its device, frozen; the host may have moved it to make room for another one."""
    mm.load_models_gpu(list(patchers), memory_required=EVERYTHING, force_full_load=True)
    for patcher in patchers:
        _freeze(patcher.model)


def _load_in_part(patcher, swap: BlockSwap) -> None:
    """Load a model but for the blocks that are streamed; the host takes it for loaded, with what is on the device."""
    mm.unload_all_models()
    patcher.detach()
    patcher.patch_model(patcher.offload_device)
    model = patcher.model
    _freeze(model)
    move_all_but(model, swap.streamed, patcher.load_device)
    model.device = patcher.load_device
    model.model_loaded_weight_memory -= sum(mm.module_size(block) for block in swap.streamed)


def _freeze(network: nn.Module) -> None:
    """Weights that the host loaded in inference mode can't take part in gradients, but copies of them can."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_inference():
                setattr(module, name, nn.Parameter(parameter.clone(), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_inference():
                setattr(module, name, buffer.clone())
    network.requires_grad_(False)
