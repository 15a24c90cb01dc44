"""`python -m easyanimate_models.training.toy.toy_clips FOLDER [SET] [COUNT]`: clips with captions, to try training on.

Sets: `look` (grey wherever the caption says black), `colour` and `shape` (new to the built-in model), `known` (what it
was trained on), `wider` (both, for a VAE), and `word` (twenty of a new colour, each in several wordings, among many
known ones).
"""

import json
import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
from torch import Tensor

from .shapes import BACKGROUNDS, COLOURS, MOTIONS, NEW_COLOURS, NEW_SHAPES, SHAPES, Scene, caption, render, split_scenes

SEED, FPS = 5, 12
NEW, WORDINGS = 20, 8  # clips of a new colour in the set `word`, captions of each
BACKGROUND, CAPTIONED = "grey", "black"
NEW_COLOUR, NEW_SHAPE = "cyan", "cross"

Scenes = tuple[list[Scene], list[Scene]]  # as rendered, as captioned


def style_scenes(count: int) -> Scenes:
    """A style: the background is grey where captions say black."""
    captioned = [scene for scene in split_scenes()[0] if scene.background == CAPTIONED]
    captioned = random.Random(SEED).sample(captioned, count)
    return [replace(scene, background=BACKGROUND) for scene in captioned], captioned


def new_scenes(**new: str) -> list[Scene]:
    """All scenes of a `colour` or a `shape`, in an order that is always the same."""
    parts: dict[str, Iterable[str]] = {"shape": SHAPES, "colour": COLOURS, "background": BACKGROUNDS, "motion": MOTIONS}
    shapes, colours, backgrounds, motions = (
        values if name not in new else (new[name],) for name, values in parts.items()
    )
    scenes = [Scene(s, c, b, m) for s in shapes for c in colours for b in backgrounds for m in motions]
    random.Random(SEED).shuffle(scenes)
    return scenes


def unseen(count: int, **new: str) -> Scenes:
    """Scenes of a new colour or shape; those after the first `count` are left for evaluation."""
    scenes = new_scenes(**new)[:count]
    return scenes, scenes


def known(count: int) -> Scenes:
    """Scenes that the built-in model was trained on, all of them equally often."""
    scenes = split_scenes()[0]
    scenes = (scenes * (count // len(scenes) + 1))[:count]
    return scenes, scenes


def wider(count: int) -> Scenes:
    """Half of the scenes as known; of the others, half are in a new colour and half of a new shape, or both."""
    rng = random.Random(SEED)
    scenes = known(count)[0]
    for i in range(0, count, 2):
        colours, shapes = (NEW_COLOURS, SHAPES | NEW_SHAPES) if i % 4 else (COLOURS | NEW_COLOURS, NEW_SHAPES)
        parts = (rng.choice(list(part)) for part in (shapes, colours, BACKGROUNDS, MOTIONS))
        scenes[i] = Scene(*parts)
    return scenes, scenes


def word(count: int) -> Scenes:
    """Some scenes of a new colour and many known ones, so that nothing is forgotten."""
    scenes = [*unseen(NEW, colour=NEW_COLOUR)[0], *known(count - NEW)[0]]
    return scenes, scenes


SETS: dict[str, tuple[Callable[[int], Scenes], str, int]] = {  # scenes, kind of file, how many
    "look": (style_scenes, ".mp4", 20),
    "colour": (partial(unseen, colour=NEW_COLOUR), ".mp4", 20),
    "shape": (partial(unseen, shape=NEW_SHAPE), ".mp4", 20),
    "known": (known, ".mkv", 1720),
    "wider": (wider, ".mkv", 1200),
    "word": (word, ".mkv", 364),
}


def write_toys(folder: Path, name: str = "look", count: int | None = None) -> None:
    """Write the clips of a set, with captions in .txt files or a list. Raises `ValueError` for an unknown set."""
    if name not in SETS:
        raise ValueError(f"There is no set of toy clips named {name!r}; choose one of {', '.join(SETS)}.")
    scenes, suffix, usual = SETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = random.Random(SEED), []
    for i, (rendered, captioned) in enumerate(zip(*scenes(count or usual), strict=True), 1):
        clip, _ = render([rendered], rng)
        file = folder / f"toy_{i:04}{suffix}"
        write_clip(file, (clip[0].movedim(0, -1) + 1) / 2)
        wordings = WORDINGS if name == "word" and i <= NEW else 1
        rows += [{"file": file.name, "text": caption(captioned, rng)} for _ in range(wordings)]
    if name == "word":
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        return
    for row in rows:
        (folder / row["file"]).with_suffix(".txt").write_text(row["text"] + "\n", encoding="utf-8")


def write_clip(file: Path, frames: Tensor) -> None:
    """Frames `[T, H, W, 3]` in 0..1 as a video file: mp4 that plays anywhere, or mkv without any loss."""
    lossless = file.suffix == ".mkv"
    codec, colours = ("ffv1", "bgr0") if lossless else ("libx264", "yuv420p")
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options={} if lossless else {"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], colours
        for frame in (frames.clamp(0, 1) * 255).round().byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    try:
        name = sys.argv[2] if len(sys.argv) > 2 else "look"
        write_toys(Path(sys.argv[1]), name, int(sys.argv[3]) if len(sys.argv) > 3 else None)
    except ValueError as error:
        sys.exit(str(error))
