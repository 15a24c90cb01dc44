"""Training of a VAE, from clips to a component folder: inflated from an image VAE, all of it, or its decoder alone."""

import json
import logging
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ...files.atomic import write_text
from ...supported_models import release_of_vae
from ...vae.host_vae import HostVAE
from ...vae.video_vae import VideoVAE
from ..clips.buckets import Bucket
from ..clips.dataset import Item
from ..clips.holding_out import ValidationSettings, part_of
from ..clips.latent_cache import contents_of
from ..clips.pixel_batches import PixelBatches
from ..clips.settings import DataSettings
from ..export import Exporter, write_component
from ..hooks import Hooks
from ..identity import Contents, file_digest, fingerprint
from ..learner import ObjectiveModule
from ..loop import Callback, fit
from ..sharding import full_state_dict
from ..training_plan import TrainingPlan
from .critics import make_critics
from .inflate import seeing_one_frame
from .network import trainable_vae
from .objective import LossNetworks, VAEObjective, VAESettings
from .perceptual import PerceptualLoss
from .preview import preview_colours
from .validation import vae_validation

DECODER = ("decoder.", "post_quant_conv.")


@dataclass(frozen=True)
class VAERun:
    """A run of `fit` for a VAE: its folder and plan, whether slices are recomputed, its validation, who follows it."""

    folder: Path
    plan: TrainingPlan
    checkpointing: bool = True
    validation: ValidationSettings = ValidationSettings()
    callback: Callback | None = None


def train_vae(
    start: HostVAE | None, buckets: dict[Bucket, list[Item]], data: DataSettings, settings: VAESettings, run: VAERun
) -> VideoVAE:
    """A network trained to reconstruct the clips in `buckets`, with its averaged weights; see `trainable_vae`."""
    with torch.inference_mode(False), torch.enable_grad():
        device, seed = torch.get_default_device(), run.plan.seed
        torch.manual_seed(seed)
        network = trainable_vae(start, settings).to(device)
        if device.type == "cpu":
            network.to(memory_format=network.channels_last)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(settings.learns == "all" or name.startswith(DECODER))
        networks, plan = _loss_networks(settings, device), _plan_for(network, run.plan, device)
        pixels = PixelBatches(part_of(buckets, held_out=False), data, seed, settings.stills, settings.crop)
        objective = VAEObjective(
            network, lambda batch: pixels(batch).to(device), settings, networks, plan.accumulate, run.checkpointing
        )
        validation = vae_validation(objective, part_of(buckets, held_out=True), data, seed, run.validation.every)
        recorded = {**vars(data), **vars(settings), **run.validation.recorded()}
        recorded["contents"] = _contents(start, buckets, settings)
        adversary = None if networks.critics is None else ObjectiveModule(networks.critics, objective.critic_objective)
        knows_only_stills = start is None and settings.stills == 1
        hooks = Hooks(exporter=_exporter(run.folder, network, knows_only_stills), validation=validation)
        return fit(run.folder, network, objective, plan, adversary, run.callback, recorded, hooks)


def _plan_for(network: VideoVAE, plan: TrainingPlan, device: torch.device) -> TrainingPlan:
    """The plan in a precision that the network can be trained in: float32 for V4 to V5.1 on a CPU.

    There oneDNN's gradients of three-channel convolutions in bfloat16 have written beyond their memory.
    """
    if device.type != "cpu" or not network.plan.seamless or plan.precision == "fp32":
        return plan
    if plan.precision == "bf16":
        logging.warning("The VAEs of V4, V5 and V5.1 are trained in float32 on a CPU, though precision is bf16.")
    return replace(plan, precision="fp32")


def _exporter(folder: Path, network: VideoVAE, knows_only_stills: bool) -> Exporter:
    """What saves the VAE below the folder of the run; one that is stopped leaves none."""

    def write(path: Path, weights: dict[str, Tensor], _: int) -> None:
        save_vae(path, seeing_one_frame(weights, network) if knows_only_stills else weights, network)

    return Exporter(folder / "vae", lambda: full_state_dict(network), write, when_stopped=False)


def _contents(start: HostVAE | None, buckets: dict[Bucket, list[Item]], settings: VAESettings) -> Contents:
    """The digests of what a run is made of: the clips, the VAE to start from, the network of the perceptual loss."""
    contents = contents_of(chain.from_iterable(buckets.values()), with_captions=False)
    if start is not None:
        contents["VAE"] = fingerprint(start.first_stage_model)
    if settings.perceptual:
        contents["backbone"] = file_digest(Path(settings.backbone))
    return contents


def _loss_networks(settings: VAESettings, device: torch.device) -> LossNetworks:
    perceptual = PerceptualLoss(Path(settings.backbone)).to(device) if settings.perceptual else None
    return LossNetworks(perceptual, make_critics(settings.critic_width).to(device) if settings.adversary else None)


def save_vae(folder: Path, weights: dict[str, Tensor], network: VideoVAE) -> Path:
    """Write a component folder as the releases have it: config.json and float32 weights; the file of the weights."""
    return write_component(folder, release_of_vae(type(network)).vae_config_json(network.config), weights)


def write_colours(folder: Path, colours: dict) -> None:
    """Add preview colours to the config.json of a VAE's component folder."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    write_text(file, json.dumps(config | colours, indent=2) + "\n")


def fitted_colours(
    network: VideoVAE, buckets: dict[Bucket, list[Item]], data: DataSettings, settings: VAESettings, seed: int
) -> dict:
    """The preview colours of a VAE, from batches of the clips that it was trained on."""
    pixels = PixelBatches(part_of(buckets, held_out=False), data, seed, settings.stills, settings.crop)
    device = next(network.parameters()).device
    return preview_colours(network, lambda batch: pixels(batch).to(device))
