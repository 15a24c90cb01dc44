"""Writes workflows in the editor's format, laid out left to right, from the short descriptions in `graphs`.

A description lists nodes and their inputs, as a prompt does; the order of sockets and widgets comes from the server.
Standard library only.
"""

import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .client import default, is_widget
from .files import DOWNLOADS
from .translations import translations

COLOURS = ("#3f789e", "#88aa88", "#b58b2a", "#8a5f9e")
NOTE = "MarkdownNote"
WITH_PICTURE = (
    "LoadImage",
    "LoadImageMask",
    "LoadVideo",
    "PreviewImage",
    "SaveImage",
    "SaveVideo",
    "SaveAnimatedWEBP",
)
SHOWS_PREVIEW = (
    "EasyAnimateSampler",
    "KSampler",
    "EasyAnimateTrainLora",
    "EasyAnimateTrainMotionModule",
    "EasyAnimateSplitVideos",
    "EasyAnimateScoreClips",
    "EasyAnimateFilterClips",
    "EasyAnimateCaptionClips",
    "EasyAnimateLoadDataset",
)
WIDTH, WIDE, TITLE, SLOT, WIDGET, TEXT, PICTURE, GAP, MARGIN = 320, 400, 30, 20, 24, 90, 280, 40, 20
FREE = (80, 120, 1500, 720)  # left, top, width and height of what the editor's bars leave of a window of 1600 x 900
VUE_FRAME, VUE_WIDGET, VUE_BADGE = 36, 36, 32  # in Nodes 2.0; a badge for the pack, another one for an error


@dataclass(frozen=True)
class Stage:
    """A group of nodes by name: columns from left to right, each from top to bottom."""

    title: str
    columns: list[list[str]]


@dataclass(frozen=True)
class TinyRun:
    """How tests run a workflow, with the built-in tiny model or stand-ins, and what the result should show."""

    saves: dict[str, tuple[int, int]]  # node that saves -> frames, side of the square in pixels
    inputs: dict[str, dict] = field(default_factory=dict)  # node -> input -> value, in place of those in the file
    shows: tuple[str, str] | None = None  # colour and motion of the shape; None where other models hide it
    pictures: tuple[str, ...] = ("decode",)  # the nodes whose images are the thumbnail, one after the other
    thumbnail: dict[str, dict] = field(default_factory=dict)  # as `inputs`, further ones for the thumbnail alone
    drawn: dict[str, dict] = field(default_factory=dict)  # nodes that the thumbnail alone has


@dataclass(frozen=True)
class Workflow:
    """One template: its nodes (a prompt), their layout, and how the tiny model runs it."""

    name: str
    nodes: dict[str, dict]
    stages: list[Stage]
    tiny: TinyRun
    titles: dict[str, str] = field(default_factory=dict)
    app: dict[str, list[str]] = field(default_factory=dict)  # what app mode asks for: node -> widgets

    def ids(self) -> dict[str, int]:
        """The number of each node in the written file, in the order of the stages."""
        names = [name for stage in self.stages for column in stage.columns for name in column]
        if sorted(names) != sorted(self.nodes):
            raise ValueError(
                f"{self.name}: every node must stand in one stage; compare {set(names) ^ set(self.nodes)}."
            )
        return {name: number for number, name in enumerate(names, 1)}


def node(kind: str, **inputs) -> dict:
    """A node of a prompt: its type, and a value or a link `[name, slot]` for each input."""
    return {"class_type": kind, "inputs": inputs}


def note(text: str) -> dict:
    """A note for the reader, in Markdown."""
    return {"class_type": NOTE, "inputs": {"text": text}}


def write(workflow: Workflow, object_info: dict, folder: Path) -> Path:
    """Write `workflow` as a file into `folder`."""
    path = folder / f"{workflow.name}.json"
    path.write_text(as_text(workflow, object_info), encoding="utf-8", newline="\n")
    return path


