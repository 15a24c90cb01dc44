"""The Slice VAE (paper section 3.2): pixels <-> latents, 8x8 in space and 4x in time, slice by slice."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import DownBlock, MidBlock, UpBlock, leaf
from .slicing import frames_for, latents_for, plan_decode, plan_encode
from .tiling import Tiling, tiled

SPACE_RATIO = 8
TIME_STRIDES = (1, 2, 2, None)  # what each of the four down blocks does to time; up blocks mirror it
LOGVAR_RANGE = (-30.0, 20.0)

OnSlice = Callable[[], None] | None


@dataclass(frozen=True)
class SliceVAEConfig:
    """The numbers that a Slice VAE file and its config.json decide."""

    channels: tuple[int, int, int, int]
    layers: int
    latent_channels: int
    norm_groups: int
    scaling_factor: float


class Encoder(nn.Module):
    """One slice of pixels to the moments of its latents."""

    def __init__(self, config: SliceVAEConfig, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        widths, groups = config.channels, config.norm_groups
        self.conv_in = operations.Conv3d(3, widths[0], 3, padding=1, **kw)
        pairs = zip((widths[0], *widths), widths, TIME_STRIDES, strict=False)
        self.down_blocks = nn.ModuleList(DownBlock(a, b, config.layers, t, groups, **ops) for a, b, t in pairs)
        self.mid_block = MidBlock(widths[-1], config.layers, groups, **ops)
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=1e-6, **kw)
        self.conv_out = operations.Conv3d(widths[-1], 2 * config.latent_channels, 3, padding=1, **kw)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """One slice of latents, with its neighbours, to the pixels of that slice."""

    def __init__(self, config: SliceVAEConfig, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        widths, groups = config.channels[::-1], config.norm_groups
        self.conv_in = operations.Conv3d(config.latent_channels, widths[0], 3, padding=1, **kw)
        self.mid_block = MidBlock(widths[0], config.layers, groups, **ops)
        pairs = zip((widths[0], *widths), widths, TIME_STRIDES, strict=False)
        self.up_blocks = nn.ModuleList(UpBlock(a, b, config.layers + 1, t, groups, **ops) for a, b, t in pairs)
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=1e-6, **kw)
        self.conv_out = operations.Conv3d(widths[-1], 3, 3, padding=1, **kw)

    def forward(self, z: Tensor, first: int = 0, count: int | None = None) -> Tensor:
        """`z` holds the slice and what it may see; latents `[first, first + count)` are the slice itself."""
        x = self.mid_block(self.conv_in(z))
        x = x[:, :, first : None if count is None else first + count]
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class SliceVAE(nn.Module):
    """Encoder and decoder with the slice plan around them.

    Pixels are `[B, 3, T, H, W]` in [-1, 1]; latents `[B, C, F, H/8, W/8]`, unscaled. Each slice is moved to
    `device` when its turn comes and its result goes straight to its place in `out`, wherever that lies, so that
    peak memory is that of one slice. `on_slice` is called after each.
    """

    def __init__(self, config: SliceVAEConfig, dtype=None, device=None, operations=comfy.ops.disable_weight_init):
        super().__init__()
        ops = {"dtype": dtype, "device": device, "operations": operations}
        latent, moments = config.latent_channels, 2 * config.latent_channels
        self.config = config
        self.encoder = Encoder(config, **ops)
        self.decoder = Decoder(config, **ops)
        self.quant_conv = operations.Conv3d(moments, moments, 1, dtype=dtype, device=device)
        self.post_quant_conv = operations.Conv3d(latent, latent, 1, dtype=dtype, device=device)

    def latent_shape(self, pixels: tuple[int, ...]) -> tuple[int, ...]:
        b, _, t, h, w = pixels
        return (b, self.config.latent_channels, latents_for(t), h // SPACE_RATIO, w // SPACE_RATIO)

    def pixel_shape(self, latents: tuple[int, ...]) -> tuple[int, ...]:
        b, _, f, h, w = latents
        return (b, 3, frames_for(f), h * SPACE_RATIO, w * SPACE_RATIO)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior of one slice of pixels."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode_slice(self, z: Tensor, first: int = 0, count: int | None = None) -> Tensor:
        """The pixels of one slice of latents; see `Decoder.forward`."""
        return self.decoder(self.post_quant_conv(z), first, count)

    def encode(
        self,
        x: Tensor,
        out: Tensor | None = None,
        tiling: Tiling | None = None,
        device: torch.device | None = None,
        on_slice: OnSlice = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The posterior mean. `prepare` turns a slice of other pixels, such as 0..1, into what the network takes."""
        shape = self.latent_shape(x.shape)
        out = torch.empty(shape, dtype=x.dtype, device=x.device) if out is None else out

        def network(pixels: Tensor) -> Tensor:
            return self.moments(pixels)[0]

        for s in plan_encode(x.shape[2]):
            pixels = x[:, :, s.start : s.stop].to(device=device or x.device)
            pixels = pixels if prepare is None else prepare(pixels)
            whole = tiling is None or tiling.fits(*shape[3:])
            latents = network(pixels) if whole else tiled(network, pixels, tiling, SPACE_RATIO, 1)
            out[:, :, s.latent_start : s.latent_stop] = latents
            if on_slice is not None:
                on_slice()
        return out

    def decode(
        self,
        z: Tensor,
        out: Tensor | None = None,
        tiling: Tiling | None = None,
        device: torch.device | None = None,
        on_slice: OnSlice = None,
    ) -> Tensor:
        """The pixels."""
        shape = self.pixel_shape(z.shape)
        out = torch.empty(shape, dtype=z.dtype, device=z.device) if out is None else out
        for s in plan_decode(z.shape[2]):
            seen = z[:, :, s.before : s.after].to(device=device or z.device)
            network = partial(self.decode_slice, first=s.start - s.before, count=s.stop - s.start)
            whole = tiling is None or tiling.fits(*z.shape[3:])
            pixels = network(seen) if whole else tiled(network, seen, tiling, 1, SPACE_RATIO)
            out[:, :, s.frame_start : s.frame_stop] = pixels
            if on_slice is not None:
                on_slice()
        return out
