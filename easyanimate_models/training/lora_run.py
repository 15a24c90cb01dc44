"""A LoRA from clips to file, as a node or a recipe asks for it: encode, learn, save under models/loras."""

import re
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import torch
from torch import nn

from ..lora import load_lora
from .buckets import sort_into_buckets
from .dataset import Item
from .encoded import EncodedSet, Progress, encode_dataset, is_inpainting
from .export import write_whole
from .extras import needed
from .loop import Watch
from .lora import NAMINGS, LoraSettings, adapted, learn, scaled
from .plan import Plan

RUNS = "easyanimate_training"  # in the host's output folder
PLAIN_NAME = re.compile(r"[\w][\w .-]{0,99}")


@dataclass(frozen=True)
class DataSettings:
    """In which size clips are shown: about `side` x `side` pixels, at most so many frames, every so many of them."""

    side: int
    frames: int
    every: int = 1
    batch: int = 1
    text_dropout: float = 0.1


@dataclass(frozen=True)
class Trained:
    """The MODEL with the LoRA, the file it is saved in, and the folder of the run with its log and plot."""

    model: object
    file: Path
    folder: Path


def train_lora(
    name: str,
    models: tuple,
    items: list[Item],
    data: DataSettings,
    lora: LoraSettings,
    plan: Plan,
    naming: str,
    home: Path | None = None,
    encoding: Progress | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Teach the MODEL of `models` (MODEL, CLIP, VAE) what `items` show; goes on where a run of that name stopped.

    Latents and texts are kept below `home`, by default the folder of the run.
    """
    needed("accelerate")
    file, folder = _places(name)
    model, clip, vae = models
    buckets = sort_into_buckets(items, data.side, data.frames, data.every)
    found = encode_dataset(home or folder, buckets, vae, clip, is_inpainting(model), data.every, encoding)
    told = {"clips": sum(map(len, found.examples.values()))}
    adapters = teach(model, found, data, lora, plan, folder, told, watch=watch)
    write_whole(file, NAMINGS[naming](adapters), {"format": "pt"})
    return Trained(load_lora(file, model)[0], file, folder)


def teach(
    model,
    found: EncodedSet,
    data: DataSettings,
    lora: LoraSettings,
    plan: Plan,
    folder: Path,
    told: dict,
    checkpointing: bool = True,
    watch: Watch | None = None,
) -> nn.ModuleDict:
    """Adapters of the MODEL that have learnt what is in `found`; `told` is what else must be the same to go on."""
    with torch.inference_mode(False):
        torch.manual_seed(plan.seed)
        patcher, adapters = adapted(model, lora)
    batches = scaled(found.batches(data.batch, plan.seed, data.text_dropout), model)
    told = {**vars(data), **vars(lora), **told}
    learn(patcher, adapters, batches, plan, folder, told, checkpointing=checkpointing, watch=watch)
    return adapters


def _places(name: str) -> tuple[Path, Path]:
    """The file of the LoRA and the folder of the run; raises `ValueError` for names that lead elsewhere."""
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be the name of a LoRA; use letters, digits, spaces, dots and dashes only.")
    file = Path(folder_paths.get_folder_paths("loras")[0]) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file, Path(folder_paths.get_output_directory()) / RUNS / name
