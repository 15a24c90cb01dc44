"""Follow a recipe from clips to a file: encode what is not encoded, teach, save in the folder of the run."""

import logging
from pathlib import Path

import torch

from ..files.atomic import write_safetensors
from ..files.model_files import TINY
from ..files.packages import require_package
from ..sd import load_image_encoder, load_text_encoder, load_transformer, load_vae
from .checkpoints import whole_weights
from .clips.buckets import Bucket, sort_into_buckets
from .clips.dataset import Item, read_dataset
from .clips.latent_cache import LatentDataset, encode_dataset, is_inpainting, read_encoded, wants_clip_tokens
from .clips.windows import cut_into_windows
from .denoiser.lora import LoraSettings, original_names
from .denoiser.lora_run import teach
from .denoiser.objective import Method
from .denoiser.transformer import Teaching, save_motion_module, save_transformer, train_transformer
from .loop import Watch
from .recipe import Recipe
from .samples import Audience, Subject, subject_of
from .vae.run import save_vae, train_vae

BUILT_IN = "built-in"
LEARNS = {"motion_module": "motion", "image_transformer": "image", "transformer": "all"}


def follow(recipe: Recipe, watch: Watch | None = None) -> Path:
    """Train as the recipe says; the file that came out. Any number of processes may follow one recipe together."""
    state = require_package("accelerate").PartialState(cpu=torch.get_default_device().type == "cpu")
    if recipe.kind == "vae":
        return _vae(recipe, watch, state.is_main_process)
    motion = recipe.models.motion_module
    model = load_transformer(_place(recipe.models.transformer), _place(motion) if motion else None)
    inpainting = is_inpainting(model)
    subject = _encode(recipe, model, inpainting) if state.is_main_process else None
    state.wait_for_everyone()
    found = read_encoded(recipe.clips, inpainting)
    told = model, found, Audience(watch, subject), state.is_main_process
    return _transformer(recipe, *told) if recipe.lora is None else _lora(recipe, recipe.lora, *told)


def _encode(recipe: Recipe, model, inpainting: bool) -> Subject | None:
    """What samples are of, if there are any. The encoders are in memory only meanwhile; for samples, the VAE stays."""
    data = recipe.data
    buckets = cut_into_windows(_buckets(recipe), data, recipe.plan.seed)
    vae, clip = load_vae(_place(recipe.models.vae)), load_text_encoder(_place(recipe.models.text_encoder))
    eye = recipe.models.image_encoder
    image_encoder = load_image_encoder(_place(eye)) if wants_clip_tokens(model, eye) else None
    with torch.no_grad():
        reads = None if recipe.lora and recipe.lora.text else clip
        encode_dataset(recipe.clips, buckets, vae, reads, inpainting, data.every, image_encoder=image_encoder)
    logging.info("%s is encoded", recipe.clips)
    return subject_of(recipe.samples, data, (clip, vae), inpainting)


def _buckets(recipe: Recipe) -> dict[Bucket, list[Item]]:
    data = recipe.data
    items = read_dataset(recipe.clips, with_captions=recipe.kind != "vae")
    return sort_into_buckets(items, data.side, data.frames, data.every)


def _lora(recipe: Recipe, lora: LoraSettings, model, found: LatentDataset, audience: Audience, is_main: bool) -> Path:
    clip = load_text_encoder(_place(recipe.models.text_encoder)) if lora.text else None
    settings = recipe.data, lora, recipe.plan, recipe.folder
    adapters = teach(model, found, *settings, _method(recipe), audience, clip)
    file = recipe.folder / f"{recipe.folder.name}.safetensors"
    weights = original_names(adapters)
    if is_main:
        write_safetensors(file, weights, {"format": "pt"})
    return file


def _transformer(recipe: Recipe, model, found: LatentDataset, audience: Audience, is_main: bool) -> Path:
    teaching = Teaching(LEARNS[recipe.kind], _method(recipe), recipe.fresh)
    network = train_transformer(model, found, recipe.data, recipe.plan, recipe.folder, teaching, audience)
    folder, weights = recipe.folder / "transformer", whole_weights(network)
    if not is_main:
        return folder
    if recipe.kind == "motion_module":
        return save_motion_module(network.config, weights, folder, recipe.folder.name)
    return save_transformer(network.config, weights, folder)


def _method(recipe: Recipe) -> Method:
    return Method(recipe.noise, recipe.checkpointing)


def _vae(recipe: Recipe, watch: Watch | None, is_main: bool) -> Path:
    start = load_vae(_place(recipe.models.vae)) if recipe.models.vae else None
    settings = recipe.data, recipe.vae, recipe.plan, recipe.folder, recipe.checkpointing
    network = train_vae(start, _buckets(recipe), *settings, watch)
    folder, weights = recipe.folder / "vae", whole_weights(network)
    return save_vae(network, weights, folder) if is_main else folder


def _place(path: str) -> Path:
    return TINY if path == BUILT_IN else Path(path)
