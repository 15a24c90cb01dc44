"""A small run of the training loop, for tests that kill it or distribute it: `python -m support.toy_run FOLDER`."""

import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file
from torch import nn

from .pack import part

loop = part("easyanimate_models.training.loop")
export = part("easyanimate_models.training.export")
hooks = part("easyanimate_models.training.hooks")
devices = part("easyanimate_models.training.devices")
sharding = part("easyanimate_models.training.sharding")
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
Batches = part("easyanimate_models.training.clips.batches").BatchSchedule
BATCH = 4


def main(folder: Path, options: list[str]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 8))
    rows = torch.randn(30, 8)
    plan = TrainingPlan(steps=60, learning_rate=1e-2, warmup=5, ema=0.9, clip=1.0, seed=3, save_every=25)
    batches = Batches({"all": len(rows)}, BATCH, plan.seed)
    loop.SAVE_EVERY = 0.0
    stop = int(options[options.index("--stop-at") + 1]) if "--stop-at" in options else None

    def objective(step: int):
        x = rows[batches(step)[1]][devices.local_shard(BATCH)]
        rank = int(os.environ.get("RANK", 0))
        metrics = {"process": rank, "strong": float("nan") if rank == 0 else 1.0}  # 0 has measured nothing
        return (network(x) - x.flip(1)).square().mean(), metrics

    def callback(done: int, _: dict) -> None:
        time.sleep(0.1 if "--slow" in options else 0)
        if done == stop:
            raise SystemExit(3)

    if "--sharded" in options:
        shard(loop)
    result = folder / "x.safetensors"
    weights = partial(sharding.full_state_dict, network)
    exporter = export.Exporter(result, weights, lambda file, tensors, _: save_file(tensors, file))
    validation = hooks.Validation((objective,), batches=3, every=20)
    along = hooks.Hooks(exporter=exporter, validation=validation)
    loop.fit(folder, network, objective, plan, callback=callback, hooks=along)
    learnt = weights()
    if int(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0) == 0:
        torch.save(learnt, folder / "result.pt")


def shard(loop) -> None:
    """Sharded weights (FSDP 2), as with `accelerate launch --use_fsdp` on GPUs, which it refuses on a CPU."""
    make = loop.make_accelerator

    def sharding(*arguments):
        accelerator = make(*arguments)
        accelerator.state.distributed_type = DistributedType.FSDP
        policy = {"auto_wrap_policy": "size_based_wrap", "min_num_params": 10}
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, **policy)
        return accelerator

    loop.make_accelerator = sharding


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
