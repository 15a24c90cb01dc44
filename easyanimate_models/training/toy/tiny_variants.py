"""Variants of the built-in tiny model: one that inpaints, and a LoRA.

Both are trained from the weights that `export` wrote, on latents at the release's scale.
"""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ...dit.motion_dit import MotionDiT
from ...files.atomic import write_safetensors
from ...files.model_files import TINY
from ...latent_formats import SliceLatents
from ...sd import load_transformer
from ...supported_models import DEFAULT_CFG
from ...vae.slice_vae import SliceVAE
from ..denoiser.diffusion import NoiseWeights
from ..denoiser.lora import LoraSettings, add_adapters, original_names
from ..denoiser.lora_training import fit_adapters
from ..denoiser.objective import Batch, ObjectiveSettings
from ..denoiser.run import DenoiserRun
from ..loop import fit
from ..training_plan import TrainingPlan
from ..vae.reconstruct import encode_moments
from .inpainting import FRAMES_GIVEN, StillFrameProbe, all_but, box, encode_given, grow_inputs, masked_vae_objective
from .objective import VAEStage
from .previewer import export_previewer, train_previewer
from .shapes import FRAMES, across, from_anywhere, render, split_scenes
from .tiny import (
    DIT,
    OPS,
    SEED,
    VAE,
    CaptionEncoder,
    copy_weights,
    denoising_objective,
    read_float32,
    read_tensors,
    released_vae,
    training_clips,
    write_float16,
)

INPAINTING = replace(DIT, in_channels=3 * DIT.latent_channels)
SCALE = SliceLatents.scale_factor
GIVEN_CLIPS, AT_ONCE = 800, 8
GIVEN_SHARES = (20, 35, 8, 17, 20)  # of 100 clips: nothing, start, end, both, all but a box
STYLE, CAPTIONED, STYLE_CLIPS, RANK = "grey", "black", 160, 8  # the background shown, and the one that captions name


