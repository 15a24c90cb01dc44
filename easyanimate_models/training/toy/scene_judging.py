"""What a clip of one or two objects shows, measured from its pixels: no network, nothing tuned on generated clips."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .scene_clips import SIZE, distance
from .scenes import BACKGROUNDS, COLOURS, SHAPES, STILL, Scene, Thing

LEAST_PIXELS = 24  # of an object in a frame
GROWTH, TRAVEL, ANGLE = 1.7, 9.0, math.radians(40)  # times the area, pixels, radians that count as a motion
BOUNCED = 1.5  # times the way from the highest place to the lowest
PANNED, ZOOMED = 9.0, 1.15  # pixels, times the size that count as a motion of the camera
SYMMETRY = {"box": math.pi / 2, "triangle": 2 * math.pi / 3, "star": 2 * math.pi / 5}  # angles that look alike
ANGLES = 12  # that a shape is compared at
PATCH = 32  # pixels of the square that shapes are compared in
PATCH_RADIUS = 9.0  # of a disc as large as the object in it
TIMES, SEEN = 5, 6  # frames that a shape is judged by; one of so many frames is looked at for colours
FLOW_STEPS, HALF = 4, 2  # refinements of the camera's motion between two frames, which are shrunk for it


@dataclass(frozen=True)
class Found:
    """What a clip shows; the nearest guesses where it shows nothing clearly."""

    things: tuple[Thing, ...]
    background: str
    camera: str


def judge(clip: Tensor) -> Found:
    """What a clip `[T, H, W, 3]` in 0..1 shows: one object, or two of different colours."""
    pixels = clip.movedim(-1, 1)  # (T, 3, H, W)
    background = _background(pixels[::SEEN])
    names, masks = _objects(pixels, background)
    camera = _camera(pixels, masks)
    things = tuple(_thing(name, mask, camera) for name, mask in zip(names, masks, strict=True))
    return Found(things, background, _camera_name(camera))


def _nearest(pixels: Tensor, colours: Iterable[tuple[int, int, int]]) -> Tensor:
    """The number of the nearest colour for each pixel, `[T, H, W]`."""
    palette = torch.tensor(list(colours)) / 255
    far = palette.square().sum(1) - 2 * pixels.movedim(1, -1) @ palette.T  # without what is the same for all
    return far.argmin(-1)


def _background(pixels: Tensor) -> str:
    """By the pixels that are nearest to one of its two colours."""
    known = [(name, colour) for name, colours in BACKGROUNDS.items() for colour in colours]
    known += [("", colour) for colour in COLOURS.values()]
    counts = _nearest(pixels, [colour for _, colour in known]).flatten().bincount(minlength=len(known)).tolist()
    plain = {name: 2 * counts[i] + counts[i + 1] for i, (name, _) in enumerate(known) if name and not i % 2}
    return max(plain, key=lambda name: plain[name])


def _objects(pixels: Tensor, background: str) -> tuple[list[str], list[Tensor]]:
    """Colours of the one or two objects, the larger first, and the pixels `[T, H, W]` of each."""
    names, of_background = list(COLOURS), BACKGROUNDS[background]
    labels = _nearest(pixels[::SEEN], [*COLOURS.values(), *of_background])
    areas = [float(_opened(labels == i).sum((1, 2)).float().median()) for i in range(len(names))]
    order = sorted(range(len(names)), key=lambda i: -areas[i])
    found = [i for i in order[:2] if areas[i] >= LEAST_PIXELS] or order[:1]
    labels = _nearest(pixels, [*(COLOURS[names[i]] for i in found), *of_background])
    return [names[i] for i in found], [_opened(labels == i) for i in range(len(found))]


def _opened(mask: Tensor) -> Tensor:
    """`mask` without what is thinner than three pixels, such as an edge in a mixed colour."""
    inside = -F.max_pool2d(-mask.float()[:, None], 3, 1, 1)
    return F.max_pool2d(inside, 3, 1, 1)[:, 0] > 0.5


@dataclass(frozen=True)
class Camera:
    """By frame, `[T]`: how far things have moved against it on the screen, and how much larger they are."""

    x: Tensor
    y: Tensor
    zoom: Tensor


def _camera(pixels: Tensor, masks: list[Tensor]) -> Camera:
    """By the background beside all objects, from frame to frame: the pan and zoom that explain its changes best."""
    grey, covered = pixels.mean(1, keepdim=True), torch.stack(masks).any(0).float()[:, None]
    grey, free = F.avg_pool2d(grey, HALF)[:, 0], 1 - F.max_pool2d(covered, 9, HALF, 4)[:, 0]
    moves = [_flow(a, b, m * n) for a, b, m, n in zip(grey, grey[1:], free, free[1:], strict=False)]
    x, y, zoom = torch.stack([torch.zeros(3), *moves]).unbind(1)
    zoom = zoom.cumsum(0).exp()
    return Camera(HALF * (x / zoom).cumsum(0), HALF * (y / zoom).cumsum(0), zoom)


def _flow(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """Shift in x and y, and the logarithm of the zoom, that turn frame `a` `[H, W]` into `b`, by least squares."""
    size = a.shape[-1]
    places = (torch.arange(size) + 0.5 - size / 2).expand(size, size)
    x, y = places, places.T
    move = torch.zeros(3)
    for _ in range(FLOW_STEPS):
        zoom = float(move[2].exp())
        grid = torch.stack([(x - move[0]) / zoom, (y - move[1]) / zoom], -1) * 2 / size
        moved = F.grid_sample(a[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
        dy, dx = torch.gradient((moved + b) / 2)
        slopes = torch.stack([-dx, -dy, -(dx * x + dy * y)], -1) * weight[..., None]
        slopes = slopes.flatten(0, 1)
        normal = slopes.T @ slopes + 1e-3 * torch.eye(3)
        move = move + torch.linalg.solve(normal, slopes.T @ ((b - moved) * weight).flatten())
    return move


def _camera_name(camera: Camera) -> str:
    """Things move to the right when the camera pans left."""
    if float(camera.zoom[-1]) > ZOOMED:
        return "zoom in"
    moved = float(camera.x[-1])
    return STILL if abs(moved) < PANNED else "pan left" if moved > 0 else "pan right"


def _thing(colour: str, mask: Tensor, camera: Camera) -> Thing:
    area = mask.sum((1, 2)).float()
    x, y = _centres(mask)
    shape = _shape(mask, x, y, area)
    middle = SIZE / 2
    world_x, world_y = (x - middle) / camera.zoom - camera.x, (y - middle) / camera.zoom - camera.y
    motion = _motion(world_x, world_y, area / camera.zoom.square())
    if motion == "stay" and shape in SYMMETRY and _turned(shape, mask, x, y, area) > ANGLE:
        motion = "turn"
    return Thing(colour, shape, motion)


def _centres(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The centre of mass of each frame."""
    weight, total = mask.float(), mask.sum((1, 2)).clamp_min(1)
    places = torch.arange(mask.shape[-1]) + 0.5
    return weight.sum(1) @ places / total, weight.sum(2) @ places / total


