"""Muon (Jordan et al. 2024) for matrices with AdamW for all other weights, as one optimizer."""

from typing import Any

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """Matrices follow their orthogonalised momentum, and all other weights AdamW, at the same learning rate.

    Both make updates of the same size (Liu et al. 2025). Raises `ValueError` where torch has no Muon of its own, as
    before 2.9.
    """

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ):
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"muon needs torch 2.9 or newer, and this is {torch.__version__}; update ComfyUI's torch, or choose "
                "another optimizer."
            )
        matrices, rest = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr, weight_decay, adjust_lr_fn="match_rms_adamw"))
        if rest:
            self.parts.append(torch.optim.AdamW(rest, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Each part steps the group of its own, with the state of the whole."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def step(self, closure=None):
        """One step of all weights. Raises `ValueError` for a closure, which the parts would call twice."""
        if closure is not None:
            raise ValueError("muon takes no closure.")
        for part in self.parts:
            part.step()
