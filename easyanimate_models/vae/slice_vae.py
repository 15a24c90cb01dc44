"""The video VAEs of V2 and V3 (paper section 3.2): pixels <-> latents, 8x8 in space and 4x in time."""

from dataclasses import dataclass

import comfy.ops
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import DownBlock, MidBlock, SliceTime, UpBlock, WindowTime, conv3d, leaf
from .onednn_conv import for_single_clips
from .slicing import SLICES, WINDOWS
from .video_vae import SPACE_RATIO as SPACE_RATIO
from .video_vae import VideoVAE

TIME_STRIDES = (1, 2, 2, None)  # what each of the four down blocks does to time; up blocks mirror it
LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class SliceVAEConfig:
    """The numbers that a video VAE file and its config.json decide."""

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
        self.time = ops["time"]
        self.conv_in = conv3d(3, widths[0], **ops)
        pairs = zip((widths[0], *widths), widths, TIME_STRIDES, strict=False)
        self.down_blocks = nn.ModuleList(DownBlock(a, b, config.layers, t, groups, **ops) for a, b, t in pairs)
        self.mid_block = MidBlock(widths[-1], config.layers, groups, **ops)
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=1e-6, **kw)
        self.conv_out = conv3d(widths[-1], 2 * config.latent_channels, **ops)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(self.time.extend(x))
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(self.time.extend(F.silu(self.conv_norm_out(x))))


class Decoder(nn.Module):
    """One slice of latents, with its neighbours, to the pixels of that slice."""

    def __init__(self, config: SliceVAEConfig, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        widths, groups = config.channels[::-1], config.norm_groups
        self.time = ops["time"]
        self.conv_in = conv3d(config.latent_channels, widths[0], **ops)
        self.mid_block = MidBlock(widths[0], config.layers, groups, **ops)
        pairs = zip((widths[0], *widths), widths, TIME_STRIDES, strict=False)
        self.up_blocks = nn.ModuleList(UpBlock(a, b, config.layers + 1, t, groups, **ops) for a, b, t in pairs)
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=1e-6, **kw)
        self.conv_out = conv3d(widths[-1], 3, **ops)

    def forward(self, z: Tensor, first: int = 0, count: int | None = None) -> Tensor:
        """`z` holds the slice and what it may see; latents `[first, first + count)` are the slice itself."""
        x = self.mid_block(self.conv_in(self.time.extend(z)))
        x = x[:, :, first : None if count is None else first + count]
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.time.extend(F.silu(self.conv_norm_out(x))))


class SliceVAE(VideoVAE):
    """Encoder and decoder of V3."""

    plan = SLICES
    time: SliceTime | WindowTime = SliceTime()

    def __init__(self, config: SliceVAEConfig, dtype=None, device=None, operations=comfy.ops.disable_weight_init):
        super().__init__(config)
        operations = for_single_clips(operations)
        ops = {"dtype": dtype, "device": device, "operations": operations, "time": self.time}
        latent, moments = config.latent_channels, 2 * config.latent_channels
        self.encoder = Encoder(config, **ops)
        self.decoder = Decoder(config, **ops)
        self.quant_conv = operations.Conv3d(moments, moments, 1, dtype=dtype, device=device)
        self.post_quant_conv = operations.Conv3d(latent, latent, 1, dtype=dtype, device=device)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode_slice(self, z: Tensor, first: int = 0, count: int | None = None) -> Tensor:
        return self.decoder(self.post_quant_conv(z), first, count)


class WindowVAE(SliceVAE):
    """The same layers, causal inside windows: the MagViT VAE of V2."""

    plan, time = WINDOWS, WindowTime()
