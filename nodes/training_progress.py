"""What a training node shows of its run."""

from pathlib import Path
from typing import Any

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
        self.smoothed: Any = None
        self.validation = ""
        self.sheets: list[torch.Tensor] = []  # the contact sheets of sample videos, as IMAGE

    def callbacks(self):
        from ..easyanimate_models.training.node_run import ProgressCallbacks

        return ProgressCallbacks(self.encoding, self.step, self.preview, self.say)

    def say(self, sentence: str) -> None:
        show_text(self.node, sentence)

    def encoding(self, done: int, of: int) -> None:
        show_text(self.node, f"encoded {done} of {of} clips")
        mm.throw_exception_if_processing_interrupted()

    def step(self, done: int, metrics: dict[str, float]) -> None:
        from ..easyanimate_models.training.metrics import Smoothed

        self.bar.update_absolute(done)
        self.smoothed = self.smoothed or Smoothed()
        text = f"step {done}, loss {self.smoothed.add(metrics['loss']):.4f} (smoothed)"
        if "validation" in metrics:
            self.validation = f", validation {metrics['validation']:.4f}"
        show_text(self.node, text + self.validation)
        mm.throw_exception_if_processing_interrupted()

    def preview(self, done: int, sheet: Image.Image) -> None:
        self.bar.update_absolute(done, preview=("JPEG", sheet, None))
        self.sheets.append(as_image(sheet))


def picture(file: Path) -> torch.Tensor:
    """A picture as IMAGE, `[1, H, W, 3]`."""
    with Image.open(file) as image:
        return as_image(image)
