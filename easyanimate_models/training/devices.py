"""The devices and processes of a run."""

import torch
from torch import Tensor, nn

from ..files.packages import require_package


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
    processes, rank = _processes_and_rank()
    if batch % processes:
        raise ValueError(
            f"A batch size of {batch} can't be split between {processes} processes; make it a multiple of {processes}."
        )
    return slice(batch * rank // processes, batch * (rank + 1) // processes)


def noise_like(shard: Tensor) -> Tensor:
    """Noise for this process's `shard` of a batch; each item's is the same however many processes share the batch."""
    processes, rank = _processes_and_rank()
    return torch.randn_like(torch.cat([shard] * processes)).chunk(processes)[rank]


def _processes_and_rank() -> tuple[int, int]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1, 0
    return torch.distributed.get_world_size(), torch.distributed.get_rank()
