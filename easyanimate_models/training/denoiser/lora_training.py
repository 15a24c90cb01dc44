"""Training of a LoRA: the adapters of a MODEL, and those of its text encoder, on clips that are encoded."""

import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ...files.atomic import write_safetensors
from ...host import static
from ..clips.latent_cache import LatentDataset
from ..clips.settings import DataSettings
from ..export import Exporter
from ..hooks import Hooks, Validation
from ..identity import Contents, file_digest, model_fingerprint
from ..loop import fit
from ..samples import make_sampler
from .diffusion import prediction_of
from .frozen_base import FrozenDenoiser, frozen_models
from .lora import NAMINGS, LoraSettings, add_adapters
from .lora_metadata import lora_metadata
from .lora_start import LoraStart, read_lora_start
from .objective import DrawBatch, denoising_objective, on_device, scaled
from .run import DenoiserRun
from .text_lora import TrainableTextEncoder
from .validation import validation_of


def train_adapters(
    model, encoded: LatentDataset, data: DataSettings, lora: LoraSettings, run: DenoiserRun, clip=None
) -> nn.ModuleDict:
    """Adapters of the MODEL, trained on `encoded`; with `lora.text` also those of `clip`, which then reads captions."""
    seed = run.plan.seed
    start = read_lora_start(Path(lora.start), model, clip if lora.text else None) if lora.start else None
    if start is not None:
        lora = _with_rank_of(start, lora, run)
    with torch.inference_mode(False):
        torch.manual_seed(seed)
        patcher, adapters = add_adapters(static(model) if run.objective.blocks_to_swap else model, lora)
        text_encoder = TrainableTextEncoder(clip, lora) if lora.text else None
        if text_encoder is not None:
            adapters.update(text_encoder.adapters)
        if start is not None:
            start.copy_to(adapters)
    learnt = encoded.part(held_out=False)
    drawn = learnt.batches(data.batch, seed, data.text_dropout, data.clip_dropout, text_encoder, data.tag_order)
    denoiser = FrozenDenoiser(patcher.model)
    validation = validation_of(encoded, data, run, patcher, denoiser, patcher.load_device, text_encoder)
    settings = {**vars(data), **vars(lora), **vars(run.objective.noise), **run.validation.recorded()}
    settings |= {"clips": learnt.count, "contents": _contents(model, encoded, lora, clip)}
    del settings["start"]  # its contents count, not where it lies
    fit_adapters(patcher, adapters, scaled(drawn, model), run, settings, text_encoder, validation)
    return adapters


def _with_rank_of(start: LoraStart, lora: LoraSettings, run: DenoiserRun) -> LoraSettings:
    if (lora.rank, lora.alpha) != (start.rank, start.alpha):
        sentence = f"{start.file.name} has rank {start.rank} and alpha {start.alpha:g}, which the run goes on with."
        logging.info("%s", sentence)
        run.monitor.say(sentence)
    return replace(lora, rank=start.rank, alpha=start.alpha)


def _contents(model, encoded: LatentDataset, lora: LoraSettings, clip) -> Contents:
    """The digests of what a run is made of."""
    contents = {**encoded.contents, "transformer": model_fingerprint(model)}
    if lora.text:
        contents["text encoder"] = model_fingerprint(clip.patcher)
    if lora.start:
        contents["LoRA to start from"] = file_digest(Path(lora.start))
    return contents


def fit_adapters(
    patcher,
    adapters: nn.ModuleDict,
    draw_batch: DrawBatch,
    run: DenoiserRun,
    settings: dict,
    text_encoder=None,
    validation: Validation | None = None,
) -> None:
    """Train the adapters of `patcher` on batches of latents at the scale of the model; see `fit`.

    A `text_encoder` (`TrainableTextEncoder`) whose adapters are among these is trained along.
    """
    others = [text_encoder.clip.patcher] if text_encoder else []
    swapped = run.objective.blocks_to_swap
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen_models(patcher, *others, blocks_to_swap=swapped) as load_models,
    ):
        load_models()
        adapters.to(patcher.load_device)
        denoiser, moved = FrozenDenoiser(patcher.model), on_device(draw_batch, patcher.load_device)
        prediction = prediction_of(patcher.model.model_config)
        objective = denoising_objective(denoiser, moved, prediction, run.objective, run.plan.seed)
        encode_prompts = text_encoder and text_encoder.encode_prompts
        sampler = make_sampler(run.monitor, patcher, run.folder, load_models, encode_prompts)
        exporter = _exporter(run, adapters, settings, patcher.model.model_config)
        hooks = Hooks(sampler, exporter, run.monitor.say, validation)
        fit(run.folder, adapters, objective, run.plan, callback=run.monitor.callback, settings=settings, hooks=hooks)


def _exporter(run: DenoiserRun, adapters: nn.ModuleDict, settings: dict, release) -> Exporter | None:
    """What saves the adapters as they are at any time, if they are to be saved at all."""
    if run.output is None:
        return None
    described = {**settings, **asdict(run.plan)}

    def write(file: Path, tensors: dict[str, Tensor], steps: int) -> None:
        write_safetensors(file, tensors, lora_metadata(file.stem, steps, described, release))

    return Exporter(run.output.path, partial(NAMINGS[run.output.naming], adapters), write)
