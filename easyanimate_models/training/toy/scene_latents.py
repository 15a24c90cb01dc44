"""Clips of scenes as latents on disk, with their cameras, in shards: encoding goes on where it was stopped."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from ...conditioning.control import CAMERA, CameraInputs
from ...files.atomic import write_safetensors
from ...vae.video_vae import VideoVAE
from ..denoiser.objective import Batch, DrawBatch
from ..vae.reconstruct import encode_moments
from .scene_camera import camera_rays
from .scene_clips import render
from .scenes import TWO, Scene, Thing, caption, draw_scene
from .text_tower import Vocabulary, encode

SHARD, AT_ONCE = 32, 4  # clips of a file, and of a batch while they are encoded
TEXT_DROPOUT = 0.1
CAMERA_GIVEN, REFERENCE_GIVEN = 0.3, 0.15  # how often a clip comes with its camera's path, and its first frame
CAMERA_UNNAMED = 0.5  # how often a caption leaves a given camera out
STILLS_EVERY = 10  # batches of clips, so that single frames are not forgotten
SCENES = "scenes"  # in the metadata of a shard


@torch.no_grad()
def encode_shards(folder: Path, vae: VideoVAE, things: list[Thing], count: int, seed: int, small: bool = False) -> None:
    """Write the shards that are not there yet, until there are `count`.

    `small` clips have half the width and height and one object, which then is as large as each of two in a whole clip.
    """
    shrink, two = (2, 0.0) if small else (1, TWO)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        file = folder / f"{number:04}.safetensors"
        if file.exists():
            continue
        rng = random.Random(seed * 1_000_003 + number)
        scenes = [draw_scene(things, rng, two=two) for _ in range(SHARD)]
        latents, rays = [], []
        for start in range(0, SHARD, AT_ONCE):
            pixels, paths = render(scenes[start : start + AT_ONCE], rng)
            latents.append(encode_moments(vae, F.avg_pool3d(pixels, (1, shrink, shrink)))[0])
            rays += [camera_rays(each.camera, latents[0].shape[2:]) for each in paths]
        rows = json.dumps([asdict(scene) for scene in scenes])
        tensors = {"latents": torch.cat(latents).half(), "rays": torch.stack(rays).half()}
        write_safetensors(file, tensors, {SCENES: rows})


class SceneLatents:
    """All shards of a folder, standardised by the channels' statistics of the first, which stay when others come.

    `like` is a folder of others whose statistics to take. `rays` `[N, 6, F, h, w]` are those of their cameras.
    """

    def __init__(self, folder: Path, like: Path | None = None):
        tensors, scenes = zip(*(_read_shard(file) for file in sorted(folder.glob("*.safetensors"))), strict=True)
        self.latents, self.rays = (torch.cat([shard[name] for shard in tensors]) for name in ("latents", "rays"))
        self.scenes = [scene for shard in scenes for scene in shard]
        first = (_read_shard(min(like.glob("*.safetensors")))[0] if like else tensors[0])["latents"].float()
        self.mean, self.deviation = first.mean((0, 2, 3, 4)), first.std((0, 2, 3, 4))

    def standardised(self, index: list[int], frames: int | None) -> Tensor:
        """Latents of these clips, or the first `frames` of them."""
        shape = (1, -1, 1, 1, 1)
        return (self.latents[index, :, :frames].float() - self.mean.view(shape)) / self.deviation.view(shape)


def _read_shard(file: Path) -> tuple[dict[str, Tensor], list[Scene]]:
    with safe_open(file, "pt", device=str(torch.get_default_device())) as shard:
        rows = json.loads(shard.metadata()[SCENES])
        scenes = [Scene(tuple(Thing(**thing) for thing in row.pop("things")), **row) for row in rows]
        return {name: shard.get_tensor(name) for name in ("latents", "rays")}, scenes


class SceneBatches:
    """Batches of encoded clips or of their first frames, each time with new captions, cut to `rows` tokens.

    Some clips come with what a Camera transformer is given: their camera's rays, or their first frame.
    """

    def __init__(self, clips: SceneLatents, vocabulary: Vocabulary, tower):
        self.clips, self.vocabulary, self.tower = clips, vocabulary, tower

    def stills(self, batch: int, rows: int) -> DrawBatch:
        """First frames; captions say what is there, and a few also what it will do."""
        return lambda _, rng: self._stills(batch, rows, rng)

    def videos(self, batch: int, rows: int) -> DrawBatch:
        """Whole clips, and now and then stills."""

        def draw(step: int, rng: random.Random) -> Batch:
            stills = step % STILLS_EVERY == STILLS_EVERY - 1
            return self._stills(2 * batch, rows, rng) if stills else self._clips(batch, rows, rng)

        return draw

    def _stills(self, batch: int, rows: int, rng: random.Random) -> Batch:
        index = self._index(batch, rng)
        texts = [caption(self.clips.scenes[i], rng, moving=rng.random() < 0.25) for i in index]
        latents = self.clips.standardised(index, 1)
        return Batch(latents, *self._context(texts, rows, rng), given=_nothing_given(latents))

    def _clips(self, batch: int, rows: int, rng: random.Random) -> Batch:
        index = self._index(batch, rng)
        latents = self.clips.standardised(index, None)
        given, texts = _nothing_given(latents), []
        for i, latent, row in zip(index, latents, given, strict=True):
            camera = rng.random() < CAMERA_GIVEN
            if camera:
                row[:CAMERA] = self.clips.rays[i]
            if rng.random() < REFERENCE_GIVEN:
                row[CAMERA:, :1] = latent[:, :1]
            unnamed = camera and rng.random() < CAMERA_UNNAMED
            texts.append(caption(self.clips.scenes[i], rng, camera=not unnamed))
        return Batch(latents, *self._context(texts, rows, rng), given=given)

    def _index(self, batch: int, rng: random.Random) -> list[int]:
        return [rng.randrange(len(self.clips.scenes)) for _ in range(batch)]

    @torch.no_grad()
    def _context(self, texts: list[str], rows: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Embeddings of the texts, some left out, and their mask."""
        ids, mask = self.vocabulary(["" if rng.random() < TEXT_DROPOUT else text for text in texts], rows)
        return encode(self.tower, ids, mask), mask


def _nothing_given(latents: Tensor) -> Tensor:
    return latents.new_zeros(len(latents), CameraInputs.channels, *latents.shape[2:])
