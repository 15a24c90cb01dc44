"""What a training node shows of its run."""

from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import torch
from PIL import Image

from ..easyanimate_models.host import show_text
from .previews import as_image


class Progress:
    """What the node shows while it trains: progress, loss and previews. Cancel takes effect here."""

    def __init__(self, node: str, steps: int):
        self.node, self.bar = node, comfy.utils.ProgressBar(steps)
        self.validation = ""
        self.sheets: list[torch.Tensor] = []  # the contact sheets of sample videos, as IMAGE

    def say(self, sentence: str) -> None:
        show_text(self.node, sentence)

    def encoding(self, done: int, of: int) -> None:
        show_text(self.node, f"encoded {done} of {of} clips")
        mm.throw_exception_if_processing_interrupted()

    def step(self, done: int, metrics: dict[str, float]) -> None:
        self.bar.update_absolute(done)
        if "validation" in metrics:
            self.validation = f", validation {metrics['validation']:.4f}"
        show_text(self.node, f"step {done}, loss {metrics['loss']:.4f}{self.validation}")
        mm.throw_exception_if_processing_interrupted()

    def preview(self, done: int, sheet: Image.Image) -> None:
        self.bar.update_absolute(done, preview=("JPEG", sheet, None))
        self.sheets.append(as_image(sheet))


def picture(file: Path) -> torch.Tensor:
    """A picture as IMAGE, `[1, H, W, 3]`."""
    with Image.open(file) as image:
        return as_image(image)
