"""Blocks of V5.1 at their real width, trained by two processes that share out the weights (FSDP), against one process.

On a CPU, where `accelerate launch` refuses FSDP, its settings are made here; the processes talk by gloo.
"""

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import comfy.ops
import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import load_file, save_file
from torch import nn

from easyanimate_models.dit.mmdit import MMDiT
from easyanimate_models.supported_models import EasyAnimateV51
from easyanimate_models.training import loop
from easyanimate_models.training.denoiser.diffusion import prediction_of
from easyanimate_models.training.denoiser.objective import Batch, ObjectiveSettings, denoising_objective
from easyanimate_models.training.devices import local_shard
from easyanimate_models.training.journal import read_log
from easyanimate_models.training.sharding import full_tensor
from easyanimate_models.training.training_plan import TrainingPlan

from .measure import Row, report
from .mmdit_step import BLOCKS_OF_7B
from .networks import filled

STACK = replace(BLOCKS_OF_7B, in_channels=16, depth=2, mmdit_layers=1)  # one block of each kind
LATENTS, TEXT_TOKENS = (2, 16, 1, 8, 8), 16  # 16 tokens each
STEPS = 3
PLAN = TrainingPlan(STEPS, 1e-4, 1, 0.9, 1.0, seed=0, optimizer="lion")
TRAINED = "attn1.to_"  # with all weights, the optimizer's state and the average would not fit into 8 GB
WRAPPED = {"auto_wrap_policy": "transformer_based_wrap", "transformer_cls_names_to_wrap": ["MMDiTBlock"]}


def stack() -> nn.Module:
    """The blocks, whose attention learns."""
    torch.manual_seed(0)
    network = filled(MMDiT(STACK, dtype=torch.float32, operations=comfy.ops.disable_weight_init)).train()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(TRAINED in name)
    return network


def draw_batch(step: int, _) -> Batch:
    """This process's rows of the batch of a step."""
    generator, shard = torch.Generator().manual_seed(step), local_shard(LATENTS[0])
    latents = torch.randn(LATENTS, generator=generator)[shard]
    text = torch.randn(LATENTS[0], TEXT_TOKENS, STACK.caption_channels, generator=generator)[shard]
    mask = torch.ones(len(latents), TEXT_TOKENS)
    return Batch(latents, text, mask, first=shard.start, global_batch=LATENTS[0])


def shared_out(network: nn.Module):
    """An accelerator that shares out each block."""
    accelerator = make_accelerator(network)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **WRAPPED)
    return accelerator


make_accelerator = loop.make_accelerator


def train(folder: Path) -> None:
    """One of the processes."""
    if "RANK" in os.environ:
        loop.make_accelerator = shared_out
    network = stack()
    prediction, settings = prediction_of(EasyAnimateV51), ObjectiveSettings(checkpointing=True)
    loop.fit(folder, network, denoising_objective(network, draw_batch, prediction, settings, 0), PLAN)
    trained = {name: full_tensor(p).contiguous() for name, p in network.named_parameters() if TRAINED in name}
    if os.environ.get("RANK", "0") == "0":
        save_file(trained, folder / "trained.safetensors")
        (folder / "peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def run(folder: Path, processes: int) -> tuple[dict[str, torch.Tensor], list[float], float]:
    """The trained weights, the losses, and the peak memory of a process in GB."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    subprocess.run([sys.executable, *launcher, "-m", "benchmarks.sharding", str(folder)], check=True)
    losses = [float(row["loss"]) for row in read_log(folder / "log.csv")]
    return load_file(folder / "trained.safetensors"), losses, int((folder / "peak").read_text()) / 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        (one, losses, alone), (two, theirs, shared) = (run(Path(place) / str(n), n) for n in (1, 2))
    error = max(float((two[name] - one[name]).norm() / one[name].norm()) for name in one)
    apart = max(abs(a / b - 1) for a, b in zip(theirs, losses, strict=True))
    how = (
        f"{STEPS} steps of two blocks of 7B at width {STACK.width}, whose attention learns, on two gloo processes "
        f"against one; peaks of a process: {shared:.1f} GB, alone {alone:.1f} GB"
    )
    worst, question = max(error, apart), "FSDP: weights and losses against one process"
    report(__file__, [Row(question, "≤ 1e-4", f"{worst:.1e}", worst <= 1e-4, how)])


if __name__ == "__main__":
    train(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
