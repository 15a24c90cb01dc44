"""Clips of scenes as latents on disk, in shards, so that encoding goes on where it was stopped."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ...files.atomic import write_safetensors
from ...vae.video_vae import VideoVAE
from ..denoiser.objective import Batch, DrawBatch
from ..vae.reconstruct import encode_moments
from .scene_clips import render
from .scenes import Scene, Thing, caption, draw_scene
from .text_tower import Vocabulary, encode

SHARD, AT_ONCE = 32, 4  # clips of a file, and of a batch while they are encoded
TEXT_DROPOUT = 0.1
STILLS_EVERY = 10  # batches of clips, so that single frames are not forgotten
SCENES = "scenes"  # in the metadata of a shard


@torch.no_grad()
def encode_shards(folder: Path, vae: VideoVAE, things: list[Thing], count: int, seed: int, shrink: int = 1) -> None:
    """Write the shards that are not there yet, until there are `count`, of clips made smaller `shrink` times."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        file = folder / f"{number:04}.safetensors"
        if file.exists():
            continue
        rng = random.Random(seed * 1_000_003 + number)
        scenes = [draw_scene(things, rng) for _ in range(SHARD)]
        latents = []
        for start in range(0, SHARD, AT_ONCE):
            pixels, _ = render(scenes[start : start + AT_ONCE], rng)
            latents.append(encode_moments(vae, F.avg_pool3d(pixels, (1, shrink, shrink)))[0])
        rows = json.dumps([asdict(scene) for scene in scenes])
        write_safetensors(file, {"latents": torch.cat(latents).half()}, {SCENES: rows})


class SceneLatents:
    """All shards of a folder, standardised by the channels' statistics of the first, which stay when others come.

    `like` is a folder of others whose statistics to take.
    """

    def __init__(self, folder: Path, like: Path | None = None):
        shards = [_read_shard(file) for file in sorted(folder.glob("*.safetensors"))]
        self.latents = torch.cat([latents for latents, _ in shards])
        self.scenes = [scene for _, scenes in shards for scene in scenes]
        first = (_read_shard(min(like.glob("*.safetensors")))[0] if like else shards[0][0]).float()
        self.mean, self.deviation = first.mean((0, 2, 3, 4)), first.std((0, 2, 3, 4))

    def standardised(self, index: list[int], frames: int | None) -> Tensor:
        """Latents of these clips, or the first `frames` of them."""
        shape = (1, -1, 1, 1, 1)
        return (self.latents[index, :, :frames].float() - self.mean.view(shape)) / self.deviation.view(shape)


def _read_shard(file: Path) -> tuple[Tensor, list[Scene]]:
    with safe_open(file, "pt", device=str(torch.get_default_device())) as shard:
        rows = json.loads(shard.metadata()[SCENES])
        scenes = [Scene(tuple(Thing(**thing) for thing in row.pop("things")), **row) for row in rows]
        return shard.get_tensor("latents"), scenes


class SceneBatches:
    """Batches of encoded clips or of their first frames, each time with new captions, cut to `rows` tokens."""

    def __init__(self, clips: SceneLatents, vocabulary: Vocabulary, tower):
        self.clips, self.vocabulary, self.tower = clips, vocabulary, tower

    def stills(self, batch: int, rows: int) -> DrawBatch:
        """First frames; captions say what is there, and a few also what it will do."""
        return lambda _, rng: self._draw(batch, rows, 1, rng)

    def videos(self, batch: int, rows: int) -> DrawBatch:
        """Whole clips, and now and then stills."""

        def draw(step: int, rng: random.Random) -> Batch:
            stills = step % STILLS_EVERY == STILLS_EVERY - 1
            return self._draw(2 * batch, rows, 1, rng) if stills else self._draw(batch, rows, None, rng)

        return draw

    def _draw(self, batch: int, rows: int, frames: int | None, rng: random.Random) -> Batch:
        index = [rng.randrange(len(self.clips.scenes)) for _ in range(batch)]
        texts = []
        for i in index:
            moving = frames is None or rng.random() < 0.25
            text = caption(self.clips.scenes[i], rng, moving)
            texts.append("" if rng.random() < TEXT_DROPOUT else text)
        ids, mask = self.vocabulary(texts, rows)
        with torch.no_grad():
            context = encode(self.tower, ids, mask)
        return Batch(self.clips.standardised(index, frames), context, mask)