def as_text(workflow: Workflow, object_info: dict) -> str:
    """`workflow` in the editor's format; `object_info` is what the server answers to `/object_info`."""
    ids = workflow.ids()
    positions: dict[str, list[int]] = {}
    shapes = {name: _Shape(workflow.name, node, object_info) for name, node in workflow.nodes.items()}
    groups = list(_lay_out(workflow.stages, shapes, positions))
    links = _links(ids, shapes)
    nodes = [_node(workflow, name, shapes[name], positions[name], ids, links) for name in ids]
    saved = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"easyanimate/{workflow.name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": groups,
        "config": {},
        "extra": _view(groups) | _app(workflow, ids) | _translations(workflow),
        "version": 0.4,
    }
    return json.dumps(saved, indent=1, ensure_ascii=False) + "\n"


class _Shape:
    """A node's sockets and widgets, as its schema orders them."""

    def __init__(self, workflow: str, node: dict, object_info: dict):
        self.kind, inputs = node["class_type"], node["inputs"]
        if self.kind == NOTE:
            schema = {"required": {"text": ["STRING", {"multiline": True}]}}
            self.outputs = []
        elif info := object_info.get(self.kind):
            schema = info["input"]
            self.outputs = list(zip(info["output_name"], info["output"], strict=True))
        else:
            raise ValueError(f"{workflow}: the server knows no node {self.kind}.")
        specs = {**schema.get("required", {}), **schema.get("optional", {})}
        if unknown := set(inputs) - set(specs):
            raise ValueError(f"{workflow}: {self.kind} has no input {', '.join(sorted(unknown))}.")
        self.links = {name: value for name, value in inputs.items() if isinstance(value, list)}
        self.sockets = [name for name, spec in specs.items() if not is_widget(spec) or name in self.links]
        self.widgets = [name for name, spec in specs.items() if is_widget(spec)]
        self.types = {name: _type(spec) for name, spec in specs.items()}
        missing = set(schema.get("required", {})) - set(inputs) - set(self.widgets)
        if missing:
            raise ValueError(f"{workflow}: {self.kind} needs {', '.join(sorted(missing))}.")
        self.values = [value for name in self.widgets for value in _values(specs[name], inputs.get(name))]
        self.values += ["image"] * any(_uploads(spec) for spec in specs.values())
        self.texts = sum(_options(specs[name]).get("multiline", False) for name in self.widgets)

    @property
    def size(self) -> list[int]:
        rows = max(len(self.sockets), len(self.outputs)) * SLOT + len(self.values) * WIDGET + self.texts * TEXT
        lines = sum(len(line) // 55 + 1 for line in self.values[0].splitlines()) if self.kind == NOTE else 0
        height = 20 * lines + 40 if lines else rows + 16 + PICTURE * (self.kind in WITH_PICTURE)
        return [WIDE if self.texts or self.kind in WITH_PICTURE else WIDTH, height]

    @property
    def room(self) -> int:
        """The height to keep free for the node, title and previews included, in classic and in Nodes 2.0."""
        slots = max(len(self.sockets), len(self.outputs)) * SLOT
        vue = VUE_FRAME + slots + len(self.values) * VUE_WIDGET + self.texts * TEXT
        tallest = TITLE + self.size[1] if self.kind == NOTE else max(TITLE + self.size[1], vue) + 2 * VUE_BADGE
        square = (WIDE - PICTURE) * (self.kind in WITH_PICTURE)  # of a picture as wide as the node
        return tallest + square + PICTURE * (self.kind in SHOWS_PREVIEW)


def _values(spec: list, value) -> list:
    """What the editor stores for a widget: its value, then that of the extra widget that it brings along."""
    options = _options(spec)
    value = default(spec) if value is None or isinstance(value, list) else value
    if options.get("control_after_generate"):
        return [value, "fixed"]
    return [value]


def _uploads(spec: list) -> bool:
    """Whether the editor adds an upload button, after all other widgets."""
    return bool(_options(spec).get("image_upload") or _options(spec).get("video_upload"))


def _options(spec: list) -> dict:
    return spec[1] if len(spec) > 1 else {}


def _type(spec: list) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def _lay_out(stages: Iterable[Stage], shapes: dict[str, _Shape], positions: dict[str, list[int]]):
    """Fill in `positions`; yields the groups."""
    x = 0
    tallest = max(_height(column, shapes) for stage in stages for column in stage.columns)
    for number, stage in enumerate(stages):
        left = x
        x += MARGIN
        for column in stage.columns:
            y = TITLE * 2 + MARGIN
            for name in column:
                positions[name] = [x, y]
                y += shapes[name].room + GAP // 2
            x += max(shapes[name].size[0] for name in column) + GAP
        box = [left, 0, x - GAP + MARGIN - left, tallest + TITLE + MARGIN * 2]
        colour = COLOURS[number % len(COLOURS)]
        yield {"id": number + 1, "title": stage.title, "bounding": box, "color": colour, "font_size": 24, "flags": {}}
        x += MARGIN


def _view(groups: list[dict]) -> dict:
    """Where the editor opens a graph: all of it in view."""
    left, top, width, height = FREE
    right, bottom = (max(group["bounding"][i] + group["bounding"][i + 2] for group in groups) for i in (0, 1))
    scale = round(min(1, width / right, height / bottom) - 0.005, 2)
    return {"ds": {"scale": scale, "offset": [round(left / scale), round(top / scale)]}}


def _height(column: list[str], shapes: dict[str, _Shape]) -> int:
    return sum(shapes[name].room + GAP // 2 for name in column)


def _links(ids: dict[str, int], shapes: dict[str, _Shape]) -> list[list]:
    """`[number, from node, its slot, to node, its slot, type]`."""
    links: list[list] = []
    for name in ids:
        for slot, socket in enumerate(shapes[name].sockets):
            if socket in shapes[name].links:
                source, out = shapes[name].links[socket]
                kind = shapes[source].outputs[out][1]
                links.append([len(links) + 1, ids[source], out, ids[name], slot, kind])
    return links


def _app(workflow: Workflow, ids: dict[str, int]) -> dict:
    """What the editor's app mode, since 0.33, shows of a workflow: some widgets, and what it saves."""
    inputs = [[ids[name], widget] for name, widgets in workflow.app.items() for widget in widgets]
    outputs = [ids[name] for name in workflow.tiny.saves]
    return {"linearData": {"inputs": inputs, "outputs": outputs}} if inputs else {}


def _translations(workflow: Workflow) -> dict:
    return {
        "easyanimate": translations(
            workflow.name, {stage.title for stage in workflow.stages} | {*workflow.titles.values()}
        )
    }


def _properties(shape: _Shape) -> dict:
    named = {} if shape.kind == NOTE else {"Node name for S&R": shape.kind}
    models = [asdict(DOWNLOADS[value]) for value in shape.values if isinstance(value, str) and value in DOWNLOADS]
    return named | ({"models": models} if models else {})


def _node(workflow: Workflow, name: str, shape: _Shape, position: list[int], ids: dict[str, int], links: list) -> dict:
    number = ids[name]
    into = {link[4]: link[0] for link in links if link[3] == number}
    inputs = [
        {"name": socket, "type": shape.types[socket], "link": into.get(slot)}
        | ({"widget": {"name": socket}} if socket in shape.widgets else {})
        for slot, socket in enumerate(shape.sockets)
    ]
    outputs = [
        {"name": label, "type": kind, "links": [link[0] for link in links if link[1:3] == [number, slot]]}
        for slot, (label, kind) in enumerate(shape.outputs)
    ]
    written = {
        "id": number,
        "type": shape.kind,
        "pos": position,
        "size": shape.size,
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": _properties(shape),
        "widgets_values": shape.values,
    }
    return written | ({"title": workflow.titles[name]} if name in workflow.titles else {})
