"""What the built-in tiny model's shipped weights are taught further: to inpaint, and a LoRA.

Both start from what `export` wrote; the latents are at the release's scale.
"""

import json
import random
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...dit.motion_dit import MotionDiT
from ...files.atomic import write_safetensors
from ...files.model_files import TINY
from ...model_detection import RELEASED_SCALING
from ...sd import load_transformer
from ...vae.slice_vae import SliceVAE
from ..denoiser import objective as dit_training
from ..denoiser.lora import LoraSettings, adapted, learn, original_names
from ..loop import fit
from ..training_plan import Plan
from ..vae.reconstruct import VAEStage, encode_moments
from .inpainting import FRAMES_GIVEN, Recall, all_but, box, encode_given, given_vae_objective, grow_inputs
from .shapes import FRAMES, across, from_anywhere, render, split_scenes
from .tiny import DIT, OPS, SEED, VAE, Captions, plain, read, read_float, released_vae, training_clips, write_component

INPAINTING = replace(DIT, in_channels=3 * DIT.latent_channels)
GIVEN_CLIPS, AT_ONCE = 800, 8
GIVEN_SHARES = (20, 35, 8, 17, 20)  # of 100 clips: nothing, start, end, both, all but a box
STYLE, SAID, STYLE_CLIPS, RANK = "grey", "black", 160, 8  # the background seen, and the one that captions name


