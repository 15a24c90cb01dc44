"""Clips made in code: one coloured shape on a plain background, moving as its caption says.

The built-in tiny model is trained and judged by them, since what they show is known exactly.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SIZE = 64
FRAMES = 24
FPS = 12.0

SHAPES = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "pyramid"),
}
COLOURS = {
    "red": (224, 40, 40),
    "green": (40, 184, 64),
    "blue": (48, 88, 240),
    "yellow": (240, 216, 48),
    "purple": (168, 56, 216),
    "white": (248, 248, 248),
}
NEW_SHAPES = {
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
}  # new to the built-in model
NEW_COLOURS = {"pink": (244, 112, 176), "cyan": (40, 200, 208)}
BACKGROUNDS = {"black": (16, 16, 16), "grey": (120, 120, 120)}
MOTIONS = {
    "stay": ("stays still", "does not move", "is standing still", "rests"),
    "left": ("moves left", "is moving to the left", "goes left", "slides to the left"),
    "right": ("moves right", "is moving to the right", "goes right", "slides to the right"),
    "up": ("moves up", "is rising", "goes up", "floats upwards"),
    "down": ("moves down", "is falling", "goes down", "sinks downwards"),
    "grow": ("grows", "is growing", "gets bigger", "becomes larger"),
}
BAR = 0.34  # half the width of a cross's bars, by half the cross
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Scene:
    """What a clip shows."""

    shape: str
    colour: str
    background: str
    motion: str


def split_scenes(seed: int = 0) -> tuple[list[Scene], list[Scene]]:
    """All combinations as (training, held out); every fifth of a shuffled list is held out."""
    scenes = [Scene(s, c, b, m) for s in SHAPES for c in COLOURS for b in BACKGROUNDS for m in MOTIONS]
    random.Random(seed).shuffle(scenes)
    held_out = scenes[::5]
    return [s for s in scenes if s not in set(held_out)], held_out


def caption(scene: Scene, rng: random.Random, moving: bool = True) -> str:
    """One of many wordings; the background is named three times in four, the motion only if `moving`."""
    subject = f"{scene.colour} {rng.choice((SHAPES | NEW_SHAPES)[scene.shape])}"
    background = f" on a {scene.background} background" if rng.random() < 0.75 else ""
    action = f" {rng.choice(MOTIONS[scene.motion])}" if moving else ""
    form = rng.randrange(4)
    if form == 0:
        return f"a {subject}{action}{background}"
    if form == 1:
        return f"the {subject}{action}{background}"
    if form == 2:
        return f"{subject}{action}{background}"
    return f"{background.removeprefix(' ') + ', ' if background else ''}a {subject}{action}"


def render(
    scenes: list[Scene], rng: random.Random, frames: int = FRAMES, path: "ClipPath | None" = None
) -> tuple[Tensor, Tensor]:
    """Clips `[B, 3, T, H, W]` in [-1, 1] and the path of the centre with the radius, `[B, T, 3]`, in pixels."""
    paths = torch.stack([(path or across)(scene.motion, rng, frames) for scene in scenes])
    x, y, radius = (v[..., None, None] for v in paths.unbind(-1))  # (B, T, 1, 1)
    grid = torch.arange(SIZE, dtype=torch.float32) + 0.5
    dx, dy = grid[None, None, None, :] - x, grid[None, None, :, None] - y
    cover = torch.stack([_cover(s.shape, dx[i], dy[i], radius[i]) for i, s in enumerate(scenes)])[
        :, None
    ]  # (B, 1, T, H, W)
    front, back = (_rgb([getattr(s, part) for s in scenes]) for part in ("colour", "background"))
    return back + cover * (front - back), paths


def across(motion: str, rng: random.Random, frames: int) -> Tensor:
    """Centre and radius over time, from one side to the other; the shape stays inside the frame."""
    return _path(motion, rng, frames, lambda room: (t := rng.uniform(1.6, 2.0) * room, -t / 2))


def from_anywhere(motion: str, rng: random.Random, frames: int) -> Tensor:
    """Centre and radius over time; its start does not give away its direction."""

    def travel(room: float) -> tuple[float, float]:
        length = rng.uniform(0.8, 1.4) * room
        return length, rng.uniform(-room, room - length)

    return _path(motion, rng, frames, travel)


ClipPath = Callable[[str, random.Random, int], Tensor]  # (motion, rng, frames) -> [T, 3]


def _path(motion: str, rng: random.Random, frames: int, travel: Callable[[float], tuple[float, float]]) -> Tensor:
    """`travel` gives how far a moving shape goes and where it starts on its way, whose middle is 0."""
    t = torch.linspace(0, 1, frames) if frames > 1 else torch.tensor([rng.random()])
    if motion == "grow":
        start, stop = rng.uniform(5, 7), rng.uniform(15, 18)
        radius = start + (stop - start) * t
    else:
        radius = torch.full_like(t, rng.uniform(9, 12))
    room = SIZE / 2 - float(radius.max()) - 1
    centre = [SIZE / 2 + rng.uniform(-room, room) for _ in range(2)]
    line = []
    for axis, step in enumerate(DIRECTIONS.get(motion, (0, 0))):
        if step:
            length, start = travel(room)
            line.append(SIZE / 2 + step * (start + length * t))
        else:
            line.append(torch.full_like(t, centre[axis]))
    return torch.stack([*line, radius], dim=-1)


def _cover(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """How much of each pixel the shape covers, 0 to 1, by signed distance to its edge."""
    if shape == "circle":
        distance = (dx * dx + dy * dy).sqrt() - radius
    elif shape == "square":
        distance = torch.maximum(dx.abs(), dy.abs()) - 0.9 * radius
    elif shape == "triangle":  # standing on its base
        slope = (2 * dx.abs() - dy - radius) / 5**0.5
        distance = torch.maximum(slope, dy - radius)
    elif shape == "diamond":
        distance = (dx.abs() + dy.abs() - radius) / 2**0.5
    else:
        along, across = dx.abs() - radius, dy.abs() - BAR * radius
        distance = torch.maximum(along, across)
        along, across = dy.abs() - radius, dx.abs() - BAR * radius
        distance = torch.minimum(distance, torch.maximum(along, across))
    return (0.5 - distance).clamp(0, 1)


def _rgb(names: list[str]) -> Tensor:
    known = COLOURS | NEW_COLOURS | BACKGROUNDS
    colours = [known[name] for name in names]
    return torch.tensor(colours, dtype=torch.float32)[:, :, None, None, None] / 127.5 - 1
