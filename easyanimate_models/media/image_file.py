"""A still image, as a viewer shows it: turned upright by its EXIF orientation, transparency on white."""

from pathlib import Path

import numpy
from PIL import Image, ImageOps

from .errors import MediaError

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
ANIMATED = {"PNG", "WEBP"}  # formats whose frames are a film; those of others are views of one photo (MPO)
BACKGROUND = "white"
DEEP = 257  # 16 bits of a channel to 8


def is_image(file: Path) -> bool:
    """Whether a file is a still by its name and, where it can be opened, by its frames."""
    if file.suffix.lower() not in IMAGES:
        return False
    try:
        with Image.open(file) as image:
            return image.format not in ANIMATED or getattr(image, "n_frames", 1) == 1
    except MemoryError:
        raise
    except Exception:  # `read_image` says what is wrong with it
        return True


def read_image(file: Path) -> numpy.ndarray:
    """The image `[H, W, 3]` in RGB, 8 bits a channel. Raises `MediaError`."""
    try:
        with Image.open(file) as image:
            return numpy.array(_opaque(ImageOps.exif_transpose(image)))
    except FileNotFoundError as error:
        raise MediaError(f"{file} no longer exists; put it back, or start again without it.") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        reason = "no known format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise MediaError(f"{file} can't be read as an image ({reason}); replace it.") from error


def _opaque(image: Image.Image) -> Image.Image:
    """The image in RGB, on white where it is transparent."""
    if image.mode.startswith("I"):  # grey in 16 bits
        return Image.fromarray((numpy.asarray(image).clip(0, 65535) / DEEP).round().astype(numpy.uint8)).convert("RGB")
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer).convert("RGB")
