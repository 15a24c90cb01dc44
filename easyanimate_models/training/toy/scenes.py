"""What the second built-in model knows: one or two objects with motions of their own, before a camera, and captions.

`scene_clips` shows scenes, `scene_judging` finds them in a video again.
"""

import random
from dataclasses import dataclass

SHAPES = {
    "ball": ("ball", "circle", "sphere"),
    "box": ("box", "square", "cube"),
    "triangle": ("triangle", "pyramid"),
    "star": ("star",),
}
COLOURS = {
    "red": (224, 40, 40),
    "green": (40, 168, 64),
    "blue": (40, 72, 224),
    "yellow": (240, 216, 40),
    "purple": (144, 48, 192),
    "orange": (248, 136, 24),
    "pink": (248, 112, 184),
    "cyan": (24, 200, 208),
}
BACKGROUNDS = {  # the plain colour, and that of the dots, by which a camera is seen to move
    "black": ((16, 16, 16), (64, 64, 72)),
    "grey": ((120, 120, 120), (152, 152, 152)),
    "white": ((244, 244, 244), (212, 212, 216)),
    "sky": ((140, 184, 232), (216, 232, 248)),
}
MOTIONS = {
    "stay": ("stays still", "does not move", "is standing still", "rests"),
    "left": ("moves left", "is moving to the left", "goes left", "slides to the left"),
    "right": ("moves right", "is moving to the right", "goes right", "slides to the right"),
    "up": ("moves up", "is rising", "goes up", "is moving up"),
    "down": ("moves down", "is falling", "goes down", "is moving down"),
    "grow": ("grows", "is growing", "gets bigger", "becomes larger"),
    "shrink": ("gets smaller", "is getting smaller", "becomes smaller", "shrinks"),
    "turn": ("turns", "is turning", "rotates", "spins"),
    "bounce": ("bounces", "is bouncing", "bounces up and down", "jumps"),
}
CAMERAS = {
    "still": ("the camera is still", "the camera does not move", "still camera"),
    "pan left": ("the camera pans left", "the camera moves to the left", "camera pan to the left"),
    "pan right": ("the camera pans right", "the camera moves to the right", "camera pan to the right"),
    "zoom in": ("the camera zooms in", "the camera moves closer", "camera zoom in"),
}
STILL = "still"
ARTICLES, JOINED, JOINED_MOTIONS = ("a", "an", "the"), (" and ", ", "), (" while ",)
NAMED_BACKGROUND, NAMED_STILL_CAMERA = 0.7, 0.25  # how often captions name them
IN_FRONT, CAPITAL, FULL_STOP = 0.25, 0.3, 0.3  # how often they do so first, and are written like sentences
TWO, MOVING_CAMERA = 0.45, 0.2  # shares of scenes with two objects, and of those with a camera that moves
HELD_OUT = 7  # one of so many objects


