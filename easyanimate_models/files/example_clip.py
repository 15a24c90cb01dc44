"""The clip that templates load: shipped with them, and brought to where ComfyUI's Load Video looks."""

import logging
import shutil
from pathlib import Path

import folder_paths

from .atomic import atomic_write

SHIPPED = Path(__file__).parents[2] / "workflows" / "inputs" / "clip.mp4"
NAME = "easyanimate_clip.mp4"


def bring_example_clip() -> None:
    """Copy the clip (6 kB) into ComfyUI's input folder unless it is there; templates open without it as well."""
    target = Path(folder_paths.get_input_directory()) / NAME
    if target.exists() or not SHIPPED.is_file():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as part:
            shutil.copyfile(SHIPPED, part)
    except OSError as error:
        logging.info("EasyAnimate: the templates' example clip is not in the input folder: %s", error)
