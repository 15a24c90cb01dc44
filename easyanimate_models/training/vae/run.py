"""Training of a VAE, from clips to a component folder: inflated from an image VAE, all of it, or its decoder alone."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import comfy.ops
import torch
from torch import Tensor

from ...files.atomic import write_text
from ...latent_formats import SliceLatents
from ...supported_models import release_of_vae
from ...vae.host_vae import HostVAE
from ...vae.image_vae import ImageVAE, ImageVAEConfig
from ...vae.slice_vae import SliceVAE, SliceVAEConfig, WindowVAE
from ...vae.video_vae import VideoVAE
from ..clips.buckets import Bucket
from ..clips.dataset import Item
from ..clips.latent_cache import contents_of
from ..clips.pixel_batches import PixelBatches
from ..clips.settings import DataSettings
from ..export import Exporter, write_component
from ..hooks import Hooks
from ..identity import Contents, file_digest, fingerprint
from ..initialize import reset_parameters
from ..learner import ObjectiveModule
from ..loop import Callback, fit
from ..sharding import full_state_dict
from ..training_plan import TrainingPlan
from .critics import make_critics
from .inflate import LAYERS, inflate
from .objective import LossNetworks, VAEObjective, VAESettings
from .perceptual import PerceptualLoss
from .preview import preview_colours

ARCHITECTURES: dict[str, Any] = {"image": ImageVAE, "window": WindowVAE, "slice": SliceVAE}
LATENT_CHANNELS = 4
DECODER = ("decoder.", "post_quant_conv.")
OPS = {"dtype": torch.float32, "operations": comfy.ops.disable_weight_init}


def trainable_vae(start: HostVAE | None, settings: VAESettings) -> VideoVAE:
    """The network of `start` in float32, or one of another architecture with its weights; without `start`, a new one.

    Image VAEs are inflated; V2's and V3's have the same tensors. Raises `ValueError` where neither is possible,
    and for VAEs that keep features from slice to slice, which training cuts apart.
    """
    if start is None:
        return _new_vae(settings)
    if start.plan.seamless:
        raise ValueError("The VAEs of V4, V5 and V5.1 can't be trained; choose one of V1 to V3.")
    network = start.first_stage_model
    weights = {name: tensor.detach().float().cpu() for name, tensor in network.state_dict().items()}
    same = type(network)(network.config, **OPS)
    same.load_state_dict(weights)
    kind: Any = ARCHITECTURES[settings.architecture] if settings.architecture else type(network)
    if kind is type(network):
        return same
    if kind is ImageVAE:
        raise ValueError('A video VAE can\'t become an image VAE; set architecture in [vae] to "window" or "slice".')
    if isinstance(same, ImageVAE):
        return inflate(same, kind, **OPS)
    other = kind(network.config, **OPS)
    other.load_state_dict(weights)
    return other


def _new_vae(settings: VAESettings) -> VideoVAE:
    if not settings.architecture:
        raise ValueError("A VAE that is trained from scratch needs an architecture in [vae]: image, window or slice.")
    sizes = settings.channels, LAYERS, LATENT_CHANNELS, settings.norm_groups
    if settings.architecture == "image":
        return reset_parameters(ImageVAE(ImageVAEConfig(*sizes), **OPS))
    kind = ARCHITECTURES[settings.architecture]
    return reset_parameters(kind(SliceVAEConfig(*sizes, SliceLatents.scale_factor), **OPS))


def train_vae(
    start: HostVAE | None,
    buckets: dict[Bucket, list[Item]],
    data: DataSettings,
    settings: VAESettings,
    plan: TrainingPlan,
    folder: Path,
    checkpointing: bool,
    callback: Callback | None = None,
) -> VideoVAE:
    """A network trained to reconstruct the clips in `buckets`, with its averaged weights; see `trainable_vae`."""
    with torch.inference_mode(False), torch.enable_grad():
        device = torch.get_default_device()
        torch.manual_seed(plan.seed)
        network = trainable_vae(start, settings).to(device)
        if device.type == "cpu":
            network.to(memory_format=network.channels_last)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(settings.learns == "all" or name.startswith(DECODER))
        networks = _loss_networks(settings, device)
        pixels = PixelBatches(buckets, data, plan.seed, settings.stills, settings.crop)
        objective = VAEObjective(
            network, lambda batch: pixels(batch).to(device), settings, networks, plan.accumulate, checkpointing
        )
        recorded = {**vars(data), **vars(settings), "contents": _contents(start, buckets, settings)}
        adversary = None if networks.critics is None else ObjectiveModule(networks.critics, objective.critic_objective)
        hooks = Hooks(exporter=_exporter(folder, network))
        return fit(folder, network, objective, plan, adversary, callback, recorded, hooks)


def _exporter(folder: Path, network: VideoVAE) -> Exporter:
    """What saves the VAE below the folder of the run; one that is stopped leaves none."""

    def write(path: Path, weights: dict[str, Tensor], _: int) -> None:
        save_vae(path, weights, network)

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
    pixels = PixelBatches(buckets, data, seed, settings.stills, settings.crop)
    device = next(network.parameters()).device
    return preview_colours(network, lambda batch: pixels(batch).to(device))
