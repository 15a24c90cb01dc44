"""The image VAE of V1, as Stable Diffusion and PixArt have it: every frame on its own, 8x8 in space."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from .layers import EPS, leaf
from .slicing import FRAMES
from .video_vae import VideoVAE

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class ImageVAEConfig:
    """The numbers that an image VAE file and its config.json decide."""

    channels: tuple[int, int, int, int]
    layers: int
    latent_channels: int
    norm_groups: int


class ImageResidualBlock(nn.Module):
    """norm, silu, conv, twice, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.norm1 = operations.GroupNorm(groups, in_channels, eps=EPS, **kw)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **kw)
        self.norm2 = operations.GroupNorm(groups, out_channels, eps=EPS, **kw)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **kw)
        same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if same else operations.Conv2d(in_channels, out_channels, 1, **kw)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class ImageAttention(nn.Module):
    """One attention head over all positions of a frame."""

    def __init__(self, channels: int, groups: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.group_norm = operations.GroupNorm(groups, channels, eps=EPS, **kw)
        self.to_q = operations.Linear(channels, channels, **kw)
        self.to_k = operations.Linear(channels, channels, **kw)
        self.to_v = operations.Linear(channels, channels, **kw)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels, **kw)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        h = optimized_attention(self.to_q(h), self.to_k(h), self.to_v(h), heads=1)
        return x + self.to_out[0](h).transpose(1, 2).reshape(x.shape)


class ImageMidBlock(nn.Module):
    """Attention between two residual blocks, at the smallest size."""

    def __init__(self, channels: int, groups: int, **ops):
        super().__init__()
        self.resnets = nn.ModuleList(ImageResidualBlock(channels, channels, groups, **ops) for _ in range(2))
        self.attentions = nn.ModuleList([ImageAttention(channels, groups, **ops)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Halve(nn.Module):
    """Half the height and width."""

    def __init__(self, channels: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels: int, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **kw)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ImageBlock(nn.Module):
    """Residual blocks, then the `samplers` under the checkpoint's name for them."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, **ops):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        pairs = zip(widths, widths[1:], strict=False)
        self.resnets = nn.ModuleList(ImageResidualBlock(a, b, groups, **ops) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        parts: Iterable[Any] = self.children()
        for module in parts:
            for layer in module:
                x = layer(x)
        return x


class ImageEncoder(nn.Module):
    """A frame to the moments of its latent."""

    def __init__(self, config: ImageVAEConfig, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        widths, groups = config.channels, config.norm_groups
        self.conv_in = operations.Conv2d(3, widths[0], 3, padding=1, **kw)
        self.down_blocks = nn.ModuleList()
        for before, width in zip((widths[0], *widths), widths, strict=False):
            self.down_blocks.append(ImageBlock(before, width, config.layers, groups, **ops))
        for block, width in zip(self.down_blocks[:-1], widths, strict=False):
            block.downsamplers = nn.ModuleList([Halve(width, **ops)])
        self.mid_block = ImageMidBlock(widths[-1], groups, **ops)
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=EPS, **kw)
        self.conv_out = operations.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1, **kw)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class ImageDecoder(nn.Module):
    """A latent to its frame."""

    def __init__(self, config: ImageVAEConfig, **ops):
        super().__init__()
        kw, operations = leaf(ops)
        widths, groups = config.channels[::-1], config.norm_groups
        self.conv_in = operations.Conv2d(config.latent_channels, widths[0], 3, padding=1, **kw)
        self.mid_block = ImageMidBlock(widths[0], groups, **ops)
        self.up_blocks = nn.ModuleList()
        for before, width in zip((widths[0], *widths), widths, strict=False):
            self.up_blocks.append(ImageBlock(before, width, config.layers + 1, groups, **ops))
        for block, width in zip(self.up_blocks[:-1], widths, strict=False):
            block.upsamplers = nn.ModuleList([Double(width, **ops)])
        self.conv_norm_out = operations.GroupNorm(groups, widths[-1], eps=EPS, **kw)
        self.conv_out = operations.Conv2d(widths[-1], 3, 3, padding=1, **kw)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class ImageVAE(VideoVAE):
    """Encoder and decoder of V1; a slice is one frame, so batch and time are one."""

    plan, channels_last = FRAMES, torch.channels_last

    def __init__(self, config: ImageVAEConfig, dtype=None, device=None, operations=comfy.ops.disable_weight_init):
        super().__init__(config)
        ops = {"dtype": dtype, "device": device, "operations": operations}
        latent, moments = config.latent_channels, 2 * config.latent_channels
        self.encoder = ImageEncoder(config, **ops)
        self.decoder = ImageDecoder(config, **ops)
        self.quant_conv = operations.Conv2d(moments, moments, 1, dtype=dtype, device=device)
        self.post_quant_conv = operations.Conv2d(latent, latent, 1, dtype=dtype, device=device)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.quant_conv(self.encoder(x.squeeze(2))).unsqueeze(2).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode_slice(self, z: Tensor, first: int = 0, count: int | None = None) -> Tensor:
        return self.decoder(self.post_quant_conv(z.squeeze(2))).unsqueeze(2)