def _motion(x: Tensor, y: Tensor, area: Tensor) -> str:
    """By where an object is and how large, in a world that does not move."""
    part = max(1, len(area) // 8)
    growth = float(area[-part:].mean() / area[:part].mean().clamp_min(1))
    if growth > GROWTH or growth < 1 / GROWTH:
        return "grow" if growth > 1 else "shrink"
    dx, dy = (float(way[-part:].mean() - way[:part].mean()) for way in (x, y))
    range_y = float(y.max() - y.min())
    way_y = float(y.diff().abs().sum())
    if range_y > TRAVEL and way_y > BOUNCED * range_y and range_y > abs(dx):
        return "bounce"
    if max(abs(dx), abs(dy)) < TRAVEL:
        return "stay"
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "up" if dy < 0 else "down"


def _patches(mask: Tensor, x: Tensor, y: Tensor, area: Tensor) -> Tensor:
    """Each frame's object in the middle of a square, all of one area, `[T, PATCH, PATCH]`."""
    scale = (area.clamp_min(1) / math.pi).sqrt() / PATCH_RADIUS  # pixels of the frame for one of the square
    places = torch.arange(PATCH) + 0.5 - PATCH / 2
    across = x[:, None] + places * scale[:, None]
    down = y[:, None] + places * scale[:, None]
    grid = (
        torch.stack([across[:, None, :].expand(-1, PATCH, -1), down[:, :, None].expand(-1, -1, PATCH)], -1)
        * 2
        / mask.shape[-1]
        - 1
    )
    return F.grid_sample(mask.float()[:, None], grid, align_corners=False)[:, 0]


def _templates(shape: str) -> tuple[Tensor, Tensor]:
    """A shape at many angles, as `_patches` would show it, `[angles, PATCH, PATCH]`, and the angles."""
    period = SYMMETRY.get(shape)
    angles = torch.zeros(1) if period is None else torch.arange(ANGLES) * period / ANGLES
    places = (torch.arange(PATCH) + 0.5 - PATCH / 2).expand(PATCH, PATCH)
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    u, v = cos * places + sin * places.T, cos * places.T - sin * places
    ratio = float(
        (distance(shape, places, places.T, torch.tensor(PATCH_RADIUS)) < 0).sum() / (math.pi * PATCH_RADIUS**2)
    )
    cover = (0.5 - distance(shape, u, v, torch.tensor(PATCH_RADIUS / math.sqrt(ratio)))).clamp(0, 1)
    return cover, angles


def _overlaps(patches: Tensor, templates: Tensor) -> Tensor:
    """Shared by united area of each frame with each template, `[T, angles]`."""
    a, b = patches.flatten(1), templates.flatten(1)
    shared = a @ b.T
    return shared / (a.sum(1)[:, None] + b.sum(1) - shared)


def _shape(mask: Tensor, x: Tensor, y: Tensor, area: Tensor) -> str:
    """What overlaps most at any angle, in the frames where the object is largest."""
    index = area.topk(min(TIMES, len(area))).indices
    patches = _patches(mask[index], x[index], y[index], area[index])
    fits = {shape: float(_overlaps(patches, _templates(shape)[0]).amax(1).mean()) for shape in SHAPES}
    return max(fits, key=lambda shape: fits[shape])


def _turned(shape: str, mask: Tensor, x: Tensor, y: Tensor, area: Tensor) -> float:
    """By how much an object has turned, in radians."""
    templates, angles = _templates(shape)
    fits = _overlaps(_patches(mask, x, y, area), templates)
    period = SYMMETRY[shape]
    best = angles[fits.argmax(1)]
    steps = best.diff()
    steps = steps - period * (steps / period).round()
    return abs(float(steps.sum()))


@dataclass(frozen=True)
class Score:
    """Shares of clips, 0 to 1, in which each attribute of every object is right, and all of them; NaN where none count.

    A `background` counts where the prompt names it, `camera` where a clip is of one object.
    """

    colour: float
    motion: float
    shape: float
    objects: float
    background: float
    camera: float


def score(clips: Iterable[Tensor], scenes: Iterable[Scene], prompts: Iterable[str]) -> Score:
    """How often `judge` finds the attributes of each scene."""
    rows: dict[str, list[bool]] = {name: [] for name in Score.__dataclass_fields__}
    for clip, scene, prompt in zip(clips, scenes, prompts, strict=True):
        found = judge(clip)
        by_colour = {thing.colour: thing for thing in found.things}
        pairs = [(by_colour.get(thing.colour), thing) for thing in scene.things]
        rows["colour"].append(by_colour.keys() == {thing.colour for thing in scene.things})
        for name in ("motion", "shape"):
            rows[name].append(all(a is not None and getattr(a, name) == getattr(b, name) for a, b in pairs))
        rows["objects"].append(set(found.things) == set(scene.things))
        if scene.background in prompt:
            rows["background"].append(found.background == scene.background)
        if len(scene.things) == 1:
            rows["camera"].append(found.camera == scene.camera)
    return Score(**{name: sum(row) / len(row) if row else math.nan for name, row in rows.items()})
