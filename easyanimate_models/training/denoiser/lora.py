"""Low-rank adapters (LoRA) on a MODEL of the host: each adapted weight becomes `W + alpha / rank * up @ down`.

They hang on the host's own hook for weights, so the model may be in any precision that the host runs it in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor, nn

from ...host import training
from ...lora import T5
from ..checkpoints import whole
from ..loop import fit
from ..samples import NOBODY, Audience, samples_of
from ..training_plan import Plan
from .objective import METHOD, Batch, Batches, Method, noise_objective

DENOISER, TEXT_ENCODERS = "diffusion_model.", "text_encoders."
BLOCKS, MOTION = "transformer_blocks.", ".attn_temporal."
EVERYTHING = 1e20  # bytes: the host makes all the room it can


@dataclass(frozen=True)
class LoraSettings:
    """How much can be learnt, how loudly it speaks, and whether motion modules and the text encoder learn too."""

    rank: int
    alpha: float
    motion: bool = True
    text: bool = False

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"A LoRA of rank {self.rank} can't learn anything; give a rank of 1 or more, such as 16.")
        if not self.alpha > 0:
            raise ValueError(f"A LoRA with alpha {self.alpha} changes nothing; give an alpha above 0.")


class LowRank(nn.Module):
    """What is added to a weight `[out, in]`; nothing when training starts. The host multiplies both by a `scale`."""

    def __init__(self, shape: torch.Size, settings: LoraSettings, scale: Tensor | None = None):
        super().__init__()
        self.alpha = float(settings.alpha)
        self.scale = None if scale is None else scale.detach().clone()
        self.down = nn.Parameter(torch.empty(settings.rank, shape[1]))
        self.up = nn.Parameter(torch.zeros(shape[0], settings.rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        change = self.alpha / len(self.down) * (self.up @ self.down)
        change = change if self.scale is None else change / self.scale.to(change)
        return weight + change.to(device=weight.device, dtype=weight.dtype)


class Denoiser(nn.Module):
    """The network of a MODEL, called in its own precision. It is not part of what is trained."""

    network: nn.Module

    def __init__(self, model):
        super().__init__()
        self.__dict__["network"] = model.diffusion_model  # not a submodule: its weights stay out of the optimizer
        self.config = model.diffusion_model.config
        self.dtype = model.manual_cast_dtype or model.get_dtype()

    def forward(self, x: Tensor, t: Tensor, context: Tensor, clip_embeds: Tensor | None = None, **kwargs) -> Tensor:
        seen = None if clip_embeds is None else clip_embeds.to(self.dtype)
        return self.network(x.to(self.dtype), t, context=context.to(self.dtype), clip_embeds=seen, **kwargs)


def adapted(model, settings: LoraSettings):
    """A copy of the host's MODEL whose linear layers have adapters, and those, by the names of their layers."""
    patcher, adapters = model.clone(), nn.ModuleDict()
    for name, module in model.model.diffusion_model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(BLOCKS) and (settings.motion or MOTION not in name):
            adapter = LowRank(module.weight.shape, settings, getattr(module, "scale_weight", None))
            adapters[name.replace(".", "/")] = adapter
            patcher.add_weight_wrapper(f"{DENOISER}{name}.weight", adapter)
    return patcher, adapters


def learn(
    patcher,
    adapters: nn.ModuleDict,
    batches: Batches,
    plan: Plan,
    folder: Path,
    told: dict,
    method: Method = METHOD,
    audience: Audience = NOBODY,
    reader=None,
) -> None:
    """Teach the adapters of `patcher`; see `fit`. `batches` hold latents at the scale of the model.

    A `reader` (`text_lora.Reader`) learns along: `batches` are read by it, and its adapters are among these.
    """
    with training(), torch.inference_mode(False), torch.enable_grad():
        settle = partial(_settle, patcher, *([reader.clip.patcher] if reader else []))
        settle()
        adapters.to(patcher.load_device)
        denoiser = Denoiser(patcher.model)
        moved = on_device(batches, patcher.load_device)
        objective = noise_objective(denoiser, moved, method.noise, plan.seed, method.checkpointing)
        look = samples_of(audience, patcher, folder, settle, reader and reader.prompts)
        fit(folder, adapters, objective, plan, watch=audience.watch, told=told, look=look)


def _settle(*patchers) -> None:
    """All of each model on its device, frozen; the host may have moved it to make room for another one."""
    mm.load_models_gpu(list(patchers), memory_required=EVERYTHING, force_full_load=True)
    for patcher in patchers:
        _thaw(patcher.model)
        patcher.model.requires_grad_(False)


def scaled(batches: Batches, model) -> Batches:
    """Batches of latents as the VAE gives them, at the scale of the MODEL."""

    def at_scale(step: int, chance) -> Batch:
        batch = batches(step, chance)
        given = None if batch.given is None else model.model.process_latent_in(batch.given)
        return replace(batch, latents=model.model.process_latent_in(batch.latents), given=given)

    return at_scale


def original_names(adapters: nn.ModuleDict) -> dict[str, Tensor]:
    """The adapters as EasyAnimate's own trainer writes them: `lora_unet__`, `lora_te_`, flattened names, with alpha."""

    def called(name: str) -> str:
        root = "lora_te_" if name.startswith(T5) else "lora_unet__"
        return root + name.removeprefix(T5).replace(".", "_")

    return _file(adapters, called)


def host_names(adapters: nn.ModuleDict) -> dict[str, Tensor]:
    """The adapters as ComfyUI calls their layers, which every stock LoRA loader reads."""
    return _file(adapters, lambda name: (TEXT_ENCODERS if name.startswith(T5) else DENOISER) + name)


NAMINGS: dict[str, Callable[[nn.ModuleDict], dict[str, Tensor]]] = {"comfyui": host_names, "original": original_names}


def _file(adapters: nn.ModuleDict, called: Callable[[str], str]) -> dict[str, Tensor]:
    tensors = {}
    learnt: Iterable[tuple[str, Any]] = adapters.items()
    for path, adapter in learnt:
        name = called(path.replace("/", "."))
        tensors[f"{name}.lora_down.weight"] = whole(adapter.down).half().contiguous()
        tensors[f"{name}.lora_up.weight"] = whole(adapter.up).half().contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(adapter.alpha)
    return tensors


def _thaw(network: nn.Module) -> None:
    """Weights that the host loaded in inference mode can't take part in gradients: replace them by copies."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_inference():
                setattr(module, name, nn.Parameter(parameter.clone(), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_inference():
                setattr(module, name, buffer.clone())


def on_device(batches: Batches, device: torch.device) -> Batches:
    """The same batches, there."""

    def moved(step: int, chance) -> Batch:
        batch = batches(step, chance)
        tensors: dict[str, Any] = {name: t.to(device) for name, t in vars(batch).items() if isinstance(t, Tensor)}
        return replace(batch, **tensors)

    return moved
