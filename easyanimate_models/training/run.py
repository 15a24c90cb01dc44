"""Follow a recipe from clips to a file: encode what is not encoded, teach, save in the folder of the run."""

import logging
from pathlib import Path

import torch

from ..model_files import TINY
from ..sd import load_text_encoder, load_transformer, load_vae
from .buckets import sort_into_buckets
from .dataset import read_dataset
from .encoded import EncodedSet, encode_dataset, is_inpainting, read_encoded
from .export import write_whole
from .extras import needed
from .loop import Watch
from .lora import original_names
from .lora_run import teach
from .recipe import Recipe
from .transformer_run import save_motion_module, save_transformer, train_transformer

BUILT_IN = "built-in"


def follow(recipe: Recipe, watch: Watch | None = None) -> Path:
    """Train as the recipe says; the file that came out. Any number of processes may follow one recipe together."""
    state = needed("accelerate").PartialState(cpu=torch.get_default_device().type == "cpu")
    motion = recipe.models.motion_module
    model = load_transformer(_place(recipe.models.transformer), _place(motion) if motion else None)
    inpainting = is_inpainting(model)
    if state.is_main_process:
        _encode(recipe, inpainting)
    state.wait_for_everyone()
    found = read_encoded(recipe.clips, inpainting)
    make = _lora if recipe.kind == "lora" else _transformer
    return make(recipe, model, found, watch, state.is_main_process)


def _encode(recipe: Recipe, inpainting: bool) -> None:
    """The encoders are in memory only meanwhile."""
    data = recipe.data
    buckets = sort_into_buckets(read_dataset(recipe.clips), data.side, data.frames, data.every)
    vae, clip = load_vae(_place(recipe.models.vae)), load_text_encoder(_place(recipe.models.text_encoder))
    with torch.no_grad():
        encode_dataset(recipe.clips, buckets, vae, clip, inpainting, data.every)
    logging.info("%s is encoded", recipe.clips)


def _lora(recipe: Recipe, model, found: EncodedSet, watch: Watch | None, is_main: bool) -> Path:
    settings = recipe.data, recipe.lora, recipe.plan, recipe.folder
    adapters = teach(model, found, *settings, {}, recipe.checkpointing, watch)
    file = recipe.folder / f"{recipe.folder.name}.safetensors"
    if is_main:
        write_whole(file, original_names(adapters), {"format": "pt"})
    return file


def _transformer(recipe: Recipe, model, found: EncodedSet, watch: Watch | None, is_main: bool) -> Path:
    motion_only = recipe.kind == "motion_module"
    settings = recipe.data, recipe.plan, recipe.folder, motion_only, recipe.checkpointing
    network = train_transformer(model, found, *settings, watch)
    folder = recipe.folder / "transformer"
    if not is_main:
        return folder
    return save_motion_module(network, folder, recipe.folder.name) if motion_only else save_transformer(network, folder)


def _place(path: str) -> Path:
    return TINY if path == BUILT_IN else Path(path)