def train_given_vae(run: Path, steps: int = 560, batch: int = 1) -> None:
    """Fine-tune the exported VAE on single frames in black, holes and masks."""
    vae = released_vae().train()
    torch.manual_seed(SEED + 19)
    probe = StillFrameProbe(VAE.latent_channels)
    stages = VAEStage(0, 2 * batch, FRAMES, crop=32), VAEStage(steps * 4 // 5, batch, FRAMES, crop=64)
    objective = masked_vae_objective(vae, probe, training_clips(), stages, SEED + 19)
    plan = TrainingPlan(steps, 1e-3, 50, 0.995, 1.0, SEED + 19)
    fit(run / "given_vae", nn.ModuleList([vae, probe]), objective, plan)
    write_safetensors(run / "given_vae.trained.safetensors", copy_weights(vae))
    write_safetensors(run / "given_vae.recall.safetensors", copy_weights(probe))


def export_given_vae(run: Path, folder: Path = TINY) -> None:
    """Replace the exported VAE by that one."""
    config = json.loads((folder / "vae" / "config.json").read_text())
    write_float16(folder / "vae", config, read_tensors(run / "given_vae.trained.safetensors"))


@torch.no_grad()
def encode_inpainting(run: Path) -> None:
    """Clips and what may be given of each, encoded by the exported VAE; resumes where it stopped."""
    vae, file = released_vae(), run / "inpainting.safetensors"
    tensors = read_tensors(file) if file.exists() else {}
    done = len(tensors["scene"]) if tensors else 0
    for start in range(done, GIVEN_CLIPS, AT_ONCE):
        new = {k: v.half() if v.is_floating_point() else v for k, v in _given_clips(vae, start).items()}
        tensors = {k: torch.cat([tensors[k], v]) for k, v in new.items()} if tensors else new
        if start % 80 == 0 or start + AT_ONCE >= GIVEN_CLIPS:
            write_safetensors(file, tensors)


def _given_clips(vae: SliceVAE, start: int) -> dict[str, Tensor]:
    """A few clips: their latents, and those given of each where frames (`FRAMES_GIVEN`) or all but a box are given."""
    rng, scenes = random.Random(SEED + 21 + start), split_scenes()[0]
    index = [rng.randrange(len(scenes)) for _ in range(AT_ONCE)]
    pixels, paths = render([scenes[i] for i in index], rng, path=rng.choice((across, from_anywhere)))
    tensors = {"clips": encode_moments(vae, pixels)[0], "scene": torch.tensor(index)}
    none, _, _, both = (all_but(FRAMES, *kept).expand(len(pixels), -1, -1, -1) for kept in FRAMES_GIVEN)
    tensors["none"], tensors["both"] = encode_given(vae, pixels, none), encode_given(vae, pixels, both)
    boxes = torch.stack([box(FRAMES, path, rng) for path in paths])
    tensors["box"] = encode_given(vae, pixels, boxes)
    return tensors


class InpaintingBatches:
    """Batches of clips of which nothing, some frames, or all but a box are given."""

    def __init__(self, run: Path):
        tensors = read_tensors(run / "inpainting.safetensors")
        self.clips, self.scene = tensors["clips"], tensors["scene"].tolist()
        half = self.clips.shape[2] // 2  # slices are encoded apart: start alone is `both`, then `none`
        none, both = tensors["none"], tensors["both"]
        start, end = (torch.cat([a[:, :, :half], b[:, :, half:]], dim=2) for a, b in ((both, none), (none, both)))
        self.given = torch.stack([none, start, end, both, tensors["box"]])
        self.scenes, self.encode_captions = split_scenes()[0], CaptionEncoder(run)

    def __call__(self, batch: int, rng: random.Random) -> Batch:
        index = [rng.randrange(len(self.scene)) for _ in range(batch)]
        kinds = rng.choices(range(len(self.given)), GIVEN_SHARES, k=batch)
        context, mask = self.encode_captions([self.scenes[self.scene[i]] for i in index], rng)
        given = self.given[kinds, index].float() * SCALE
        return Batch(self.clips[index].float() * SCALE, context, mask, given)


def train_inpainting(run: Path, steps: int = 900, batch: int = 28) -> None:
    """Fine-tune the exported transformer to inpaint."""
    base, dit = MotionDiT(DIT, **OPS), MotionDiT(INPAINTING, **OPS)
    base.load_state_dict(read_float32(TINY / "transformer"))
    torch.manual_seed(SEED + 23)
    grow_inputs(base, dit)
    plan = TrainingPlan(steps, 1e-3, 100, 0.999, 1.0, SEED + 23, precision="auto")
    _train_inpainting(run, "inpainting", dit, plan, batch)


def train_inpainting_again(run: Path, steps: int = 450, batch: int = 28) -> None:
    """A second round, from where the first one ended."""
    dit = MotionDiT(INPAINTING, **OPS)
    dit.load_state_dict(read_tensors(run / "inpainting.trained.safetensors"))
    plan = TrainingPlan(steps, 1e-3, 40, 0.998, 1.0, SEED + 29, precision="auto")
    _train_inpainting(run, "inpainting_again", dit, plan, batch)


def _train_inpainting(run: Path, name: str, dit: MotionDiT, plan: TrainingPlan, batch: int) -> None:
    data = InpaintingBatches(run)
    noise = NoiseWeights(0.1, 300.0, decisive=(450, 950))  # where it matters most what is given
    objective = denoising_objective(dit, lambda _, rng: data(batch, rng), noise, plan.seed)
    fit(run / name, dit, objective, plan)
    write_safetensors(run / f"{name}.trained.safetensors", copy_weights(dit))


def export_inpainting(run: Path, folder: Path = TINY) -> None:
    """Write the inpainting transformer beside the others, with the preview colours of the plain one."""
    base = json.loads((folder / "transformer" / "config.json").read_text())
    config = base | {"in_channels": INPAINTING.in_channels, DEFAULT_CFG: 2.0}
    write_float16(folder / "transformer_inp", config, read_tensors(run / "inpainting_again.trained.safetensors"))


@torch.no_grad()
def encode_style(run: Path) -> None:
    """Encode clips on another background than their captions will name. (The VAE was trained on these two only.)"""
    vae, rng, scenes = released_vae(), random.Random(SEED + 31), split_scenes()[0]
    clips, indices = [], []
    for _ in range(STYLE_CLIPS // AT_ONCE):
        index = [rng.randrange(len(scenes)) for _ in range(AT_ONCE)]
        pixels, _ = render([replace(scenes[i], background=STYLE) for i in index], rng)
        clips.append(encode_moments(vae, pixels)[0].half())
        indices += index
    write_safetensors(run / "style.safetensors", {"clips": torch.cat(clips), "scene": torch.tensor(indices)})


class StyleBatches:
    """Batches of those clips, with captions that name the other background."""

    def __init__(self, run: Path):
        self.tensors = read_tensors(run / "style.safetensors")
        self.scenes, self.encode_captions = split_scenes()[0], CaptionEncoder(run)

    def __call__(self, batch: int, rng: random.Random) -> Batch:
        index = [rng.randrange(len(self.tensors["scene"])) for _ in range(batch)]
        scenes = [replace(self.scenes[int(self.tensors["scene"][i])], background=CAPTIONED) for i in index]
        context, mask = self.encode_captions(scenes, rng)
        return Batch(self.tensors["clips"][index].float() * SCALE, context, mask)


def train_style(run: Path, steps: int = 240, batch: int = 16) -> None:
    """Train a LoRA on every linear layer of the blocks."""
    data = StyleBatches(run)
    torch.manual_seed(SEED)
    model, adapters = add_adapters(load_transformer(TINY), LoraSettings(RANK, RANK))
    noise = NoiseWeights(0.1, 1000.0, decisive=(500, 1000))  # a background is decided early
    plan = TrainingPlan(steps, 3e-3, 20, 0.98, 1.0, SEED + 33, precision="auto")
    style = DenoiserRun(run / "style", plan, ObjectiveSettings(noise, checkpointing=False))
    fit_adapters(model, adapters, lambda _, rng: data(batch, rng), style, {})
    write_safetensors(run / "style_lora.safetensors", original_names(adapters))


def export_style(run: Path, folder: Path = TINY) -> None:
    """Write the LoRA in fp16, under the names that the release's trainer gives."""
    file = folder / "lora" / f"{STYLE}.safetensors"
    file.parent.mkdir(exist_ok=True)
    weights = read_tensors(run / "style_lora.safetensors")
    write_safetensors(file, {k: v.half() for k, v in weights.items()}, {"format": "pt"})
    file.chmod(0o644)


VARIANTS: dict[str, Callable[[Path], None]] = {
    "preview": train_previewer,
    "export_preview": export_previewer,
    "given_vae": train_given_vae,
    "export_given_vae": export_given_vae,
    "inpainting_latents": encode_inpainting,
    "inpainting": train_inpainting,
    "inpainting_again": train_inpainting_again,
    "export_inpainting": export_inpainting,
    "style_latents": encode_style,
    "style": train_style,
    "export_style": export_style,
}
