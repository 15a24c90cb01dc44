"""What every VAE does alike: pixels <-> latents, tile by tile in space and, inside a tile, slice by slice in time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .slicing import DecodeSlice, TimePlan, frame_weights
from .tiling import Tile, Tiling, whole_frame

SPACE_RATIO = 8

OnSlice = Callable[[], None] | None


@dataclass(frozen=True)
class PeakMemory:
    """What a network holds at most: values of its second level's width (`channels[1]`) for each pixel of a frame.

    `encode` and `decode` work on a slice of full length. `kept` is for the next slice, whatever the length; `copied` is
    that input of a convolution that a GPU copies at the peak. Counted at the released widths; for V3, CPUs and an H100
    gave the same.
    """

    encode: float
    decode: float
    kept_encode: float = 0.0
    kept_decode: float = 0.0
    copied_encode: float = 0.0
    copied_decode: float = 0.0

    def to_encode(self, on_gpu: bool) -> float:
        """All values to encode."""
        return self.kept_encode + self.encode + (self.copied_encode if on_gpu else 0)

    def to_decode(self, length: float, on_gpu: bool) -> float:
        """All values to decode in slices of `length` times the usual."""
        return self.kept_decode + length * (self.decode + (self.copied_decode if on_gpu else 0))


class VideoVAE(nn.Module):
    """The loops around an encoder and a decoder that know single slices: `moments` and `decode_slice`.

    Pixels are `[B, 3, T, H, W]` in [-1, 1]; latents `[B, C, F, H/8, W/8]`, unscaled. Each slice of each tile is moved
    to `device` when its turn comes, and what comes of it is added to its place in `out`, wherever that lies: peak
    memory is that of one slice. What a network keeps from slice to slice lies in a `cache` of the tile, made here and
    gone with the tile. `on_slice` is called after each slice of each tile.
    """

    plan: TimePlan
    memory: PeakMemory
    decoder: Any  # of the release
    channels_last = torch.channels_last_3d  # this layout, for its convolutions

    def __init__(self, config):
        super().__init__()
        self.config = config

    def initialize_weights(self) -> None:
        """For training from scratch, after default weights: residual blocks pass on their input unchanged.

        Pixels get through from the first step: a tiny VAE reached 21 dB in 800 steps instead of 16.
        """
        for name, parameter in self.named_parameters():
            if ".conv2." in name:
                nn.init.zeros_(parameter)

    def moments(self, x: Tensor, cache: dict | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior of one slice of pixels."""
        raise NotImplementedError

    def decode_slice(self, z: Tensor, first: int = 0, count: int | None = None, cache: dict | None = None) -> Tensor:
        """The pixels of one slice; latents `[first, first + count)` of `z` are the slice, the others only context."""
        raise NotImplementedError

    def latent_shape(self, pixels: tuple[int, ...]) -> tuple[int, ...]:
        b, _, t, h, w = pixels
        return (b, self.config.latent_channels, self.plan.latents_for(t), h // SPACE_RATIO, w // SPACE_RATIO)

    def pixel_shape(self, latents: tuple[int, ...]) -> tuple[int, ...]:
        b, _, f, h, w = latents
        return (b, 3, self.plan.frames_for(f), h * SPACE_RATIO, w * SPACE_RATIO)

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
        tiles = tiles_of(tiling, shape, ratio=1)
        if len(tiles) > 1:
            out.zero_()
        for tile in tiles:
            cache: dict = {}
            before = latents = x[:0]
            for s in self.plan.encode(self.plan.crop(x.shape[2])):
                pixels = tile.window(x[:, :, s.start : s.stop], SPACE_RATIO)
                if cache or not torch.equal(pixels, before):  # without features of those before, equal slices are one
                    given = pixels.to(device=device or x.device)
                    latents = self.moments(given if prepare is None else prepare(given), cache)[0]
                before = pixels
                _put(latents, out[:, :, s.latent_start : s.latent_stop], tile, 1, None)
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
        slices: list[DecodeSlice] | None = None,
    ) -> Tensor:
        """The pixels, cut into the plan's slices or those given, whose `share` of what `out` holds is replaced."""
        shape = self.pixel_shape(z.shape)
        out = torch.empty(shape, dtype=z.dtype, device=z.device) if out is None else out
        tiles, slices = tiles_of(tiling, z.shape, SPACE_RATIO), slices or self.plan.decode(z.shape[2])
        weights = frame_weights(slices)
        unweighted = len(tiles) == 1 and all(weight == 1 for row in weights.slices for weight in row)
        if not unweighted:
            _scale_frames(out, weights.before)
        for tile in tiles:
            cache: dict = {}
            for s, frames in zip(slices, weights.slices, strict=True):
                window = tile.window(z[:, :, s.before : s.after], 1).to(device=device or z.device)
                pixels = self.decode_slice(window, s.start - s.before, s.stop - s.start, cache)
                region = out[:, :, s.frame_start : s.frame_stop]
                _put(pixels, region, tile, SPACE_RATIO, None if unweighted else frames)
                if on_slice is not None:
                    on_slice()
        return out


def tiles_of(tiling: Tiling | None, latents: tuple[int, ...], ratio: int) -> list[Tile]:
    """The tiles of latents of this shape `[..., h, w]`; without tiling, one."""
    height, width = latents[-2:]
    return whole_frame(height, width) if tiling is None else list(tiling.tiles(height, width, ratio))


def _put(x: Tensor, out: Tensor, tile: Tile, ratio: int, frames: list[float] | None) -> None:
    """What came of a slice of a tile, into `out` `[B, C, T, H, W]`: copied, or added with its weights."""
    region = tile.window(out, ratio)
    if frames is None and tile.row_weights is None:
        region.copy_(x)
        return
    x = tile.weighted(x.to(torch.float32))
    if frames is not None and any(weight != 1 for weight in frames):
        x = x * torch.tensor(frames, device=x.device).view(-1, 1, 1)
    region.add_(x.to(region))


def _scale_frames(out: Tensor, shares: list[float]) -> None:
    """Of each frame of `out`, so much stays; what was never written need not be a number."""
    for frame, share in zip(out.unbind(2), shares, strict=True):
        frame.zero_() if share == 0 else frame.mul_(share)
