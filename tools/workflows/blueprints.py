"""Writes subgraph blueprints: graphs in one node, which the editor's node search offers. Standard library only."""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from . import author
from .author import Stage, TinyRun, Workflow, node
from .blocks import BUILT_IN, BUILT_IN_INP, LOADERS, MAKE, PROMPT_AND_SIZE, decode, loaders, prompt, sampler, video
from .client import is_widget

ASKED, GIVEN = -10, -20  # the editor's numbers for what a subgraph takes and gives
SEED = ("seed", "control_after_generate")  # taken from the sampler itself, for the button that changes the seed
EDGE = 120  # width and height of the boxes of what it takes and gives
CATEGORY = "Video generation and editing/"  # where ComfyUI's own blueprints are
TEXTS = [("prompt", "positive"), ("prompt", "negative")]
MODELS = [("model", "transformer"), ("clip", "text_encoder"), ("vae", "vae")]
ABOUT = (
    "{} by EasyAnimate. As it is, with the small built-in model; choose your release in transformer, text_encoder and "
    "vae.{} Width, height and length: 0 is the model's own. Steps: 25 for the built-in model, V3 and V4, 50 for V5 and "
    "V5.1."
)


@dataclass(frozen=True)
class Blueprint:
    """What is inside, and which inputs of it the one node has."""

    inside: Workflow  # its name is that of the node
    inputs: list[tuple[str, str]]  # node inside, its input
    category: str
    description: str


def text_to_video() -> Blueprint:
    latent = {"empty": node("EasyAnimateEmptyLatent", vae=["vae", 0])}
    return Blueprint(
        inside=_inside("Text to Video (EasyAnimate)", BUILT_IN, latent, sampler(cfg=-1)),
        inputs=TEXTS + _settings("empty") + MODELS,
        category=CATEGORY + "Text to video",
        description=ABOUT.format("Text to video", " For V3, take Image to Video (EasyAnimate) without an image."),
    )


def image_to_video() -> Blueprint:
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0]}
    latent = {"conditioning": node("EasyAnimateImageToVideo", **wired)}
    sampled = sampler(positive=["conditioning", 0], negative=["conditioning", 1], latent=["conditioning", 2], cfg=-1)
    images = [("conditioning", "start_image"), ("conditioning", "end_image")]
    return Blueprint(
        inside=_inside("Image to Video (EasyAnimate)", BUILT_IN_INP, latent, sampled),
        inputs=images + TEXTS + _settings("conditioning") + MODELS,
        category=CATEGORY + "Image to video",
        description=ABOUT.format("Image to video, from a start image, an end image, both or none,", ""),
    )


def _settings(size: str) -> list[tuple[str, str]]:
    """`size` is the node that has width, height and length."""
    return [(size, "width"), (size, "height"), (size, "length"), ("sampler", "steps")]


def _inside(name: str, transformer: str, latent: dict[str, dict], sampled: dict) -> Workflow:
    """From loaders to a VIDEO; size, length and cfg are the model's own."""
    nodes = {**loaders(transformer), **prompt(), **latent, "sampler": sampled, "decode": decode()}
    nodes["video"] = video()["video"]
    make = Stage(MAKE.title, [["sampler"], ["decode", "video"]])
    return Workflow(name, nodes, [LOADERS, Stage(PROMPT_AND_SIZE, [["prompt", *latent]]), make], TinyRun({}))


BLUEPRINTS = [text_to_video, image_to_video]


def write(blueprint: Blueprint, object_info: dict, folder: Path) -> Path:
    """Write `blueprint` as a file into `folder`."""
    path = folder / f"{blueprint.inside.name}.json"
    path.write_text(as_text(blueprint, object_info), encoding="utf-8", newline="\n")
    return path


def as_text(blueprint: Blueprint, object_info: dict) -> str:
    """`blueprint` in the editor's format; `object_info` is what the server answers to `/object_info`."""
    graph = json.loads(author.as_text(blueprint.inside, object_info))
    nodes = {name: graph["nodes"][number - 1] for name, number in blueprint.inside.ids().items()}
    links = [_as_link(*link) for link in graph["links"]]
    for inner in nodes.values():
        _add_sockets_of_widgets(inner, object_info[inner["type"]], links)
    for slot, (name, given) in enumerate(blueprint.inputs):
        target = _socket(nodes[name], given)
        links.append(
            _as_link(len(links) + 1, ASKED, slot, nodes[name]["id"], target, nodes[name]["inputs"][target]["type"])
        )
        nodes[name]["inputs"][target]["link"] = len(links)
    links.append(_as_link(len(links) + 1, nodes["video"]["id"], 0, GIVEN, 0, "VIDEO"))
    nodes["video"]["outputs"][0]["links"] = [len(links)]
    definition = _definition(blueprint, graph, links)
    return json.dumps(_saved(blueprint, definition, nodes), indent=1, ensure_ascii=False) + "\n"


