"""Scenes as clips: paths of objects in a world, a camera over it, and the pixels that it sees."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .scenes import BACKGROUNDS, COLOURS, Scene, Thing

SIZE, FRAMES = 128, 25
DOTS = 32.0  # between the dots of a background
SHARPNESS = 4  # of the dots: the higher, the smaller
EDGE = 2  # pixels between an object and the border of its region
INNER = 0.5  # radius of a star's inner corners, by that of the outer ones
TRAVEL = (0.65, 1.0)  # of the room that there is
PAN, ZOOM = (30.0, 40.0), (1.5, 1.75)
RADIUS = (0.16, 0.2)  # by the smaller side of the region
GROWN, SMALL = (0.3, 0.36), (0.12, 0.15)  # the same, where objects grow or shrink
TURN = (math.radians(110), math.radians(200))
BOUNCES = 2
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

Region = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Paths:
    """By frame: `things` `[N, T, 4]` as x, y, radius and angle in the world, `camera` `[T, 2]` as pan and zoom."""

    things: Tensor
    camera: Tensor

    def on_screen(self) -> Tensor:
        """The objects as the camera sees them."""
        pan, zoom = self.camera.unbind(-1)
        x, y, radius, angle = self.things.unbind(-1)
        return torch.stack(
            [SIZE / 2 + (x - SIZE / 2) * zoom - pan, SIZE / 2 + (y - SIZE / 2) * zoom, radius * zoom, angle], -1
        )


def draw_paths(scene: Scene, rng: random.Random, frames: int = FRAMES) -> Paths:
    """Random paths that stay inside the picture; two objects never meet."""
    t = torch.linspace(0, 1, frames) if frames > 1 else torch.tensor([rng.random()])
    camera, margin = _camera(scene.camera, rng, t)
    regions = _regions(len(scene.things), margin, rng)
    things = [_path(thing, region, rng, t) for thing, region in zip(scene.things, regions, strict=True)]
    return Paths(torch.stack(things), camera)


def _camera(name: str, rng: random.Random, t: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Pan and zoom, and how much of the world at each side and at top and bottom is not always seen."""
    still = torch.zeros_like(t), torch.ones_like(t)
    if name.startswith("pan"):
        length = rng.uniform(*PAN)
        sign = -1 if name == "pan left" else 1
        return torch.stack([sign * length * (t - 0.5), still[1]], -1), (length / 2, 0.0)
    if name == "zoom in":
        most = rng.uniform(*ZOOM)
        lost = SIZE / 2 * (1 - 1 / most)
        return torch.stack([still[0], 1 + (most - 1) * t], -1), (lost, lost)
    return torch.stack(still, -1), (0.0, 0.0)


def _regions(count: int, margin: tuple[float, float], rng: random.Random) -> list[Region]:
    """One half of the world for each of two objects, in any order."""
    x, y = margin
    if count == 1:
        return [(x, y, SIZE - x, SIZE - y)]
    half = SIZE / 2
    columns: list[Region] = [(0, 0, half, SIZE), (half, 0, SIZE, SIZE)]
    rows: list[Region] = [(0, 0, SIZE, half), (0, half, SIZE, SIZE)]
    halves = columns if rng.random() < 0.5 else rows
    rng.shuffle(halves)
    return halves


def _path(thing: Thing, region: Region, rng: random.Random, t: Tensor) -> Tensor:
    """x, y, radius and angle of one object, `[T, 4]`."""
    left, top, right, bottom = region
    side = min(right - left, bottom - top)
    radius = torch.full_like(t, side * rng.uniform(*RADIUS))
    if thing.motion in ("grow", "shrink"):
        small, grown = (side * rng.uniform(*sizes) for sizes in (SMALL, GROWN))
        radius = small + (grown - small) * (t if thing.motion == "grow" else 1 - t)
    room = float(radius.max()) + EDGE
    free = (left + room, right - room), (top + room, bottom - room)
    steps = DIRECTIONS.get(thing.motion, (0, 0))
    x, y = (_along(step, *span, rng, t) for step, span in zip(steps, free, strict=True))
    if thing.motion == "bounce":
        low, high = free[1]
        height = (high - low) * rng.uniform(*TRAVEL)
        y = rng.uniform(low + height, high) - height * (math.pi * BOUNCES * t).sin().abs()
    angle = torch.zeros_like(t)
    if thing.motion == "turn":
        angle = rng.choice((-1, 1)) * rng.uniform(*TURN) * t
    return torch.stack([x, y, radius, angle], -1)


