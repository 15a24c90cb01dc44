"""Takes the screenshots in the help pages and in the README: `dev.py pictures`."""

import logging
from pathlib import Path

from playwright.sync_api import expect

from .. import comfyui
from ..environment import ROOT
from ..workflows import graphs
from . import front_end
from .front_end import FrontEnd

NODES = ROOT / "web" / "docs" / "pictures"
README = ROOT / "docs" / "pictures"
WINDOW, TALL = {"width": 1600, "height": 800}, {"width": 1600, "height": 1400}  # the other for the longest node
BADGE, MARGIN = 30, 12  # pixels; the badge above a node names its pack
HELP_PAGE = "EasyAnimateSampler"
VALUES = {  # what users may have there, instead of what happens to lie on this machine
    "EasyAnimateLoadControlNet": {"control_net": "PixArt-XL-2-1024-ControlNet.pth"},
    "EasyAnimateLoadImageEncoder": {"image_encoder": "clip-vit-large-patch14.safetensors"},
    "EasyAnimateSplitVideos": {"folder": "my_footage"},
    "EasyAnimateLoadDataset": {"folder": "input/my_clips"},
}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with front_end.opened(viewport=WINDOW) as window:
        window.page.set_viewport_size(TALL)
        for kind in comfyui.our_nodes(window.port):
            take_node(window, kind)
        window.page.set_viewport_size(WINDOW)
        take_templates(window)
        take_graph(window)
        take_help(window)


def take_node(window: FrontEnd, kind: str) -> None:
    """One node alone."""
    box = window.show_alone(kind)
    window.fill(window.page.evaluate("app.graph.nodes[0].id"), **VALUES.get(kind, {}))
    clip = {
        "x": box["x"] - MARGIN,
        "y": box["y"] - BADGE,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + BADGE + MARGIN,
    }
    take(window, NODES / f"{kind}.png", clip)


def take_templates(window: FrontEnd) -> None:
    """Our templates in the template browser, by name, as many as fit."""
    window.page.evaluate("app.extensionManager.setting.set('Comfy.Templates.SortBy', 'alphabetical')")
    for card in list(window.browse_templates().values())[:8]:
        expect(card.get_by_role("img")).to_be_visible()
    take(window, README / "templates.png")


def take_graph(window: FrontEnd) -> None:
    """A workflow after its run, with its video playing."""
    window.open_template(graphs.text_to_video_tiny().name)
    window.run()
    window.play(9, seconds=1)
    window.page.evaluate("app.canvas.deselectAll()")
    take(window, README / "graph.png")
    window.pause()


def take_help(window: FrontEnd) -> None:
    """The same graph with the help page of one of its nodes."""
    expect(window.help(HELP_PAGE).get_by_role("img")).to_be_visible()
    take(window, README / "help.png")


def take(window: FrontEnd, path: Path, clip: dict | None = None) -> None:
    """A screenshot of the window, or of the box `clip`."""
    window.page.wait_for_timeout(500)  # the canvas is drawn last
    path.parent.mkdir(exist_ok=True)
    window.page.screenshot(path=path, clip=clip)
    logging.info("%s, %d kB", path.relative_to(ROOT), path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
