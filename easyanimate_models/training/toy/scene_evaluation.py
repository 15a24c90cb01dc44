"""How well the second built-in model follows prompts of objects that training never saw, and a sheet to look at."""

import math
import random
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...conditioning.control import CAMERA_LATENTS
from ...files.atomic import atomic_write
from ...media.contact_sheet import contact_sheet, evenly_spaced
from ...sd import load_vae
from ...vae.slicing import CAUSAL
from ...vae.video_sizes import latent_size
from ..vae.reconstruct import psnr
from .evaluation import Settings, generate
from .scene_camera import camera_rays
from .scene_clips import FRAMES, SIZE, draw_paths, render
from .scene_judging import score
from .scenes import Scene, caption, draw_scene, split_things

KINDS = ("one", "two", "camera")  # of scenes, equally often
BY_PATH = "camera by path"  # scenes of which the prompt leaves the camera out, as the transformer is given its path
SHOWN, ACROSS = 12, 6  # videos on a sheet, and frames of each
RECONSTRUCTED = 12  # clips that the VAE is judged by


def held_out_scenes(count: int, kind: str, seed: int = 0) -> list[Scene]:
    """Scenes whose objects no training run has seen."""
    rng, things = random.Random(f"{kind} {seed}"), split_things()[1]
    return [draw_scene(things, rng, kind) for _ in range(count)]


def evaluate_scenes(folder: Path, sheet: Path, count: int = 100, settings: Settings | None = None) -> dict:
    """The `Score` of each kind of scene, and the PSNR in dB of reconstructed clips; writes a sheet of some videos."""
    result: dict = {"psnr": reconstruction_psnr(folder)}
    shown: list[Tensor] = []
    for kind in (*KINDS, BY_PATH):
        scenes = held_out_scenes(math.ceil(count / len(KINDS)), "camera" if kind == BY_PATH else kind)
        rng = random.Random(kind)
        prompts = [caption(scene, rng, camera=kind != BY_PATH) for scene in scenes]
        conds = {CAMERA_LATENTS: _rays(scenes, rng)} if kind == BY_PATH else None
        videos = generate(folder, prompts, settings or Settings(), seed=0, batch=4, conds=conds)
        result[kind] = asdict(score(videos, scenes, prompts))
        shown += videos[: SHOWN // len(KINDS)]
    write_sheet(sheet, shown)
    return result


def _rays(scenes: list[Scene], rng: random.Random) -> Tensor:
    """Those of a camera for each scene, `[B, 6, F, h, w]`."""
    size = torch.Size(latent_size(SIZE, SIZE, FRAMES, CAUSAL))
    return torch.stack([camera_rays(draw_paths(scene, rng).camera, size) for scene in scenes])


@torch.no_grad()
def reconstruction_psnr(folder: Path) -> float:
    """Mean PSNR in dB of held-out clips of all kinds, encoded and decoded."""
    vae, rng = load_vae(folder), random.Random(9)
    scenes = [held_out_scenes(1, KINDS[i % len(KINDS)], seed=i)[0] for i in range(RECONSTRUCTED)]
    values = []
    for scene in scenes:
        frames = (render([scene], rng)[0].movedim(1, -1) + 1) / 2
        values.append(psnr(4 * F.mse_loss(vae.decode(vae.encode(frames)), frames)))
    return float(torch.stack(values).mean())


def write_sheet(file: Path, videos: list[Tensor]) -> None:
    """A row of frames for each video `[T, H, W, 3]` in 0..1."""
    frames = []
    for video in videos:
        images = [Image.fromarray(frame) for frame in video.mul(255).round().byte().numpy()]
        frames += evenly_spaced(images, ACROSS)
    with atomic_write(file) as partial:
        contact_sheet(frames, ACROSS).save(partial, "PNG")
