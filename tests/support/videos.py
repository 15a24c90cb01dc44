"""What a run saved, as tensors, and whether it shows what its prompt asks for."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tools import comfyui

from .pack import part

judging = part("easyanimate_models.training.toy.judging")
contact_sheet = part("easyanimate_models.media.contact_sheet")


def saved_files(outputs: dict, kind: str = "images") -> list[Path]:
    """The files that a prompt saved, or one of its nodes, given as `{id: its output}`; not what nodes only show."""
    files = [file for output in outputs.values() for file in output.get(kind, ()) if file.get("type") != "temp"]
    return [comfyui.OUTPUT / file["subfolder"] / file["filename"] for file in files]


def first_video(outputs: dict) -> Tensor:
    """The first video that a prompt saved, `[T, H, W, 3]` in 0..1."""
    return read_video(saved_files(outputs)[0])


def read_video(path: Path) -> Tensor:
    """A video file, `[T, H, W, 3]` in 0..1."""
    return torch.stack([pixels(frame) for frame in contact_sheet.read_video(path)])


def read_pictures(outputs: dict) -> Tensor:
    """The pictures that a prompt saved, `[N, H, W, 3]` in 0..1."""
    return torch.stack([pixels(Image.open(file)) for file in saved_files(outputs)])


def pixels(picture: Image.Image) -> Tensor:
    """`[H, W, 3]` in 0..1."""
    raw = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return raw.view(picture.height, picture.width, 3).float() / 255


def assert_shows(video: Tensor, colour: str = "red", motion: str = "left", frames: int = 24, side: int = 64) -> None:
    """The one shape in a square video has this colour and moves this way."""
    assert video.shape == (frames, side, side, 3)
    judged = judging.classify(video)
    assert (judged.colour, judged.motion) == (colour, motion)