def _along(step: int, low: float, high: float, rng: random.Random, t: Tensor) -> Tensor:
    """A coordinate that stays where it is, or goes by `step`."""
    if not step:
        return torch.full_like(t, rng.uniform(low, high))
    length = (high - low) * rng.uniform(*TRAVEL)
    start = rng.uniform(low, high - length)
    return start + length * (t if step > 0 else 1 - t)


def render(
    scenes: list[Scene], rng: random.Random, frames: int = FRAMES, crop: int = SIZE
) -> tuple[Tensor, list[Paths]]:
    """Clips `[B, 3, T, crop, crop]` in [-1, 1] and their paths; a crop is a window somewhere, mostly at an object.

    Of fewer `frames` than `FRAMES`, a part of the clip is shown.
    """
    clips, all_paths = [], []
    for scene in scenes:
        paths = draw_paths(scene, rng)
        start = rng.randrange(FRAMES - frames + 1)
        paths = Paths(paths.things[:, start : start + frames], paths.camera[start : start + frames])
        clips.append(_pixels(scene, paths, _corner(paths, crop, rng), crop, (rng.random(), rng.random())))
        all_paths.append(paths)
    return torch.stack(clips), all_paths


def _corner(paths: Paths, crop: int, rng: random.Random) -> tuple[int, int]:
    """Left and top of a window, at an object three times in four, and at a multiple of 8."""
    if crop >= SIZE:
        return 0, 0
    if rng.random() < 0.25:
        centre = [rng.uniform(0, SIZE), rng.uniform(0, SIZE)]
    else:
        centre = rng.choice(paths.on_screen().unbind(0))[rng.randrange(len(paths.camera)), :2].tolist()
    left, top = (min(max(round((c + rng.uniform(-12, 12) - crop / 2) / 8) * 8, 0), SIZE - crop) for c in centre)
    return left, top


def _pixels(scene: Scene, paths: Paths, corner: tuple[int, int], crop: int, phase: tuple[float, float]) -> Tensor:
    """What is seen in a window `[3, T, crop, crop]`, by the `phase` of the dots."""
    columns, rows = (torch.arange(crop) + 0.5 + start for start in corner)
    back, dots = (_rgb(colour) for colour in BACKGROUNDS[scene.background])
    pixels = back + _dots(paths.camera, columns, rows, phase) * (dots - back)
    for thing, path in zip(scene.things, paths.on_screen(), strict=True):
        x, y, radius, angle = (part[:, None, None] for part in path.unbind(-1))
        across, down = columns - x, rows[:, None] - y
        cos, sin = angle.cos(), angle.sin()
        u, v = (across, down) if not angle.any() else (cos * across + sin * down, cos * down - sin * across)
        cover = (0.5 - distance(thing.shape, u, v, radius)).clamp(0, 1)
        pixels = pixels + cover * (_rgb(COLOURS[thing.colour]) - pixels)
    return pixels


def _dots(camera: Tensor, columns: Tensor, rows: Tensor, phase: tuple[float, float]) -> Tensor:
    """How much of each pixel is dot, `[T, h, w]`."""
    pan, zoom = camera.unbind(-1)

    def profile(places: Tensor, moved: Tensor, phase: float) -> Tensor:
        world = (places - SIZE / 2 + moved[:, None]) / zoom[:, None] + SIZE / 2
        return (0.5 + 0.5 * (2 * math.pi * (world / DOTS + phase)).cos()) ** SHARPNESS

    across, down = profile(columns, pan, phase[0]), profile(rows, torch.zeros_like(pan), phase[1])
    return down[:, :, None] * across[:, None, :]


def distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Of points from the edge of an upright shape around 0, below 0 inside."""
    if shape == "ball":
        return (x * x + y * y).sqrt() - radius
    if shape == "box":
        return torch.maximum(x.abs(), y.abs()) - 0.85 * radius
    if shape == "triangle":
        slope = math.sqrt(0.75) * x.abs() - 0.5 * y
        return torch.maximum(slope, y) - 0.6 * radius
    return _star(x, y, 1.2 * radius)


def _star(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Five points, one of them up: by symmetry each point is at one side of a line from a tip to an inner corner."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (angle - sector * (angle / sector).round()).abs()
    length = (x * x + y * y).sqrt()
    along, beside = length * angle.cos(), length * angle.sin()
    corner = INNER * math.cos(sector / 2), INNER * math.sin(sector / 2)
    side = math.hypot(1 - corner[0], corner[1])
    return ((along - radius) * corner[1] + beside * (1 - corner[0])) / side


def _rgb(colour: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32)[:, None, None, None] / 127.5 - 1
