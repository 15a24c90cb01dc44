"""A LoRA from clips to file, as a node or a recipe asks for it: encode, learn, save under models/loras."""

import re
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import torch
from safetensors.torch import save_file

from ..lora import load_lora
from .buckets import sort_into_buckets
from .dataset import Item
from .encoded import EncodedSet, Progress, encode_dataset
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
    config = model.model.diffusion_model.config
    buckets = sort_into_buckets(items, data.side, data.frames, data.every)
    inpainting = config.in_channels > config.latent_channels
    found = encode_dataset(home or folder, buckets, vae, clip, inpainting, data.every, encoding)
    with torch.inference_mode(False):
        torch.manual_seed(plan.seed)
        patcher, adapters = adapted(model, lora)
    batches = scaled(found.batches(data.batch, plan.seed, data.text_dropout), model)
    learn(patcher, adapters, batches, plan, folder, _told(data, lora, found), watch=watch)
    partial = file.with_suffix(".part")
    save_file(NAMINGS[naming](adapters), partial, {"format": "pt"})
    partial.replace(file)
    return Trained(load_lora(file, model)[0], file, folder)


def _places(name: str) -> tuple[Path, Path]:
    """The file of the LoRA and the folder of the run; raises `ValueError` for names that lead elsewhere."""
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be the name of a LoRA; use letters, digits, spaces, dots and dashes only.")
    file = Path(folder_paths.get_folder_paths("loras")[0]) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file, Path(folder_paths.get_output_directory()) / RUNS / name


def _told(data: DataSettings, lora: LoraSettings, found: EncodedSet) -> dict:
    """What must be the same when a run goes on."""
    count = sum(map(len, found.examples.values()))
    return {**vars(data), **vars(lora), "clips": count}
