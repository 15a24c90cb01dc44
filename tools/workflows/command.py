"""`dev.py workflows`: writes `workflows/*.json` and `subgraphs/*.json`, thumbnails on demand. Standard library only."""

from .. import comfyui
from ..demo import draw, show_progress
from ..environment import ROOT, print_line
from . import author, blueprints, client, graphs, tiny

FOLDER, BLUEPRINTS = ROOT / "workflows", ROOT / "subgraphs"


def workflows(arguments: list[str]) -> int:
    """The files of all workflows; after `--pictures`, thumbnails of those named, or of all."""
    described = [make() for make in graphs.WORKFLOWS]
    pictured: list[str] = []
    if "--pictures" in arguments[:1]:
        pictured = arguments[1:] or [workflow.name for workflow in described]
    tiny.bring_inputs(comfyui.BASE)
    with comfyui.server() as port:
        object_info = client.get(port, "/object_info")
        for workflow in described:
            path = author.write(workflow, object_info, FOLDER)
            print_line(str(path.relative_to(ROOT)))
            if workflow.name in pictured:
                prompt = tiny.as_tiny(client.load(port, path), workflow)
                outputs = client.run(port, tiny.thumbnail(prompt, workflow), show_progress)
                videos = [comfyui.saved_video({name: outputs[name]}) for name in tiny.saved_by(workflow)]
                draw("thumbnail", path.with_suffix(".jpg"), *videos)  # the editor asks for no other ending
                print_line(f"\n{path.with_suffix('.jpg').relative_to(ROOT)}")
        for make in blueprints.BLUEPRINTS:
            path = blueprints.write(make(), object_info, BLUEPRINTS)
            print_line(str(path.relative_to(ROOT)))
    return 0
