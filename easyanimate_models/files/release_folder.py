"""What lies around a component in a release folder: the second text encoder, its vocabulary, configs of others."""

import json
from pathlib import Path

import torch
from torch import Tensor

TEXT_ENCODER, TEXT_ENCODER_2 = "text_encoder", "text_encoder_2"
VOCABULARY = "spiece.model"
PREVIEW = ("latent_rgb_factors", "latent_rgb_bias")  # in the config.json of a VAE, or of its transformer


def release_folder(path: Path) -> Path | None:
    """The release folder that a text encoder belongs to: `path` itself, or what its component folder lies in."""
    if path.is_dir() and any((path / name).is_dir() for name in (TEXT_ENCODER, TEXT_ENCODER_2)):
        return path
    component = path if path.is_dir() else path.parent
    return component.parent if component.name in (TEXT_ENCODER, TEXT_ENCODER_2) else None


def second_text_encoder(path: Path) -> Path | None:
    """The folder of the second text encoder beside the first one at `path`."""
    folder = release_folder(path)
    return folder / TEXT_ENCODER_2 if folder and (folder / TEXT_ENCODER_2).is_dir() else None


def vocabulary(path: Path) -> Tensor | None:
    """The bytes of the SentencePiece model that belongs to the second text encoder at `path`."""
    release = release_folder(path)
    folders = [path if path.is_dir() else path.parent, *([release] if release else [])]
    files = [folder / name / VOCABULARY for folder in folders for name in ("", "tokenizer_2")]
    file = next((file for file in files if file.is_file()), None)
    return None if file is None else torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)


def transformer_config(path: Path) -> dict:
    """config.json of the transformer in the release folder that the text encoder at `path` belongs to, or nothing."""
    release = release_folder(path)
    return _config_in(release / "transformer") if release else {}


def vae_colours(path: Path) -> dict:
    """The preview colours of the VAE in the release folder that the transformer at `path` belongs to, or nothing."""
    component = path if path.is_dir() else path.parent
    release = path if (path / "vae").is_dir() else component.parent if component.name == "transformer" else None
    config = _config_in(release / "vae") if release else {}
    return {name: config[name] for name in PREVIEW if name in config}


def _config_in(folder: Path) -> dict:
    """The config.json of a component; nothing where there is none that can be read."""
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, RecursionError):
        content = {}
    return content if isinstance(content, dict) else {}
