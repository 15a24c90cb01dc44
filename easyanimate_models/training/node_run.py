"""From clips to a file among the host's models, as a node asks for it: encode, train, save."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ..data.dataset_file import DatasetError
from ..files.model_files import plain_name
from ..files.packages import require_package
from ..lora import load_lora
from ..sd import with_weights
from ..supported_models import Release
from ..text_encoders.prompt import encode_prompt
from ..vae.video_sizes import clip_lengths
from .clips.buckets import sort_into_buckets
from .clips.captions import add_trigger
from .clips.dataset import Item
from .clips.given_inputs import given_inputs
from .clips.holding_out import ValidationSettings, hold_out
from .clips.latent_cache import (
    LatentDataset,
    Progress,
    encode_dataset,
    log_unreadable_captions,
    require_latents_of,
    start_image_encoder,
)
from .clips.settings import DataSettings
from .clips.windows import cut_into_windows
from .denoiser.block_swap import require_swappable
from .denoiser.lora import LoraSettings
from .denoiser.lora_training import train_adapters
from .denoiser.motion_modules import motion_weights
from .denoiser.objective import ObjectiveSettings
from .denoiser.run import DenoiserRun, Output
from .denoiser.text_lora import require_trainable
from .denoiser.transformer import TransformerSettings, train_transformer
from .hooks import no_one
from .loop import Callback
from .optimizers import OPTIMIZERS
from .samples import Monitor, PreviewCallback, SampleSettings, StartImage, preview_inputs
from .training_plan import TrainingPlan

RUNS = "easyanimate_training"  # in the host's output folder
OLD_FOLDER = "unet"  # what the host called diffusion_models; it still comes first


@dataclass(frozen=True)
class TrainingJob:
    """What is trained: models of the host, clips, and the name of the file and of the run's folder.

    Latents and text embeddings are cached below `cache_folder`, by default the folder of the run.
    """

    name: str
    model: Any
    clip: Any
    vae: Any
    items: list[Item]
    data: DataSettings
    plan: TrainingPlan
    samples: SampleSettings = SampleSettings()
    cache_folder: Path | None = None
    clip_vision: Any = None
    validation: ValidationSettings = ValidationSettings()
    sample_image: Tensor | None = None  # [1, H, W, 3]
    blocks_to_swap: int = 0  # of the frozen base under a LoRA


@dataclass(frozen=True)
class ProgressCallbacks:
    """Called with the number of clips encoded, after every step, with every preview, and with what is to be said."""

    encoding: Progress | None = None
    step: Callback | None = None
    preview: PreviewCallback | None = None
    say: Callable[[str], None] = no_one


@dataclass(frozen=True)
class TrainingResult:
    """The trained MODEL, the file that was saved, and the folder of the run with its log and plot.

    Of a LoRA, also the CLIP.
    """

    model: Any
    file: Path
    folder: Path
    clip: Any = None


def train_lora(
    job: TrainingJob, lora: LoraSettings, naming: str, progress: ProgressCallbacks | None = None
) -> TrainingResult:
    """Train a LoRA and save it in models/loras; resumes a run of that name that was stopped.

    One that is stopped leaves what it has learnt as `NAME_step00057`.
    """
    if lora.text:
        require_trainable(job.clip)
    file, folder = _paths(job.name, "loras")
    encoded, monitor = _prepare(job, folder, progress or ProgressCallbacks(), with_texts=not lora.text)
    objective = ObjectiveSettings(blocks_to_swap=job.blocks_to_swap)
    run = DenoiserRun(folder, job.plan, objective, monitor, Output(file, naming), job.validation)
    train_adapters(job.model, encoded, job.data, lora, run, job.clip)
    model, clip = load_lora(file, job.model, job.clip)
    return TrainingResult(model, file, folder, clip)


def train_motion_module(job: TrainingJob, progress: ProgressCallbacks | None = None) -> TrainingResult:
    """Train motion modules alone and save them as `NAME_mm` in models/diffusion_models; resumes a stopped run.

    An image transformer gets V1's; a video transformer's own are trained. All other weights stay as they are.
    """
    file, folder = _paths(job.name, "diffusion_models", "_mm")
    if job.model.patches:
        raise ValueError(
            "The MODEL has a LoRA on it, and motion modules can't be trained with one; connect the transformer "
            "directly from its loader."
        )
    encoded, monitor = _prepare(job, folder, progress or ProgressCallbacks(), needs_motion=True)
    run = DenoiserRun(folder, job.plan, monitor=monitor, output=Output(file), validation=job.validation)
    network: Any = train_transformer(job.model, encoded, job.data, TransformerSettings("motion"), run)
    release = job.model.model.model_config
    weights = motion_weights(network.state_dict(), release)
    return TrainingResult(with_weights(job.model, network.config, weights), file, folder)


def _prepare(
    job: TrainingJob, folder: Path, progress: ProgressCallbacks, with_texts: bool = True, needs_motion: bool = False
) -> tuple[LatentDataset, Monitor]:
    """The encoded clips, `with_texts` or without, and the monitor of the run.

    Raises `DatasetError` when motion is needed and all clips are images.
    """
    require_package("accelerate")
    OPTIMIZERS[job.plan.optimizer].require()  # before anything is encoded
    if not isinstance(job.model.model.model_config, Release):
        raise ValueError("This model is not an EasyAnimate transformer; load one with Load EasyAnimate Transformer.")
    require_swappable(job.blocks_to_swap, job.model.model.diffusion_model.config.depth)
    context, options = encode_prompt(job.clip, [""])[0]
    job.model.model.require_text({**options, "cross_attn": context})
    require_latents_of(job.model, job.vae)
    data, given, lengths = job.data, given_inputs(job.model), clip_lengths(job.vae.plan)
    items = add_trigger(job.items, data.trigger_word)
    buckets = sort_into_buckets(items, data.side, data.frames, data.every, lengths)
    log_unreadable_captions(items, job.clip)
    buckets = hold_out(buckets, job.validation, job.plan.seed)
    buckets = cut_into_windows(buckets, data, job.plan.seed, lengths)
    if needs_motion and all(bucket.frames == 1 for bucket in buckets):
        raise DatasetError("Images contain no motion; use clips, and set frames above 1.")
    cache_folder = job.cache_folder or folder
    image_encoder = start_image_encoder(job.model, job.clip_vision)
    clip = job.clip if with_texts else None
    encoded = encode_dataset(cache_folder, buckets, job.vae, clip, given, data, progress.encoding, image_encoder)
    clip_vision = job.clip_vision if image_encoder else None
    start = None if job.sample_image is None else StartImage(job.sample_image, clip_vision)
    previews = preview_inputs(job.samples, data, job.clip, job.vae, given, progress.preview, start)
    return encoded, Monitor(progress.step, previews, progress.say)


def _paths(name: str, kind: str, ending: str = "") -> tuple[Path, Path]:
    """The file among the host's models and the folder of the run; raises `ValueError` for names that lead elsewhere."""
    name = plain_name(name, "file") + ending
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    folder = next((folder for folder in folders if folder.name != OLD_FOLDER), folders[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.safetensors", Path(folder_paths.get_output_directory()) / RUNS / name
