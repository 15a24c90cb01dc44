"""A VAE from clips to a component folder: inflated from an image VAE, whole, or its decoder alone (paper 3.2)."""

import json
from pathlib import Path

import comfy.ops
import torch
from torch import Tensor, nn

from ...files.atomic import write_safetensors
from ...model_detection import RELEASED_SCALING
from ...supported_models import RELEASES, EasyAnimateV1, EasyAnimateV2, EasyAnimateV3, Release
from ...vae.host_vae import HostVAE
from ...vae.image_vae import ImageVAE, ImageVAEConfig
from ...vae.slice_vae import SliceVAEConfig
from ...vae.video_vae import VideoVAE
from ..clips.buckets import Bucket
from ..clips.dataset import Item
from ..clips.pixel_batches import PixelBatches
from ..clips.settings import DataSettings
from ..export import vae_config
from ..loop import Lesson, Watch, fit, initialise
from ..training_plan import Plan
from .critics import critics
from .inflate import LAYERS, inflate
from .objective import Teachers, VAEObjective, VAESettings
from .perceptual import Perceptual

ARCHITECTURES: dict[str, type[Release]] = {"image": EasyAnimateV1, "window": EasyAnimateV2, "slice": EasyAnimateV3}
LATENT_CHANNELS = 4
DECODER = ("decoder.", "post_quant_conv.")
OPS = {"dtype": torch.float32, "operations": comfy.ops.disable_weight_init}


def trainable_vae(start: HostVAE | None, settings: VAESettings) -> VideoVAE:
    """The network of `start` in float32, for training; another architecture takes over its weights.

    Image VAEs are inflated, and V2's and V3's have the same tensors. Without `start`, it knows nothing yet.
    """
    if start is None:
        return _new_vae(settings)
    given = start.first_stage_model
    weights = {name: tensor.detach().float().cpu() for name, tensor in given.state_dict().items()}
    own = type(given)(given.config, **OPS)
    own.load_state_dict(weights)
    wanted = ARCHITECTURES[settings.architecture].vae if settings.architecture else type(given)
    if wanted is type(given):
        return own
    if wanted is ImageVAE:
        raise ValueError('A video VAE can\'t become an image VAE; set architecture in [vae] to "window" or "slice".')
    if isinstance(own, ImageVAE):
        return inflate(own, wanted, **OPS)
    other = wanted(given.config, **OPS)
    other.load_state_dict(weights)
    return other


def _new_vae(settings: VAESettings) -> VideoVAE:
    if not settings.architecture:
        raise ValueError("A VAE that starts from nothing needs an architecture in [vae]: image, window or slice.")
    numbers = settings.channels, LAYERS, LATENT_CHANNELS, settings.norm_groups
    if settings.architecture == "image":
        return initialise(ImageVAE(ImageVAEConfig(*numbers), **OPS))
    kind = ARCHITECTURES[settings.architecture].vae
    return initialise(kind(SliceVAEConfig(*numbers, RELEASED_SCALING), **OPS))


def train_vae(
    start: HostVAE | None,
    buckets: dict[Bucket, list[Item]],
    data: DataSettings,
    settings: VAESettings,
    plan: Plan,
    folder: Path,
    recomputing: bool,
    watch: Watch | None = None,
) -> VideoVAE:
    """A network that has learnt to give back what `buckets` hold, all that learns averaged."""
    with torch.inference_mode(False), torch.enable_grad():
        device = torch.get_default_device()
        torch.manual_seed(plan.seed)
        network = trainable_vae(start, settings).to(device)
        if device.type == "cpu":
            network.to(memory_format=network.channels_last)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(settings.learns == "all" or name.startswith(DECODER))
        teachers = _teachers(settings, device)
        pixels = PixelBatches(buckets, data, plan.seed, settings.stills, settings.crop)
        shown = (plan.accumulate, recomputing)
        objective = VAEObjective(network, lambda i: pixels(i).to(device), settings, teachers, *shown)
        adversary = None if teachers.critics is None else Lesson(teachers.critics, objective.criticise)
        told = {**vars(data), **vars(settings)}
        return fit(folder, network, objective, plan, adversary, watch, told)


def _teachers(settings: VAESettings, device: torch.device) -> Teachers:
    eye: nn.Module | None = None
    if settings.perceptual:
        eye = Perceptual(Path(settings.backbone)).to(device)
    return Teachers(eye, critics(settings.critic_width).to(device) if settings.adversary else None)


def save_vae(network: VideoVAE, weights: dict[str, Tensor], folder: Path) -> Path:
    """A component folder as the releases have it: config.json and float32 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    release = next(release for release in RELEASES if release.vae is type(network))
    config = json.dumps(vae_config(network.config, release), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    file = folder / "diffusion_pytorch_model.safetensors"
    write_safetensors(file, weights, {"format": "pt"})
    return file
