"""How well a toy model does what prompts say: generate held-out scenes as an artist would, and measure pixels."""

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import comfy.sample
import torch
import torch.nn.functional as F
from torch import Tensor

from ..latent_formats import SliceLatents
from ..schedules import release_sigmas
from ..sd import load_text_encoder, load_transformer, load_vae
from ..text_encoders.prompt_cleaning import clean_prompt
from ..video_sizes import latent_size
from .judging import score
from .shapes import FRAMES, SIZE, Scene, caption, render, split_scenes
from .vae import psnr


@dataclass(frozen=True)
class Settings:
    """Of the sampler, as the built-in model's workflow has them."""

    steps: int = 25
    cfg: float = 2.0
    sampler: str = "euler"


def held_out_prompts(count: int, seed: int = 0) -> tuple[list[Scene], list[str]]:
    """Scenes that training never saw, each with a wording."""
    rng = random.Random(seed)
    _, scenes = split_scenes()
    chosen = [scenes[i % len(scenes)] for i in range(count)]
    return chosen, [caption(scene, rng) for scene in chosen]


@torch.no_grad()
def generate(folder: Path, prompts: list[str], settings: Settings, seed: int, batch: int = 20) -> Tensor:
    """Videos `[B, T, H, W, 3]` in 0..1 of the prompts, through the host's objects and sampler."""
    model, clip, vae = load_transformer(folder), load_text_encoder(folder), load_vae(folder)
    sigmas = release_sigmas(model.get_model_object("model_sampling"), settings.sampler, settings.steps)
    size = latent_size(SIZE, SIZE, FRAMES)
    videos = []
    for start in range(0, len(prompts), batch):
        texts = prompts[start : start + batch]
        empty = torch.zeros([len(texts), SliceLatents.latent_channels, *size])
        latents = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(empty, seed + start),
            settings.steps,
            settings.cfg,
            settings.sampler,
            "normal",
            _conditioning(clip, texts),
            _conditioning(clip, [""] * len(texts)),
            empty,
            sigmas=sigmas,
            disable_pbar=True,
        )
        videos.append(vae.decode(latents))
    return torch.cat(videos)


def _conditioning(clip, texts: list[str]) -> list:
    """Several prompts as one conditioning, a row each."""
    parts = [clip.encode_from_tokens_scheduled(clip.tokenize(clean_prompt(text)))[0] for text in texts]
    masks = torch.cat([extra["attention_mask"] for _, extra in parts])
    return [[torch.cat([context for context, _ in parts]), {"attention_mask": masks}]]


def evaluate(folder: Path, count: int = 100, settings: Settings | None = None, seed: int = 0) -> dict[str, float]:
    """Shares of right colour, motion, shape and background over held-out prompts."""
    scenes, prompts = held_out_prompts(count, seed)
    return asdict(score(generate(folder, prompts, settings or Settings(), seed), scenes))


@torch.no_grad()
def reconstruction_psnr(folder: Path, count: int = 44, seed: int = 9) -> float:
    """Mean PSNR in dB of held-out clips, encoded and decoded."""
    vae = load_vae(folder)
    _, scenes = split_scenes()
    pixels, _ = render([scenes[i % len(scenes)] for i in range(count)], random.Random(seed))
    images = (pixels.movedim(1, -1) + 1) / 2
    decoded = torch.cat([vae.decode(vae.encode(few)) for few in images.split(4)])  # more would wait for memory
    return float(torch.stack([psnr(4 * F.mse_loss(a, b)) for a, b in zip(decoded, images, strict=True)]).mean())