def train_given_vae(run: Path, steps: int = 560, batch: int = 1) -> None:
    """The exported VAE, taught single frames in black, holes and masks."""
    vae = released_vae().train()
    torch.manual_seed(SEED + 19)
    recall = Recall(VAE.latent_channels)
    stages = VAEStage(0, 2 * batch, FRAMES, crop=32), VAEStage(steps * 4 // 5, batch, FRAMES, crop=64)
    objective = given_vae_objective(vae, recall, training_clips(), stages, SEED + 19)
    fit(run / "given_vae", nn.ModuleList([vae, recall]), objective, Plan(steps, 1e-3, 50, 0.995, 1.0, SEED + 19))
    save_file(plain(vae), run / "given_vae.trained.safetensors")
    save_file(plain(recall), run / "given_vae.recall.safetensors")


def export_given_vae(run: Path, folder: Path = TINY) -> None:
    """That VAE in place of the exported one."""
    config = json.loads((folder / "vae" / "config.json").read_text())
    write_component(folder / "vae", config, read(run / "given_vae.trained.safetensors"))


@torch.no_grad()
def encode_inpainting(run: Path) -> None:
    """Clips with what may be given of each, encoded by the exported VAE; goes on where it stopped."""
    vae, path = released_vae(), run / "inpainting.safetensors"
    found = read(path) if path.exists() else {}
    done = len(found["scene"]) if found else 0
    for start in range(done, GIVEN_CLIPS, AT_ONCE):
        new = {k: v.half() if v.is_floating_point() else v for k, v in _given_clips(vae, start).items()}
        found = {k: torch.cat([found[k], v]) for k, v in new.items()} if found else new
        if start % 80 == 0 or start + AT_ONCE >= GIVEN_CLIPS:
            write_safetensors(path, found)


def _given_clips(vae: SliceVAE, start: int) -> dict[str, Tensor]:
    """A few clips: latents, and what is told of each when frames (`FRAMES_GIVEN`) or all but a box are given."""
    rng, scenes = random.Random(SEED + 21 + start), split_scenes()[0]
    index = [rng.randrange(len(scenes)) for _ in range(AT_ONCE)]
    pixels, paths = render([scenes[i] for i in index], rng, path=rng.choice((across, from_anywhere)))
    told = {"clips": encode_moments(vae, pixels)[0], "scene": torch.tensor(index)}
    none, _, _, both = (all_but(FRAMES, *kept).expand(len(pixels), -1, -1, -1) for kept in FRAMES_GIVEN)
    told["none"], told["both"] = encode_given(vae, pixels, none), encode_given(vae, pixels, both)
    boxes = torch.stack([box(FRAMES, path, rng) for path in paths])
    told["box"] = encode_given(vae, pixels, boxes)
    return told


class Given:
    """Batches of clips with what is given of them: nothing, frames or all but a box."""

    def __init__(self, run: Path):
        told = read(run / "inpainting.safetensors")
        self.clips, self.scene = told["clips"], told["scene"].tolist()
        half = self.clips.shape[2] // 2  # slices are encoded apart: start alone is `both`, then `none`
        none, both = told["none"], told["both"]
        start, end = (torch.cat([a[:, :, :half], b[:, :, half:]], dim=2) for a, b in ((both, none), (none, both)))
        self.given = torch.stack([none, start, end, both, told["box"]])
        self.scenes, self.captions = split_scenes()[0], Captions(run)

    def __call__(self, batch: int, rng: random.Random) -> dit_training.Batch:
        index = [rng.randrange(len(self.scene)) for _ in range(batch)]
        kinds = rng.choices(range(len(self.given)), GIVEN_SHARES, k=batch)
        told = self.captions([self.scenes[self.scene[i]] for i in index], rng)
        given = self.given[kinds, index].float() * RELEASED_SCALING
        return dit_training.Batch(self.clips[index].float() * RELEASED_SCALING, *told, given)


def train_inpainting(run: Path, steps: int = 900, batch: int = 28) -> None:
    """The exported transformer, taught to take what is given of a clip."""
    base, dit = MotionDiT(DIT, **OPS), MotionDiT(INPAINTING, **OPS)
    base.load_state_dict(read_float(TINY / "transformer"))
    torch.manual_seed(SEED + 23)
    grow_inputs(base, dit)
    _teach_given(run, "inpainting", dit, Plan(steps, 1e-3, 100, 0.999, 1.0, SEED + 23, precision="auto"), batch)


def train_inpainting_again(run: Path, steps: int = 450, batch: int = 28) -> None:
    """The same once more, from where the first round ended."""
    dit = MotionDiT(INPAINTING, **OPS)
    dit.load_state_dict(read(run / "inpainting.trained.safetensors"))
    _teach_given(run, "inpainting_again", dit, Plan(steps, 1e-3, 40, 0.998, 1.0, SEED + 29, precision="auto"), batch)


def _teach_given(run: Path, name: str, dit: MotionDiT, plan: Plan, batch: int) -> None:
    data = Given(run)
    weights = dit_training.NoiseWeights(0.1, 300.0, decisive=(450, 950))  # where it counts what is given
    objective = dit_training.noise_objective(dit, lambda _, rng: data(batch, rng), weights, plan.seed)
    save_file(plain(fit(run / name, dit, objective, plan)), run / f"{name}.trained.safetensors")


def export_inpainting(run: Path, folder: Path = TINY) -> None:
    """The inpainting transformer beside the others, with the preview colours of the plain one."""
    base = json.loads((folder / "transformer" / "config.json").read_text())
    config = base | {"in_channels": INPAINTING.in_channels}
    write_component(folder / "transformer_inp", config, read(run / "inpainting_again.trained.safetensors"))


@torch.no_grad()
def encode_style(run: Path) -> None:
    """Clips on another background than their captions will name. (The VAE knows these two only.)"""
    vae, rng, scenes = released_vae(), random.Random(SEED + 31), split_scenes()[0]
    clips, names = [], []
    for _ in range(STYLE_CLIPS // AT_ONCE):
        index = [rng.randrange(len(scenes)) for _ in range(AT_ONCE)]
        pixels, _ = render([replace(scenes[i], background=STYLE) for i in index], rng)
        clips.append(encode_moments(vae, pixels)[0].half())
        names += index
    save_file({"clips": torch.cat(clips).contiguous(), "scene": torch.tensor(names)}, run / "style.safetensors")


class Styled:
    """Batches of those clips, with captions that name the other background."""

    def __init__(self, run: Path):
        self.tensors = read(run / "style.safetensors")
        self.scenes, self.captions = split_scenes()[0], Captions(run)

    def __call__(self, batch: int, rng: random.Random) -> dit_training.Batch:
        index = [rng.randrange(len(self.tensors["scene"])) for _ in range(batch)]
        scenes = [replace(self.scenes[int(self.tensors["scene"][i])], background=SAID) for i in index]
        latents = self.tensors["clips"][index].float() * RELEASED_SCALING
        return dit_training.Batch(latents, *self.captions(scenes, rng))


def train_style(run: Path, steps: int = 240, batch: int = 16) -> None:
    """A LoRA on every linear layer of the blocks."""
    data = Styled(run)
    torch.manual_seed(SEED)
    model, adapters = adapted(load_transformer(TINY), LoraSettings(RANK, RANK))
    weights = dit_training.NoiseWeights(0.1, 1000.0, decisive=(500, 1000))  # a background is decided early
    plan = Plan(steps, 3e-3, 20, 0.98, 1.0, SEED + 33, precision="auto")
    method = dit_training.Method(weights, checkpointing=False)
    learn(model, adapters, lambda _, rng: data(batch, rng), plan, run / "style", {}, method)
    save_file(original_names(adapters), run / "style_lora.safetensors")


def export_style(run: Path, folder: Path = TINY) -> None:
    """The LoRA in fp16, under the names that the release's trainer gives."""
    file = folder / "lora" / f"{STYLE}.safetensors"
    file.parent.mkdir(exist_ok=True)
    save_file({k: v.half() for k, v in read(run / "style_lora.safetensors").items()}, file, {"format": "pt"})
    file.chmod(0o644)


VARIANTS = {
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
