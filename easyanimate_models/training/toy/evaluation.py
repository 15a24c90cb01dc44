"""How well a toy model follows prompts: generate held-out scenes as an artist would, and measure pixels."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...conditioning.inpainting import inpaint_latents
from ...sd import load_text_encoder, load_transformer, load_vae
from ...vae.video_sizes import latent_size
from ..samples import conditioning, sample_latents
from ..vae.reconstruct import psnr
from .inpainting import all_but
from .judging import score
from .shapes import FRAMES, Scene, caption, from_anywhere, render, split_scenes
from .tiny import CFG


@dataclass(frozen=True)
class Settings:
    """Of the sampler, as the built-in model's workflow has them."""

    steps: int = 25
    cfg: float = CFG
    sampler: str = "euler"


FOR_GIVEN = Settings(cfg=2.0)  # what the InP variant is best at


def held_out_prompts(count: int, seed: int = 0) -> tuple[list[Scene], list[str]]:
    """Scenes that no training run has seen, each with a caption."""
    rng = random.Random(seed)
    _, scenes = split_scenes()
    chosen = [scenes[i % len(scenes)] for i in range(count)]
    return chosen, [caption(scene, rng) for scene in chosen]


@torch.no_grad()
def generate(
    folder: Path,
    prompts: list[str],
    settings: Settings,
    seed: int,
    batch: int = 20,
    conds: dict[str, Tensor] | None = None,
    transformer: str | None = None,
) -> Tensor:
    """Videos `[B, T, H, W, 3]` in 0..1 of the prompts, through the host's objects and sampler.

    `conds` are conditioning of each clip by its name in the host, such as `concat_latent_image`. `transformer` is a
    folder of its own in `folder`.
    """
    model = load_transformer(folder / transformer if transformer else folder)
    clip, vae = load_text_encoder(folder), load_vae(folder)
    size = latent_size(vae.video.width, vae.video.height, vae.video.length, vae.plan)
    videos = []
    for start in range(0, len(prompts), batch):
        texts = prompts[start : start + batch]
        extra = {name: tensor[start : start + batch] for name, tensor in (conds or {}).items()}
        empty = torch.zeros([len(texts), vae.latent_channels, *size])
        prompts_and_empty = conditioning(clip, texts, extra), conditioning(clip, [""] * len(texts), extra)
        videos.append(vae.decode(sample_latents(model, prompts_and_empty, empty, settings, seed + start)))
    return torch.cat(videos)


def evaluate(folder: Path, count: int = 100, settings: Settings | None = None, seed: int = 0) -> dict[str, float]:
    """Accuracy of colour, motion, shape and background over held-out prompts."""
    scenes, prompts = held_out_prompts(count, seed)
    return asdict(score(generate(folder, prompts, settings or Settings(), seed), scenes))


@torch.no_grad()
def evaluate_given(folder: Path, kept: tuple[int, ...], count: int = 50, seed: int = 0) -> dict[str, float]:
    """Image to video on held-out scenes that start anywhere: as `evaluate`, and the PSNR in dB of each frame given."""
    scenes, prompts = held_out_prompts(count, seed)
    pixels, _ = render(scenes, random.Random(seed + 1), path=from_anywhere)
    clips, vae = (pixels.movedim(1, -1) + 1) / 2, load_vae(folder)
    mask = all_but(FRAMES, *kept)
    given = torch.cat([inpaint_latents(vae, clip, mask) for clip in clips])
    conds = {"concat_latent_image": given}
    videos = generate(folder, prompts, FOR_GIVEN, seed, conds=conds, transformer="transformer_inp")
    error = {f"frame {i}": 4 * (videos[:, i] - clips[:, i]).square().mean((1, 2, 3)) for i in kept}
    return asdict(score(videos, scenes)) | {name: float(psnr(e).mean()) for name, e in error.items()}


@torch.no_grad()
def reconstruction_psnr(folder: Path, count: int = 44, seed: int = 9) -> float:
    """Mean PSNR in dB of held-out clips, encoded and decoded."""
    vae = load_vae(folder)
    _, scenes = split_scenes()
    pixels, _ = render([scenes[i % len(scenes)] for i in range(count)], random.Random(seed))
    images = (pixels.movedim(1, -1) + 1) / 2
    decoded = torch.cat([vae.decode(vae.encode(chunk)) for chunk in images.split(4)])  # larger ones are slower
    return float(torch.stack([psnr(4 * F.mse_loss(a, b)) for a, b in zip(decoded, images, strict=True)]).mean())
