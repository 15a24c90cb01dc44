"""The devices and processes of a run."""

import logging
import os

import torch
from torch import nn

from ..files.packages import require_package


def log_processes(processes: int) -> None:
    """Say in how many processes a run is trained, and why `accelerate launch` may have started only one of several."""
    if processes == 1 and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        logging.warning(
            "Training in 1 process: on CPUs, accelerate launch starts no more than one, whatever --num_processes says. "
            "For several, use python -m torch.distributed.run --nproc-per-node 2 -m easyanimate_models.training "
            "RECIPE.toml."
        )
    elif processes > 1:
        logging.info("Training in %d processes.", processes)


def make_accelerator(network: nn.Module):
    """An `accelerate.Accelerator` for the device that the network is on.

    Accelerate's own default is a GPU, but in a node the network may be on the CPU even where there is one.
    """
    accelerate = require_package("accelerate")
    kinds = {torch.get_default_device().type, *(p.device.type for p in network.parameters())}
    sparse = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(cpu=kinds == {"cpu"}, kwargs_handlers=[sparse])


def local_shard(batch: int) -> slice:
    """The items of a global batch that this process takes; raises `ValueError` when they can't be shared evenly."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return slice(0, batch)
    processes, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    if batch % processes:
        raise ValueError(
            f"A batch size of {batch} can't be split between {processes} processes; make it a multiple of {processes}."
        )
    return slice(batch * rank // processes, batch * (rank + 1) // processes)
