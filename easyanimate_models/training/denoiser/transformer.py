"""Training of the transformer's own weights: all of it, the image transformer, or its motion modules (paper 3.1, 4)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import comfy.model_management as mm
import comfy.ops
import torch
from torch import Tensor, nn

from ...host import patcher_class
from ..clips.latent_cache import LatentDataset
from ..clips.settings import DataSettings
from ..export import Exporter, write_component
from ..hooks import Hooks
from ..identity import model_fingerprint
from ..initialize import reset_parameters
from ..loop import fit
from ..samples import make_sampler
from ..sharding import full_state_dict
from .diffusion import prediction_of
from .motion_modules import ReleaseClass, load_image_weights, motion_weights, save_motion_modules
from .objective import denoising_objective, on_device, scaled
from .run import DenoiserRun, Output
from .validation import validation_of


@dataclass(frozen=True)
class TransformerSettings:
    """Which weights learn: those of the "motion" modules, all others ("image"), or "all" that releases fine-tuned.

    A `fresh` transformer is trained from scratch; then "all" is every weight.
    """

    learns: Literal["motion", "image", "all"]
    fresh: bool = False


def trainable_network(model, settings: TransformerSettings) -> nn.Module:
    """The network of a MODEL in float32; if motion modules learn and it has none, with new ones (V1's).

    New motion modules are zero at first, so the network still predicts each frame as before.
    """
    release, config = model.model.model_config, model.model.diffusion_model.config
    if settings.learns == "motion":
        config = release.with_motion_modules(config)
    network = release.network(config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    reset_parameters(network)
    if settings.fresh:
        network.initialize_weights()
        return network
    network.zero_motion_modules()
    weights = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    load_image_weights(network, weights, release)
    return network


def trained_names(network: nn.Module, settings: TransformerSettings, release: ReleaseClass) -> set[str]:
    """The names of the parameters that learn."""
    names = {name for name, _ in network.named_parameters()}
    motion = {name for name in names if release.is_motion_weight(name)}
    if settings.learns == "motion":
        return motion
    if settings.learns == "image":
        return names - motion
    return names if settings.fresh else {name for name in names if name.startswith(release.trained)}


def train_transformer(
    model, encoded: LatentDataset, data: DataSettings, settings: TransformerSettings, run: DenoiserRun
) -> nn.Module:
    """The network of `model`, trained on `encoded`, with its averaged weights; the MODEL itself stays as it is."""
    with torch.inference_mode(False), torch.enable_grad():
        device = mm.get_torch_device()
        mm.unload_all_models()  # takes LoRAs out of the weights, and makes room for training
        torch.manual_seed(run.plan.seed)
        network = trainable_network(model, settings).to(device)
        release = model.model.model_config
        contents = {**encoded.contents, "transformer": model_fingerprint(model)}
        names = trained_names(network, settings, release)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in names)
        learnt, dropout = encoded.part(held_out=False), (data.text_dropout, data.clip_dropout)
        drawn = learnt.batches(data.batch, run.plan.seed, *dropout, order=data.tag_order)
        draw_batch = on_device(scaled(drawn, model), device)
        objective = denoising_objective(network, draw_batch, prediction_of(release), run.objective, run.plan.seed)
        recorded = {**vars(data), **vars(run.objective.noise), **vars(settings), **run.validation.recorded()}
        recorded |= {"clips": learnt.count, "contents": contents}
        hooks = Hooks(
            make_sampler(run.monitor, as_model(network, model), run.folder, mm.unload_all_models),
            _exporter(run.output, network, settings, release),
            run.monitor.say,
            validation_of(encoded, data, run, model, network, device),
        )
        callback = run.monitor.callback
        return fit(run.folder, network, objective, run.plan, callback=callback, settings=recorded, hooks=hooks)


def _exporter(
    output: Output | None, network: nn.Module, settings: TransformerSettings, release: ReleaseClass
) -> Exporter | None:
    """What saves motion modules alone, or all of a transformer, if they are to be saved at all.

    A transformer is large, so a run that is stopped leaves none.
    """
    if output is None:
        return None
    only_motion = settings.learns == "motion"
    save = save_motion_modules if only_motion else save_transformer

    def tensors() -> dict[str, Tensor]:
        weights = full_state_dict(network)
        if only_motion:
            return motion_weights(weights, release)
        return {name: tensor.bfloat16() for name, tensor in weights.items()}

    def write(path: Path, weights: dict[str, Tensor], _: int) -> None:
        save(path, weights, network.config, release)

    return Exporter(output.path, tensors, write, when_stopped=only_motion)


def as_model(network: nn.Module, like):
    """A network in training as a MODEL of the host, of the same release as `like`: the network itself, not a copy.

    It stays on its device. Its size is 1 byte to the host, which would otherwise make room for it a second time.
    """
    release = type(like.model.model_config)(network.config)
    release.unet_config["disable_unet_model_creation"] = True
    model = release.get_model({})
    model.diffusion_model = network
    device = next(network.parameters()).device
    return patcher_class(disable_dynamic=True)(model, device, device, size=1)


def save_transformer(folder: Path, weights: dict[str, Tensor], config, release: ReleaseClass) -> Path:
    """Write a component folder as the releases have it: config.json and bfloat16 weights; the file of the weights."""
    return write_component(folder, release.config_json(config), {k: v.bfloat16() for k, v in weights.items()})
