"""Pictures of what a node made: IMAGEs, and what shows them on the node itself."""

from pathlib import Path

import numpy
import torch
from comfy_api.latest import ui
from PIL import Image, ImageOps

PREVIEW_CLIPS, THUMBNAIL = 24, (192, 108)  # clips on a sheet, pixels of each


def show_images(images: list[torch.Tensor]) -> dict:
    """What shows each IMAGE on the node itself, whatever their sizes."""
    return {"images": [file for image in images for file in ui.PreviewImage(image).as_dict()["images"]]}


def clip_sheet(home: Path, rows: list[dict]) -> torch.Tensor:
    """A frame of each of the first clips as one IMAGE, `[1, H, W, 3]`."""
    from ..easyanimate_models.media.contact_sheet import contact_sheet
    from ..easyanimate_models.media.video_file import sample_frames

    clips = [home / str(row["file"]) for row in rows if not row.get("wrong")][:PREVIEW_CLIPS]
    if not clips:
        raise ValueError(f"{home.name} contains no usable clips; the log says why each one was skipped.")
    pictures = [Image.fromarray(sample_frames(clip, 1, THUMBNAIL[1])[0].copy()) for clip in clips]
    sheet = contact_sheet([ImageOps.pad(picture, THUMBNAIL) for picture in pictures])
    return as_image(sheet)


def as_image(picture: Image.Image) -> torch.Tensor:
    """A picture as IMAGE, `[1, H, W, 3]`."""
    return torch.from_numpy(numpy.asarray(picture.convert("RGB")).copy())[None].float() / 255
