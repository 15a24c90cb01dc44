"""The previewer of the built-in model: from latents of its clips and stills to the colours of the pixels below."""

import random
from pathlib import Path

import torch
from torch import Tensor

from ...files.atomic import make_folder, write_safetensors
from ...files.model_files import TINY
from ...vae.previewer import FILE, Previewer
from ..learner import Metrics, Objective
from ..loop import fit
from ..training_plan import TrainingPlan
from .tiny import SEED, copy_weights, read_tensors, standardized

NOISE = 0.2  # at most, on the latents: those of early steps are not what the VAE makes
WEIGHTS = "previewer.safetensors"
STILLS = 0.2  # their share of the batches


def train_previewer(run: Path, steps: int = 2000, batch: int = 48) -> None:
    torch.manual_seed(SEED)
    tensors = read_tensors(run / "latents.safetensors")
    network = Previewer(tensors["clips"].shape[1])
    plan = TrainingPlan(steps=steps, learning_rate=4e-3, warmup=100, ema=0.99, clip=1.0, seed=SEED)
    fit(run / "preview", network, preview_objective(network, tensors, batch), plan)
    write_safetensors(run / WEIGHTS, copy_weights(network))


def preview_objective(network: Previewer, tensors: dict[str, Tensor], batch: int) -> Objective:
    """Colours below the first latent frame of a slice, from its two; or below the only one of a still."""
    kinds = {
        name: (standardized(tensors[name].float(), tensors["mean"], tensors["deviation"]), tensors[f"{name} colours"])
        for name in ("clips", "stills")
    }

    def objective(step: int) -> tuple[Tensor, Metrics]:
        rng = random.Random(SEED * 1_000_003 + step)
        latents, colours = kinds["stills" if rng.random() < STILLS else "clips"]
        index = torch.tensor([rng.randrange(len(latents)) for _ in range(batch)])
        first = rng.randrange(0, latents.shape[2], 2)
        x = latents[index, :, first : first + 2]
        noise = NOISE * torch.rand(batch, 1, 1, 1, 1) * torch.randn_like(x)
        loss = (network(x + noise)[:, :, 0] - colours[index, :, first].float()).square().mean()
        return loss, {"psnr": float(10 * torch.log10(4 / loss.detach()))}

    return objective


def export_previewer(run: Path, folder: Path = TINY) -> None:
    """The trained previewer in fp16, in a release folder."""
    weights = {name: tensor.half() for name, tensor in read_tensors(run / WEIGHTS).items()}
    make_folder((folder / FILE).parent)
    write_safetensors(folder / FILE, weights).chmod(0o644)
