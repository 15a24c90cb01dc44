"""From clips to a file among the host's models, as a node asks for it: encode, teach, save."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from ..configs.motion_dit import transformer_config
from ..data.dataset_file import DatasetError
from ..files.atomic import write_safetensors
from ..files.checkpoint import embed_config
from ..files.model_files import plain_name
from ..files.packages import require_package
from ..lora import load_lora
from ..model_base import require_words
from ..sd import with_motion_weights
from ..supported_models import Release
from .clips.buckets import sort_into_buckets
from .clips.dataset import Item
from .clips.latent_cache import LatentDataset, Progress, encode_dataset, is_inpainting, wants_clip_tokens
from .clips.settings import DataSettings
from .clips.windows import cut_into_windows
from .denoiser.lora import NAMINGS, LoraSettings
from .denoiser.lora_run import teach
from .denoiser.transformer import Teaching, motion_weights, train_transformer
from .loop import Watch
from .samples import Audience, SampleSettings, Show, subject_of
from .training_plan import Plan

RUNS = "easyanimate_training"  # in the host's output folder
OLD_FOLDER = "unet"  # what the host called diffusion_models; it still comes first


@dataclass(frozen=True)
class Task:
    """What is to be learnt, by which models of the host, under which name.

    Latents and texts are kept below `home`, by default the folder of the run.
    """

    name: str
    model: Any
    clip: Any
    vae: Any
    items: list[Item]
    data: DataSettings
    plan: Plan
    samples: SampleSettings = SampleSettings()
    home: Path | None = None
    clip_vision: Any = None


@dataclass(frozen=True)
class Seen:
    """What whoever asked sees meanwhile: how many clips are encoded, every step, samples."""

    encoding: Progress | None = None
    learning: Watch | None = None
    sample: Show | None = None


@dataclass(frozen=True)
class Trained:
    """The MODEL with what it has learnt, the file that holds it, and the folder of the run with its log and plot.

    Where a LoRA was learnt, also the CLIP.
    """

    model: Any
    file: Path
    folder: Path
    clip: Any = None


def train_lora(task: Task, lora: LoraSettings, naming: str, seen: Seen | None = None) -> Trained:
    """Teach a LoRA, saved in models/loras; goes on where a run of that name stopped."""
    file, folder = _places(task.name, "loras")
    found, audience = _prepared(task, folder, seen or Seen(), reads=not lora.text)
    settings = task.data, lora, task.plan, folder
    adapters = teach(task.model, found, *settings, audience=audience, clip=task.clip)
    write_safetensors(file, NAMINGS[naming](adapters), {"format": "pt"})
    model, clip = load_lora(file, task.model, task.clip)
    return Trained(model, file, folder, clip)


def train_motion_module(task: Task, seen: Seen | None = None) -> Trained:
    """Teach motion modules alone, saved as `NAME_mm` in models/diffusion_models; goes on where such a run stopped.

    An image transformer gets V1's; a video transformer's own learn. All other weights stay as they are.
    """
    file, folder = _places(task.name, "diffusion_models", "_mm")
    if task.model.patches:
        raise ValueError(
            "The MODEL has a LoRA on it, which motion modules can't be taught under; connect the transformer as it "
            "was loaded."
        )
    found, audience = _prepared(task, folder, seen or Seen(), moves=True)
    settings = task.data, task.plan, folder, Teaching("motion")
    network = train_transformer(task.model, found, *settings, audience)
    weights, config = motion_weights(network.state_dict()), network.config
    write_safetensors(file, weights | embed_config(transformer_config(config)), {"format": "pt"})
    return Trained(with_motion_weights(task.model, config, weights), file, folder)


def _prepared(
    task: Task, folder: Path, seen: Seen, reads: bool = True, moves: bool = False
) -> tuple[LatentDataset, Audience]:
    """The encoded clips, their captions too unless it `reads` none yet, and who looks on.

    Where what is learnt `moves`, there must be clips of more than one frame.
    """
    require_package("accelerate")
    if not isinstance(task.model.model.model_config, Release):
        raise ValueError("This model is not an EasyAnimate transformer; load one with Load EasyAnimate Transformer.")
    empty = task.clip.encode_from_tokens_scheduled(task.clip.tokenize(""))[0][0]
    require_words(empty, task.model.model.diffusion_model.config.caption_channels)
    data, inpainting = task.data, is_inpainting(task.model)
    buckets = sort_into_buckets(task.items, data.side, data.frames, data.every)
    buckets = cut_into_windows(buckets, data, task.plan.seed)
    if moves and all(bucket.frames == 1 for bucket in buckets):
        raise DatasetError("There is no motion in images; give clips, and let frames be more than 1.")
    home = task.home or folder
    eye = task.clip_vision if wants_clip_tokens(task.model, task.clip_vision) else None
    clip = task.clip if reads else None
    found = encode_dataset(home, buckets, task.vae, clip, inpainting, data.every, seen.encoding, eye)
    subject = subject_of(task.samples, data, (task.clip, task.vae), inpainting, seen.sample)
    return found, Audience(seen.learning, subject)


def _places(name: str, kind: str, ending: str = "") -> tuple[Path, Path]:
    """The file among the host's models and the folder of the run; raises `ValueError` for names that lead elsewhere."""
    name = plain_name(name, "file") + ending
    places = [Path(place) for place in folder_paths.get_folder_paths(kind)]
    place = next((place for place in places if place.name != OLD_FOLDER), places[0])
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{name}.safetensors", Path(folder_paths.get_output_directory()) / RUNS / name
