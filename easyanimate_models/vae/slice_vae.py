"""The video VAEs (paper section 3.2): pixels <-> latents, 8x8 in space and 4x in time. Here those of V2 and V3."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import comfy.ops
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Cache, CausalTime, DownBlock, LayerFactory, MidBlock, PairTime, SliceTime, UpBlock, WindowTime
from .onednn_conv import for_single_clips
from .slicing import SLICES, WINDOWS
from .video_vae import PeakMemory, VideoVAE

TIME_STRIDES = (1, 2, 2, None)  # what each of the four down blocks does to time; up blocks mirror it
LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class SliceVAEConfig:
    """What a video VAE file and its config.json decide; `norm` and `attention` are kinds of `layers`."""

    channels: tuple[int, int, int, int]
    layers: int
    latent_channels: int
    norm_groups: int
    scaling_factor: float
    norm: str = "slice"
    attention: str | None = "slice"

    def layer_factory(self, time: Any, dtype, device, operations) -> LayerFactory:
        """What a network of this config is made of."""
        kinds = self.norm_groups, self.norm, self.attention
        return LayerFactory(time, *kinds, dtype, device, operations)


class Encoder(nn.Module):
    """One slice of pixels to the moments of its latents."""

    def __init__(self, config: SliceVAEConfig, make: LayerFactory):
        super().__init__()
        widths = config.channels
        self.time = make.time
        self.conv_in = make.conv(3, widths[0])
        blocks = zip((widths[0], *widths), widths, TIME_STRIDES, strict=False)
        self.down_blocks: Iterable[Any] = nn.ModuleList(
            DownBlock(a, b, config.layers, stride, make) for a, b, stride in blocks
        )
        self.mid_block = MidBlock(widths[-1], config.layers, make)
        self.conv_norm_out = make.norm(widths[-1])
        self.conv_out = make.conv(widths[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        x = self.time.convolve(self.conv_in, x, cache)
        for layer in chain.from_iterable(self.down_blocks):
            x = layer(x, cache)
        x = self.mid_block(x, cache)
        return self.time.convolve(self.conv_out, F.silu(self.conv_norm_out(x), inplace=True), cache)


class Decoder(nn.Module):
    """One slice of latents, with its neighbours, to the pixels of that slice."""

    def __init__(self, config: SliceVAEConfig, make: LayerFactory):
        super().__init__()
        widths = config.channels[::-1]
        self.time = make.time
        self.conv_in = make.conv(config.latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], config.layers, make)
        blocks = zip((widths[0], *widths), widths, TIME_STRIDES, strict=False)
        self.up_blocks: Iterable[Any] = nn.ModuleList(
            UpBlock(a, b, config.layers + 1, factor, make) for a, b, factor in blocks
        )
        self.conv_norm_out = make.norm(widths[-1])
        self.conv_out = make.conv(widths[-1], 3)

    def forward(self, z: Tensor, first: int, count: int | None, cache: Cache) -> Tensor:
        """`z` holds the slice and what it may see; latents `[first, first + count)` are the slice itself."""
        x = self.mid_block(self.time.convolve(self.conv_in, z, cache), cache)
        x = x[:, :, first : None if count is None else first + count]
        for layer in chain.from_iterable(self.up_blocks):
            x = layer(x, cache)
        return self.time.convolve(self.conv_out, F.silu(self.conv_norm_out(x), inplace=True), cache)


class SliceVAE(VideoVAE):
    """Encoder and decoder of V3."""

    plan, memory = SLICES, PeakMemory(encode=12, decode=20, copied_encode=4, copied_decode=8)
    time: SliceTime | WindowTime | CausalTime = SliceTime()
    decoder_time: PairTime | None = None  # where the decoder goes by another rule

    def __init__(self, config: SliceVAEConfig, dtype=None, device=None, operations=comfy.ops.disable_weight_init):
        super().__init__(config)
        make = config.layer_factory(self.time, dtype, device, for_single_clips(operations))
        latent, moments = config.latent_channels, 2 * config.latent_channels
        self.encoder = Encoder(config, make)
        self.decoder = Decoder(config, make if self.decoder_time is None else replace(make, time=self.decoder_time))
        self.quant_conv = make.pointwise(moments, moments)
        self.post_quant_conv = make.pointwise(latent, latent)

    def moments(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        mean, logvar = self.quant_conv(self.encoder(x, _own(cache))).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode_slice(self, z: Tensor, first: int = 0, count: int | None = None, cache: Cache | None = None) -> Tensor:
        return self.decoder(self.post_quant_conv(z), first, count, _own(cache))


class WindowVAE(SliceVAE):
    """The same layers, causal inside windows: the MagViT VAE of V2."""

    plan, memory, time = WINDOWS, PeakMemory(encode=18, decode=27, copied_decode=4.5), WindowTime()


def _own(cache: Cache | None) -> Cache:
    """A slice that is worked on alone keeps nothing."""
    return {} if cache is None else cache
