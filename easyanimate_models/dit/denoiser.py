"""What all denoisers have in common as the host sees them."""

from typing import Any

from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn


class Denoiser(nn.Module):
    """A network whose calls go through the host's wrappers to `_forward`, with the attributes that the host reads."""

    _forward: Any  # of the network: (latents, timesteps, ..., transformer_options) -> the prediction

    def __init__(self, config: Any, dtype):
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.in_channels, self.out_channels = config.in_channels, config.latent_channels
        self.patch_size = config.patch

    def forward(self, x: Tensor, timesteps: Tensor, *args, transformer_options=None, **kwargs) -> Tensor:
        """The prediction `[B, latent channels, F, H, W]` for `x` `[B, in channels, F, H, W]`; see `_forward`."""
        options = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, *args, transformer_options=options, **kwargs)

    def zero_motion_modules(self) -> None:
        """Zero what is added to an image transformer; most networks have no motion modules of their own."""
