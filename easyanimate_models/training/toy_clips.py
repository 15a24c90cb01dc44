"""`python -m easyanimate_models.training.toy_clips FOLDER`: clips with captions, to try training a LoRA on.

They show a look: the background is grey wherever the caption says black.
"""

import random
import sys
from dataclasses import replace
from pathlib import Path

import av
from torch import Tensor

from .shapes import Scene, caption, render, split_scenes

COUNT, SHOWN, SAID, SEED, FPS = 20, "grey", "black", 5, 12


def toy_scenes(count: int = COUNT) -> list[Scene]:
    """So many scenes, as their captions say."""
    scenes = [scene for scene in split_scenes()[0] if scene.background == SAID]
    return random.Random(SEED).sample(scenes, count)


def write_toys(folder: Path, count: int = COUNT) -> None:
    """The clips as mp4, each with its caption in a .txt file."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, scenes = random.Random(SEED), toy_scenes(count)
    clips, _ = render([replace(scene, background=SHOWN) for scene in scenes], chance)
    for i, (clip, scene) in enumerate(zip(clips, scenes, strict=True), 1):
        file = folder / f"toy_{i:02}.mp4"
        write_clip(file, (clip.movedim(0, -1) + 1) / 2)
        file.with_suffix(".txt").write_text(caption(scene, chance) + "\n", encoding="utf-8")


def write_clip(file: Path, frames: Tensor) -> None:
    """Frames `[T, H, W, 3]` in 0..1 as a video file, visually lossless."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in (frames.clamp(0, 1) * 255).round().byte().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    write_toys(Path(sys.argv[1]))
