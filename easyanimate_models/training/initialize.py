"""Default weights for networks that are built from the host's operations, which leave theirs uninitialized."""

from typing import Any, TypeVar

from torch import nn

LAYERS: tuple[Any, ...] = nn.Linear, nn.Conv2d, nn.Conv3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.Embedding
Network = TypeVar("Network", bound=nn.Module)


def reset_parameters(network: Network) -> Network:
    """Random weights, as torch gives each of these layers by default; the same network is returned."""
    for module in network.modules():
        for kind in LAYERS:
            if isinstance(module, kind):
                kind.reset_parameters(module)
    return network
