"""The image VAE of V1, as Stable Diffusion and PixArt have it: every frame on its own, 8x8 in space."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from .layers import EPS
from .slicing import FRAMES
from .video_vae import PeakMemory, VideoVAE

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class ImageVAEConfig:
    """The numbers that an image VAE file and its config.json decide."""

    channels: tuple[int, int, int, int]
    layers: int
    latent_channels: int
    norm_groups: int
    scaling_factor = 0.18215  # latents of another scale are those of another model


@dataclass(frozen=True)
class ImageLayerFactory:
    """Layers of one network: their group norms, dtype, device, ops."""

    norm_groups: int
    dtype: torch.dtype | None
    device: Any
    operations: Any

    def norm(self, channels: int) -> nn.Module:
        """A group norm."""
        return self.operations.GroupNorm(self.norm_groups, channels, eps=EPS, dtype=self.dtype, device=self.device)

    def conv(self, in_channels: int, out_channels: int, size: int = 3, **kwargs) -> nn.Module:
        """A convolution that keeps height and width, unless it has a stride."""
        return self.operations.Conv2d(in_channels, out_channels, size, dtype=self.dtype, device=self.device, **kwargs)

    def linear(self, channels: int) -> nn.Module:
        """As many channels out as in."""
        return self.operations.Linear(channels, channels, dtype=self.dtype, device=self.device)


class ImageResidualBlock(nn.Module):
    """norm, silu, conv, twice, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, make: ImageLayerFactory):
        super().__init__()
        self.norm1 = make.norm(in_channels)
        self.conv1 = make.conv(in_channels, out_channels, padding=1)
        self.norm2 = make.norm(out_channels)
        self.conv2 = make.conv(out_channels, out_channels, padding=1)
        same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if same else make.conv(in_channels, out_channels, size=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class ImageAttention(nn.Module):
    """One attention head over all positions of a frame."""

    def __init__(self, channels: int, make: ImageLayerFactory):
        super().__init__()
        self.group_norm = make.norm(channels)
        self.to_q = make.linear(channels)
        self.to_k = make.linear(channels)
        self.to_v = make.linear(channels)
        self.to_out = nn.ModuleList([make.linear(channels)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        h = optimized_attention(self.to_q(h), self.to_k(h), self.to_v(h), heads=1)
        return x + self.to_out[0](h).transpose(1, 2).reshape(x.shape)


class ImageMidBlock(nn.Module):
    """Attention between two residual blocks, at the smallest size."""

    def __init__(self, channels: int, make: ImageLayerFactory):
        super().__init__()
        self.resnets = nn.ModuleList(ImageResidualBlock(channels, channels, make) for _ in range(2))
        self.attentions = nn.ModuleList([ImageAttention(channels, make)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, channels: int, make: ImageLayerFactory):
        super().__init__()
        self.conv = make.conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels: int, make: ImageLayerFactory):
        super().__init__()
        self.conv = make.conv(channels, channels, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ImageBlock(nn.Module):
    """Residual blocks, then the `samplers` under the checkpoint's name for them."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, make: ImageLayerFactory):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        pairs = zip(widths, widths[1:], strict=False)
        self.resnets = nn.ModuleList(ImageResidualBlock(a, b, make) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        parts: Iterable[Any] = self.children()
        for module in parts:
            for layer in module:
                x = layer(x)
        return x


class ImageEncoder(nn.Module):
    """A frame to the moments of its latent."""

    def __init__(self, config: ImageVAEConfig, make: ImageLayerFactory):
        super().__init__()
        widths = config.channels
        self.conv_in = make.conv(3, widths[0], padding=1)
        self.down_blocks = nn.ModuleList()
        for before, width in zip((widths[0], *widths), widths, strict=False):
            self.down_blocks.append(ImageBlock(before, width, config.layers, make))
        for block, width in zip(self.down_blocks[:-1], widths, strict=False):
            block.downsamplers = nn.ModuleList([Downsample(width, make)])
        self.mid_block = ImageMidBlock(widths[-1], make)
        self.conv_norm_out = make.norm(widths[-1])
        self.conv_out = make.conv(widths[-1], 2 * config.latent_channels, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class ImageDecoder(nn.Module):
    """A latent to its frame."""

    def __init__(self, config: ImageVAEConfig, make: ImageLayerFactory):
        super().__init__()
        widths = config.channels[::-1]
        self.conv_in = make.conv(config.latent_channels, widths[0], padding=1)
        self.mid_block = ImageMidBlock(widths[0], make)
        self.up_blocks = nn.ModuleList()
        for before, width in zip((widths[0], *widths), widths, strict=False):
            self.up_blocks.append(ImageBlock(before, width, config.layers + 1, make))
        for block, width in zip(self.up_blocks[:-1], widths, strict=False):
            block.upsamplers = nn.ModuleList([Upsample(width, make)])
        self.conv_norm_out = make.norm(widths[-1])
        self.conv_out = make.conv(widths[-1], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class ImageVAE(VideoVAE):
    """Encoder and decoder of V1; a slice is one frame, so batch and time are one, and nothing is kept."""

    plan, memory, channels_last = (
        FRAMES,
        PeakMemory(encode=2, decode=3, copied_encode=0.5, copied_decode=0.8),
        torch.channels_last,
    )

    def __init__(self, config: ImageVAEConfig, dtype=None, device=None, operations=comfy.ops.disable_weight_init):
        super().__init__(config)
        make = ImageLayerFactory(config.norm_groups, dtype, device, operations)
        latent, moments = config.latent_channels, 2 * config.latent_channels
        self.encoder = ImageEncoder(config, make)
        self.decoder = ImageDecoder(config, make)
        self.quant_conv = make.conv(moments, moments, size=1)
        self.post_quant_conv = make.conv(latent, latent, size=1)

    def moments(self, x: Tensor, cache: dict | None = None) -> tuple[Tensor, Tensor]:
        mean, logvar = self.quant_conv(self.encoder(x.squeeze(2))).unsqueeze(2).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode_slice(self, z: Tensor, first: int = 0, count: int | None = None, cache: dict | None = None) -> Tensor:
        return self.decoder(self.post_quant_conv(z.squeeze(2))).unsqueeze(2)