def _add_sockets_of_widgets(inner: dict, info: dict, links: list[dict]) -> None:
    """As the editor saves them: after all others; `links` follow those that move."""
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    before = {given["name"]: given for given in inner["inputs"]}
    inner["inputs"] = [given for name, given in before.items() if not is_widget(specs[name])]
    for name, spec in specs.items():
        if is_widget(spec):
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            unlinked = {"name": name, "type": kind, "link": None, "widget": {"name": name}}
            inner["inputs"].append(before.get(name, unlinked))
    for link in links:
        if link["target_id"] == inner["id"]:
            link["target_slot"] = _socket(inner, list(before)[link["target_slot"]])


def _socket(inner: dict, name: str) -> int:
    return next(slot for slot, given in enumerate(inner["inputs"]) if given["name"] == name)


def _as_link(number: int, source: int, out: int, target: int, slot: int, kind: str) -> dict:
    """A link as it is saved inside of a subgraph."""
    ends = {"origin_id": source, "origin_slot": out, "target_id": target, "target_slot": slot}
    return {"id": number, **ends, "type": kind}


def _definition(blueprint: Blueprint, graph: dict, links: list[dict]) -> dict:
    """What is inside, with the boxes of its inputs and outputs beside it."""
    name, groups = blueprint.inside.name, graph["groups"]
    (left, top, *_), (last, _, width, _) = groups[0]["bounding"], groups[-1]["bounding"]
    right = last + width
    inputs = [
        {"id": _id(name, given), "name": given, "type": link["type"], "linkIds": [link["id"]], "pos": [left, top]}
        for (_, given), link in zip(
            blueprint.inputs, (link for link in links if link["origin_id"] == ASKED), strict=True
        )
    ]
    output = {"id": _id(name, "VIDEO"), "name": "VIDEO", "type": "VIDEO", "linkIds": [links[-1]["id"]]}
    return {
        "id": _id(name, "inside"),
        "version": 1,
        "state": {
            "lastGroupId": len(groups),
            "lastNodeId": len(graph["nodes"]),
            "lastLinkId": len(links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": name,
        "category": blueprint.category,
        "description": blueprint.description,
        "inputNode": {"id": ASKED, "bounding": [left - 2 * EDGE, top, EDGE, EDGE]},
        "outputNode": {"id": GIVEN, "bounding": [right + EDGE, top, EDGE, EDGE]},
        "inputs": inputs,
        "outputs": [output | {"pos": [right, top]}],
        "widgets": [],
        "nodes": graph["nodes"],
        "groups": groups,
        "links": links,
        "extra": {},
    }


def _saved(blueprint: Blueprint, definition: dict, nodes: dict[str, dict]) -> dict:
    """A workflow of one node, whose type is the subgraph's id."""
    values = {name: _values_by_name(inner) for name, inner in nodes.items()}
    given = [{"name": each["name"], "type": each["type"], "link": None} for each in definition["inputs"]]
    widgets = []
    for socket, (name, widget) in zip(given, blueprint.inputs, strict=True):
        if widget in values[name]:
            socket["widget"] = {"name": widget}
            widgets.append((widget, values[name][widget]))
    number = len(nodes) + 1
    proxies = [["-1", widget] for widget, _ in widgets] + [[str(nodes["sampler"]["id"]), widget] for widget in SEED]
    placed = {
        "id": number,
        "type": definition["id"],
        "pos": [0, 0],
        "size": [author.WIDE, author.WIDGET * (len(widgets) + len(proxies))],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": given,
        "outputs": [{"name": "VIDEO", "type": "VIDEO", "links": None}],
        "properties": {"proxyWidgets": proxies},
        "widgets_values": [value for _, value in widgets],
    }
    return {
        "id": _id(definition["name"], "file"),
        "revision": 0,
        "last_node_id": number,
        "last_link_id": 0,
        "nodes": [placed],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [definition]},
        "config": {},
        "extra": {"BlueprintDescription": blueprint.description},
        "version": 0.4,
    }


def _values_by_name(inner: dict) -> dict:
    """The values of a node's widgets; the buttons that some bring along have none."""
    values, named = list(inner["widgets_values"]), {}
    for socket in inner["inputs"]:
        if "widget" in socket:
            named[socket["name"]] = values.pop(0)
            if socket["name"] == SEED[0]:
                values.pop(0)
    return named


def _id(name: str, part: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"easyanimate/subgraphs/{name}/{part}"))
