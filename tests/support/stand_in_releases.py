"""V5.1 and V4 with random weights, as small as their loaders allow, under the names that workflows use."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import comfy.ops
import torch
from safetensors.torch import save_file

from tools import comfyui
from tools.workflows import files, v51
from tools.workflows.blocks import loaders as loaders_of_files

from .components import write_component
from .mmdit import MMDIT
from .pack import part
from .prompts import loaders
from .tiny_networks import HUNYUAN_DIT, randomise
from .tiny_text_encoders import BERT, MT5, QWEN, write_bert_and_mt5, write_qwen

supported_models = part("easyanimate_models.supported_models")
hunyuan_embedders = part("easyanimate_models.dit.hunyuan_embedders")
slice_vae = part("easyanimate_models.vae.slice_vae")
embed_config = part("easyanimate_models.files.checkpoint").embed_config

VARIANTS = {v51.TEXT_TO_VIDEO: 16, v51.INPAINTING: 33, v51.CONTROL: 48, v51.CAMERA: 38}  # channels that each takes
TEXT_LAYERS = {"V3": "t5xxl.transformer", "V4": "mt5xl.transformer", "V5.1": "qwen2_vl.transformer"}  # of its CLIP
CLIP_WIDTH = 32  # of embeddings of images, where nobody needs others


def loaders_for(release: str) -> dict:
    """`model`, `vae` and `clip` of "V3" (the built-in model), "V4" or "V5.1", the latter two while `releases` lasts."""
    if release == "V3":
        return loaders()
    named = files.V4 if release == "V4" else files.v51(files.V51)
    return loaders_of_files(named.transformer, named.text_encoder, named.vae)


@contextlib.contextmanager
def releases(image_width: int = CLIP_WIDTH) -> Iterator[Path]:
    """Both among the host's models while this lasts; yields V4's folder, for CLIP embeddings of `image_width`."""
    models = comfyui.BASE / "models"
    written = [models / "diffusion_models" / f"{name}.safetensors" for name in VARIANTS]
    written += [models / "vae" / files.V51_VAE]
    written += [models / "easyanimate" / v51.TEXT_TO_VIDEO, models / files.V4.transformer]
    _remove(written)
    try:
        *transformers, vae, text, release = written
        for file, channels in zip(transformers, VARIANTS.values(), strict=True):
            _save_v51(file, channels)
        _save(vae, *_vae(supported_models.EasyAnimateV51, latent_channels=16, norm="frame", attention=None))
        write_qwen(text)
        yield write_v4(release, image_width)
    finally:
        _remove(written)


def write_v4(folder: Path, image_width: int) -> Path:
    """V4's release folder without the image encoder; returns it."""
    write_bert_and_mt5(folder, "V4")
    resampler = hunyuan_embedders.ResamplerConfig(queries=4, channels=image_width, projected=True)
    widths = {"caption_channels": BERT["hidden_size"], "caption_channels_2": MT5["d_model"]}
    config = replace(HUNYUAN_DIT, **widths, text_length=77, text_length_2=256, resampler=resampler)
    write_component(folder / "transformer", *_transformer(supported_models.EasyAnimateV4, config))
    write_component(folder / "vae", *_vae(supported_models.EasyAnimateV4, latent_channels=4))
    return folder


def _save_v51(file: Path, channels: int) -> None:
    config = replace(MMDIT, in_channels=channels, caption_channels=QWEN["hidden_size"])
    _save(file, *_transformer(supported_models.EasyAnimateV51, config))


def _save(file: Path, weights: dict, config: dict) -> None:
    """Both in one file, as the host saves them."""
    save_file({**weights, **embed_config(config)}, file)


def _transformer(release, config) -> tuple[dict, dict]:
    network = release.network(
        config=config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    randomise(network)
    return network.state_dict(), release.config_json(config)


def _vae(release, **kinds) -> tuple[dict, dict]:
    config = slice_vae.SliceVAEConfig(
        channels=(8, 8, 16, 16),
        layers=1,
        norm_groups=4,
        scaling_factor=release.latent_format.scale_factor,
        **kinds,
    )
    network = release.vae(config)
    randomise(network)
    return network.state_dict(), release.vae_config_json(config)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
