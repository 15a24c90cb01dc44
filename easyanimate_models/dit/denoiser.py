"""What all denoisers have in common as the host sees them."""

from collections.abc import Sequence
from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from .step_plan import Footprint, StepPlan


class Denoiser(nn.Module):
    """A network whose calls go through the host's wrappers to `_forward`, with the attributes that the host reads."""

    footprint: Footprint  # of a step
    transformer_blocks: Any
    _forward: Any  # of the network: (latents, timesteps, ..., transformer_options) -> the prediction

    def __init__(self, config: Any, dtype):
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.in_channels, self.out_channels = config.in_channels, config.latent_channels
        self.patch_size = config.patch

    @property
    def blocks_in_order(self) -> nn.ModuleList:
        """The transformer blocks, as they are called one after the other."""
        return self.transformer_blocks

    def forward(self, x: Tensor, timesteps: Tensor, *args, transformer_options=None, **kwargs) -> Tensor:
        """The prediction `[B, latent channels, F, H, W]` for `x` `[B, in channels, F, H, W]`; see `_forward`."""
        options = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, *args, transformer_options=options, **kwargs)

    def zero_motion_modules(self) -> None:
        """Zero what is added to an image transformer; most networks have no motion modules of their own."""

    def step_bytes(self, shape: Sequence[int], itemsize: int, plan: StepPlan) -> float:
        """What a step takes beside the weights: latents of `shape` `[B, C, F, H, W]`, `itemsize` bytes a number."""
        batch, _, frames, *sides = shape
        rows, columns = (-(-side // self.config.patch) for side in sides)
        return self.footprint.bytes(batch * frames * rows * columns * self.config.width * itemsize, plan)
