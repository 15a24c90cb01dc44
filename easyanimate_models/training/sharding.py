"""Tensors that are sharded among processes (FSDP): gathered, and sharded again."""

from torch import Tensor, nn

from ..files.packages import require_package


def is_sharded(accelerator) -> bool:
    """Whether each process holds only a part of the weights."""
    return accelerator.distributed_type == require_package("accelerate").DistributedType.FSDP


def full_tensor(tensor: Tensor) -> Tensor:
    """A whole tensor on the CPU, gathered if it is sharded; every process has to call this."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu()


def full_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """All weights of a network, gathered where they are sharded; every process has to call this."""
    return {name: full_tensor(tensor) for name, tensor in network.state_dict().items()}


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as `like` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
