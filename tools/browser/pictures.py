"""Takes the screenshots in the help pages and in the README: `python3 dev.py pictures`."""

import logging
from pathlib import Path

import front_end
from front_end import FrontEnd
from playwright.sync_api import expect

from dev import PACK, ROOT, client

NODES = ROOT / "web" / "docs" / "pictures"
README = ROOT / "docs" / "pictures"
WINDOW = {"width": 1600, "height": 800}
BADGE, MARGIN = 30, 12  # above a node stands its pack
HELPED = "EasyAnimateSampler"
CHOSEN = {  # what an artist may have there, rather than what happens to lie on this machine
    "EasyAnimateLoadControlNet": {"control_net": "PixArt-XL-2-1024-ControlNet.pth"},
    "EasyAnimateLoadImageEncoder": {"image_encoder": "easyanimate/EasyAnimateV3-XL-2-InP-512x512"},
    "EasyAnimateSplitVideos": {"folder": "my_footage"},
    "EasyAnimateLoadDataset": {"folder": "input/my_clips"},
}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with front_end.opened(viewport=WINDOW) as window:
        for kind in our_nodes(window.port):
            take_node(window, kind)
        take_templates(window)
        take_graph(window)
        take_help(window)


def our_nodes(port: int) -> list[str]:
    known = client.get(port, "/object_info")
    return [kind for kind, node in known.items() if node["python_module"].endswith(PACK)]


def take_node(window: FrontEnd, kind: str) -> None:
    """One node alone."""
    box = window.show_alone(kind)
    window.fill(1, **CHOSEN.get(kind, {}))
    clip = {
        "x": box["x"] - MARGIN,
        "y": box["y"] - BADGE,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + BADGE + MARGIN,
    }
    take(window, NODES / f"{kind}.png", clip)


def take_templates(window: FrontEnd) -> None:
    """Our folder in the template browser, as far as it is seen at once."""
    for card in list(window.browse_templates().values())[:8]:
        expect(card.get_by_role("img")).to_be_visible()
    take(window, README / "templates.png")


def take_graph(window: FrontEnd) -> None:
    """A workflow after its run, with its video playing."""
    window.open_template("text_to_video_tiny")
    window.run()
    window.play(9, seconds=1)
    window.page.evaluate("app.canvas.deselectAll()")
    take(window, README / "graph.png")
    window.pause()


def take_help(window: FrontEnd) -> None:
    """The same with the help page of one of its nodes."""
    expect(window.help(HELPED).get_by_role("img")).to_be_visible()
    take(window, README / "help.png")


def take(window: FrontEnd, path: Path, clip: dict | None = None) -> None:
    window.page.wait_for_timeout(500)  # for the canvas, which is drawn later than all else
    path.parent.mkdir(exist_ok=True)
    window.page.screenshot(path=path, clip=clip)
    logging.info("%s, %d kB", path.relative_to(ROOT), path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
