"""From a recipe to a file: encode the clips that are not encoded yet, train, save in the folder of the run."""

import logging
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from ..files.model_files import TINY
from ..files.packages import require_package
from ..sd import load_image_encoder, load_text_encoder, load_transformer, load_vae
from ..vae.video_sizes import ClipLengths, clip_lengths
from .clips.buckets import Bucket, sort_into_buckets
from .clips.captions import add_trigger
from .clips.dataset import Item, cache_folder, read_dataset, read_image
from .clips.given_inputs import given_inputs
from .clips.holding_out import hold_out
from .clips.latent_cache import (
    LatentDataset,
    encode_dataset,
    log_unreadable_captions,
    read_encoded,
    require_latents_of,
    start_image_encoder,
)
from .clips.windows import cut_into_windows
from .denoiser.block_swap import require_swappable
from .denoiser.lora import LoraSettings
from .denoiser.lora_training import train_adapters
from .denoiser.objective import ObjectiveSettings
from .denoiser.run import DenoiserRun, Output
from .denoiser.text_lora import require_trainable
from .denoiser.transformer import TransformerSettings, train_transformer
from .export import WEIGHTS
from .loop import Callback
from .optimizers import OPTIMIZERS
from .recipe import Recipe
from .samples import Monitor, PreviewInputs, StartImage, preview_inputs
from .vae.network import time_plan
from .vae.run import VAERun, fitted_colours, train_vae, write_colours

BUILT_IN = "built-in"


def run_recipe(recipe: Recipe, callback: Callback | None = None) -> Path:
    """Train as the recipe says; the file that came out. Any number of processes may run one recipe together."""
    state = require_package("accelerate").PartialState(cpu=torch.get_default_device().type == "cpu")
    OPTIMIZERS[recipe.plan.optimizer].require()  # before anything is encoded
    if state.is_main_process and state.num_processes > 1:
        logging.info("Training in %d processes.", state.num_processes)
    if recipe.kind == "vae":
        return _train_vae(recipe, callback, state.is_main_process)
    motion_module = recipe.models.motion_module
    base, motion = _path(recipe.models.transformer), _path(motion_module) if motion_module else None
    model = load_transformer(base, motion, weight_dtype=recipe.models.weight_dtype)
    require_swappable(recipe.blocks_to_swap, model.model.diffusion_model.config.depth)
    previews = _encode(recipe, model) if state.is_main_process else None
    state.wait_for_everyone()
    encoded = read_encoded(cache_folder(recipe.clips), given_inputs(model))
    objective = ObjectiveSettings(recipe.noise, recipe.checkpointing, recipe.blocks_to_swap)
    monitor = Monitor(callback, previews)
    run = DenoiserRun(recipe.folder, recipe.plan, objective, monitor, validation=recipe.validation)
    if recipe.lora is not None:
        return _train_lora(recipe, recipe.lora, model, encoded, run)
    return _train_transformer(recipe, model, encoded, run)


def _encode(recipe: Recipe, model) -> PreviewInputs | None:
    """Encode clips and captions, and the inputs of previews if there are any.

    Afterwards the encoders are released, except the VAE where previews need it.
    """
    data, given = recipe.data, given_inputs(model)
    vae, clip = load_vae(_path(recipe.models.vae)), load_text_encoder(_path(recipe.models.text_encoder))
    require_latents_of(model, vae)
    if recipe.lora is not None and recipe.lora.text:
        require_trainable(clip)
    lengths = clip_lengths(vae.plan)
    buckets = _buckets(recipe, lengths)
    log_unreadable_captions(chain.from_iterable(buckets.values()), clip)
    buckets = hold_out(buckets, recipe.validation, recipe.plan.seed)
    buckets = cut_into_windows(buckets, data, recipe.plan.seed, lengths)
    file = recipe.models.image_encoder
    clip_vision = load_image_encoder(_path(file)) if file else None
    image_encoder = start_image_encoder(model, clip_vision)
    with torch.no_grad():
        caption_encoder = None if recipe.lora and recipe.lora.text else clip
        cache = cache_folder(recipe.clips)
        encode_dataset(cache, buckets, vae, caption_encoder, given, data, image_encoder=image_encoder)
    logging.info("Encoded %s.", recipe.clips)
    image, start = recipe.samples.image, None
    if image:
        start = StartImage(read_image(Path(image)), clip_vision if image_encoder else None)
    return preview_inputs(recipe.samples, data, clip, vae, given, start=start)


def _buckets(recipe: Recipe, lengths: ClipLengths) -> dict[Bucket, list[Item]]:
    data = recipe.data
    with_captions = recipe.kind != "vae" and not data.trigger_word.strip()
    items = add_trigger(read_dataset(recipe.clips, with_captions, data.fps), data.trigger_word)
    return sort_into_buckets(items, data.side, data.frames, data.every, lengths)


def _train_lora(recipe: Recipe, lora: LoraSettings, model, encoded: LatentDataset, run: DenoiserRun) -> Path:
    clip = load_text_encoder(_path(recipe.models.text_encoder)) if lora.text else None
    file = recipe.folder / f"{recipe.folder.name}.safetensors"
    train_adapters(model, encoded, recipe.data, lora, replace(run, output=Output(file)), clip)
    return file


def _train_transformer(recipe: Recipe, model, encoded: LatentDataset, run: DenoiserRun) -> Path:
    folder = recipe.folder / "transformer"
    is_motion = recipe.kind == "motion_module"
    output = Output(folder / f"{recipe.folder.name}_mm.safetensors" if is_motion else folder)
    train_transformer(model, encoded, recipe.data, _transformer_settings(recipe), replace(run, output=output))
    return output.path if is_motion else folder / WEIGHTS


def _transformer_settings(recipe: Recipe) -> TransformerSettings:
    if recipe.kind == "motion_module":
        return TransformerSettings("motion", recipe.fresh)
    return TransformerSettings("image" if recipe.kind == "image_transformer" else "all", recipe.fresh)


def _train_vae(recipe: Recipe, callback: Callback | None, is_main: bool) -> Path:
    start = load_vae(_path(recipe.models.vae)) if recipe.models.vae else None
    data, settings, seed = recipe.data, recipe.vae, recipe.plan.seed
    buckets = _buckets(recipe, clip_lengths(time_plan(start, settings)))
    buckets = hold_out(buckets, recipe.validation, seed)
    run = VAERun(recipe.folder, recipe.plan, recipe.checkpointing, recipe.validation, callback)
    network = train_vae(start, buckets, data, settings, run)
    colours = fitted_colours(network, buckets, data, settings, seed)  # in every process, as it may be sharded
    if is_main:
        write_colours(recipe.folder / "vae", colours)
    return recipe.folder / "vae" / WEIGHTS


def _path(model: str) -> Path:
    """The path of a model that a recipe names."""
    return TINY if model == BUILT_IN else Path(model)
