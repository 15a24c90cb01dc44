"""Classify clips of one shape by measuring their pixels: no network, no threshold tuned on generated clips."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import BACKGROUNDS, BAR, COLOURS, NEW_COLOURS, NEW_SHAPES, SHAPES, Scene

GROWTH = 1.8  # times the area
TRAVEL = 5.0  # pixels of a 64-pixel frame
BORDER = 2


@dataclass(frozen=True)
class Score:
    """Shares of clips, 0 to 1, that show the colour, motion, shape and background of their scene."""

    colour: float
    motion: float
    shape: float
    background: float


def classify(clip: Tensor, new: tuple[str, ...] = ()) -> Scene:
    """The scene that a clip `[T, H, W, 3]` in 0..1 shows; an empty clip gives the nearest guesses.

    `new` are colours and shapes to expect beside those of the built-in model.
    """
    colours = COLOURS | {name: rgb for name, rgb in NEW_COLOURS.items() if name in new}
    palette = {name: torch.tensor(rgb) / 255 for name, rgb in colours.items()}
    edge = torch.cat([clip[:, :BORDER].flatten(0, 2), clip[:, -BORDER:].flatten(0, 2)])
    back = edge.median(0).values
    background = min(BACKGROUNDS, key=lambda name: float((torch.tensor(BACKGROUNDS[name]) / 255 - back).norm()))
    away = (clip - back).norm(dim=-1)  # (T, H, W)
    inside = away > 0.6 * away.amax()
    front = clip[inside].median(0).values
    colour = min(palette, key=lambda name: float((palette[name] - front).norm()))
    axis = front - back
    cover = (((clip - back) @ axis) / axis.square().sum().clamp_min(1e-4)).clamp(0, 1)
    cover = torch.where(cover < 0.15, 0.0, cover)
    shapes = [*SHAPES, *(name for name in NEW_SHAPES if name in new)]
    return Scene(_shape(cover, shapes), colour, background, _motion(cover))


def score(clips: Iterable[Tensor], scenes: Iterable[Scene], new: tuple[str, ...] = ()) -> Score:
    """How often `classify` finds the attributes of each scene."""
    pairs = [(classify(clip, new), scene) for clip, scene in zip(clips, scenes, strict=True)]

    def accuracy(attribute: str) -> float:
        return sum(getattr(found, attribute) == getattr(scene, attribute) for found, scene in pairs) / len(pairs)

    return Score(accuracy("colour"), accuracy("motion"), accuracy("shape"), accuracy("background"))


def centres(cover: Tensor) -> Tensor:
    """Centre of mass of each frame as (x, y), `[T, 2]`, of the share of each pixel `[T, H, W]` that is covered."""
    mass = cover.sum((1, 2)).clamp_min(1e-3)
    y = torch.arange(cover.shape[1], dtype=torch.float32) + 0.5
    x = torch.arange(cover.shape[2], dtype=torch.float32) + 0.5
    return torch.stack([(cover.sum(1) @ x) / mass, (cover.sum(2) @ y) / mass], dim=-1)


def _motion(cover: Tensor) -> str:
    part = max(1, len(cover) // 6)
    area = cover.sum((1, 2))
    if float(area[-part:].mean() / area[:part].mean().clamp_min(1e-3)) > GROWTH:
        return "grow"
    path = centres(cover)
    dx, dy = (path[-part:].mean(0) - path[:part].mean(0)).tolist()
    if max(abs(dx), abs(dy)) < TRAVEL * cover.shape[-1] / 64:
        return "stay"
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "up" if dy < 0 else "down"


def _shape(cover: Tensor, shapes: list[str]) -> str:
    """The shape that overlaps most with what is there when it fills the bounding box of each frame."""
    overlap = dict.fromkeys(shapes, 0.0)
    for solid in cover > 0.5:
        rows, columns = solid.any(1), solid.any(0)
        if int(rows.sum() * columns.sum()) <= 30:
            continue
        content = solid[_extent(rows), _extent(columns)]
        ideals = _ideals(*content.shape)
        for shape in shapes:
            ideal = ideals[shape]
            overlap[shape] += float((content & ideal).sum() / (content | ideal).sum())
    return max(overlap, key=overlap.__getitem__)


def _extent(used: Tensor) -> slice:
    indices = used.nonzero()
    return slice(int(indices[0]), int(indices[-1]) + 1)


def _ideals(height: int, width: int) -> dict[str, Tensor]:
    """Each shape filling a box, as a mask."""
    y = ((torch.arange(height) + 0.5) / height)[:, None]  # 0 to 1, downwards
    x = ((torch.arange(width) + 0.5) / width * 2 - 1)[None]  # -1 to 1
    return {
        "circle": x.square() + (2 * y - 1).square() <= 1,
        "square": torch.ones(height, width, dtype=torch.bool),
        "triangle": x.abs() <= y,
        "diamond": x.abs() + (2 * y - 1).abs() <= 1,
        "cross": torch.minimum(x.abs().expand(height, width), (2 * y - 1).abs().expand(height, width)) <= BAR,
    }