@dataclass(frozen=True)
class Thing:
    """An object and what it does."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Scene:
    """What a clip shows. With two objects the camera is still."""

    things: tuple[Thing, ...]
    background: str
    camera: str = STILL


def split_things(seed: int = 0) -> tuple[list[Thing], list[Thing]]:
    """All objects as (training, held out). A ball that turns can't be told from one that stays."""
    things = [Thing(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS if (s, m) != ("ball", "turn")]
    random.Random(seed).shuffle(things)
    return [thing for i, thing in enumerate(things) if i % HELD_OUT], things[::HELD_OUT]


def draw_scene(things: list[Thing], rng: random.Random, kind: str | None = None, two: float = TWO) -> Scene:
    """A scene of these objects: `kind` is "one", "two" or "camera", or any of them; two differ in colour.

    `two` is the share of scenes with two objects.
    """
    kind = kind or rng.choices(("two", "camera", "one"), (two, MOVING_CAMERA, 1 - two - MOVING_CAMERA))[0]
    chosen, background = [_draw_thing(things, rng)], rng.choice(list(BACKGROUNDS))
    while kind == "two" and len(chosen) < 2:
        other = _draw_thing(things, rng)
        if other.colour != chosen[0].colour:
            chosen.append(other)
    moving = [name for name in CAMERAS if name != STILL]
    return Scene(tuple(chosen), background, rng.choice(moving) if kind == "camera" else STILL)


def _draw_thing(things: list[Thing], rng: random.Random) -> Thing:
    """Each motion as often as any other, though balls have one less."""
    motion = rng.choice(list(MOTIONS))
    fitting = [thing for thing in things if thing.motion == motion]
    return rng.choice(fitting or things)


@dataclass(frozen=True)
class Caption:
    """A text, its objects in the order of their phrases, and the letter that each phrase ends before.

    The `background` is None where it is not named.
    """

    text: str
    things: tuple[Thing, ...]
    ends: tuple[int, ...]
    background: str | None
    camera: str
    moving: bool


def caption(scene: Scene, rng: random.Random, moving: bool = True, camera: bool = True) -> str:
    """One of many wordings; motions and the camera are named only if `moving`, the background mostly.

    A `camera` that is given otherwise may be left out.
    """
    return describe(scene, rng, moving, camera).text


def describe(scene: Scene, rng: random.Random, moving: bool = True, camera: bool = True) -> Caption:
    """A caption, with what its phrases are about."""
    things = rng.sample(scene.things, len(scene.things))
    article = rng.choice(("a", "a", "the", ""))
    phrases = [_phrase(thing, article, rng, moving) for thing in things]
    text = rng.choice((*JOINED, *JOINED_MOTIONS) if moving else JOINED).join(phrases)
    background = scene.background if rng.random() < NAMED_BACKGROUND else None
    if background is not None:
        text = _with_place(text, rng.choice(_places(background)), rng)
    camera = camera and moving
    if camera and (scene.camera != STILL or rng.random() < NAMED_STILL_CAMERA):
        named = rng.choice(CAMERAS[scene.camera])
        text = f"{named}, {text}" if rng.random() < IN_FRONT else f"{text}, {named}"
    ends = tuple(text.index(phrase) + len(phrase) for phrase in phrases)
    text = text[0].upper() + text[1:] if rng.random() < CAPITAL else text
    text = f"{text}." if rng.random() < FULL_STOP else text
    return Caption(text, tuple(things), ends, background, scene.camera if camera else STILL, moving)


def beginnings() -> list[str]:
    """Pieces of text that captions may begin with."""
    places = [place for background in BACKGROUNDS for place in _places(background)]
    return [*ARTICLES, *COLOURS, *places, *(text for texts in CAMERAS.values() for text in texts)]


def wordings() -> list[str]:
    """Pieces of text that captions are made of, every word of them."""
    tables = [*SHAPES.values(), *MOTIONS.values(), JOINED, JOINED_MOTIONS]
    return [*beginnings(), *(text for table in tables for text in table)]


def taught_words() -> list[str]:
    """What captions can say, in one wording of each motion."""
    shapes = [word for words in SHAPES.values() for word in words]
    return [*shapes, *COLOURS, *BACKGROUNDS, *(texts[0] for table in (MOTIONS, CAMERAS) for texts in table.values())]


def _phrase(thing: Thing, article: str, rng: random.Random, moving: bool) -> str:
    article = "an" if article == "a" and thing.colour == "orange" else article
    subject = f"{article} {thing.colour} {rng.choice(SHAPES[thing.shape])}".strip()
    return f"{subject} {rng.choice(MOTIONS[thing.motion])}" if moving else subject


def _places(background: str) -> list[str]:
    first = "in the sky" if background == "sky" else f"on {background}"
    return [first, f"on a {background} background"]


def _with_place(text: str, place: str, rng: random.Random) -> str:
    return f"{place}, {text}" if rng.random() < IN_FRONT else f"{text} {place}"
