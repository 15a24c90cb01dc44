"""`dev.py demo`: from a prompt to a video and its contact sheet. Standard library only."""

import sys
import time
from pathlib import Path

from . import comfyui
from .environment import ROOT, print_line, run_module
from .workflows import client, graphs

WORKFLOW = ROOT / "workflows" / f"{graphs.text_to_video_tiny().name}.json"


def demo(arguments: list[str]) -> int:
    """Make the video that `arguments` describe, or the one that the workflow describes."""
    started = time.monotonic()
    with comfyui.server() as port:
        prompt = client.load(port, WORKFLOW)
        texts = next(n for n in prompt.values() if n["class_type"] == "EasyAnimateEncodePrompt")["inputs"]
        texts["positive"] = " ".join(arguments) or texts["positive"]
        print_line(f"Making: {texts['positive']}")
        try:
            outputs = client.run(port, prompt, show_progress)
        except client.WorkflowError as error:
            sys.exit(f"\n{error}")
    video = comfyui.saved_video(outputs)
    draw("contact_sheet", video.with_suffix(".png"), video)
    print_line(f"\n{video}\n{video.with_suffix('.png')}\n{time.monotonic() - started:.0f} seconds")
    return 0


def draw(module: str, picture: Path, *videos: Path) -> None:
    """A picture of videos, by a module of `easyanimate_models.media`."""
    if code := run_module(f"easyanimate_models.media.{module}", [str(path) for path in (*videos, picture)]):
        sys.exit(code)


def show_progress(node: str, value: int, total: int) -> None:
    """A progress bar of the node that runs, on the line of the last one."""
    filled = round(30 * value / max(1, total))
    print(f"\r{node:<24} [{'#' * filled}{'.' * (30 - filled)}] {value}/{total} ", end="", flush=True)
