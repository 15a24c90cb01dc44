"""What every VAE does alike: pixels <-> latents, cut in time by its plan and in space by tiles."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .slicing import DecodeSlice, Plan
from .tiling import Tiling

SPACE_RATIO = 8

OnSlice = Callable[[], None] | None


class VideoVAE(nn.Module):
    """The plan around an encoder and a decoder that know single slices: `moments` and `decode_slice`.

    Pixels are `[B, 3, T, H, W]` in [-1, 1]; latents `[B, C, F, H/8, W/8]`, unscaled. Each slice is moved to
    `device` when its turn comes and its result goes straight to its place in `out`, wherever that lies, so that
    peak memory is that of one slice. `on_slice` is called after each.
    """

    plan: Plan
    decoder: Any  # of the release
    channels_last = torch.channels_last_3d  # this layout, for its convolutions

    def __init__(self, config):
        super().__init__()
        self.config = config

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior of one slice of pixels."""
        raise NotImplementedError

    def decode_slice(self, z: Tensor, first: int = 0, count: int | None = None) -> Tensor:
        """The pixels of one slice; latents `[first, first + count)` of `z` are the slice, the others only seen."""
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

        def network(pixels: Tensor) -> Tensor:
            return self.moments(pixels)[0]

        for s in self.plan.encode(x.shape[2]):
            pixels = x[:, :, s.start : s.stop].to(device=device or x.device)
            pixels = pixels if prepare is None else prepare(pixels)
            cut = None if tiling is None or tiling.fits(*shape[3:]) else tiling
            latents = network(pixels) if cut is None else cut.apply(network, pixels, SPACE_RATIO, 1)
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
        slices: list[DecodeSlice] | None = None,
    ) -> Tensor:
        """The pixels, cut into the plan's slices or those given."""
        shape = self.pixel_shape(z.shape)
        out = torch.empty(shape, dtype=z.dtype, device=z.device) if out is None else out
        for s in slices or self.plan.decode(z.shape[2]):
            seen = z[:, :, s.before : s.after].to(device=device or z.device)
            network = partial(self.decode_slice, first=s.start - s.before, count=s.stop - s.start)
            cut = None if tiling is None or tiling.fits(*z.shape[3:]) else tiling
            pixels = network(seen) if cut is None else cut.apply(network, seen, 1, SPACE_RATIO)
            _put(pixels, out[:, :, s.frame_start : s.frame_stop], s.shares())
            if on_slice is not None:
                on_slice()
        return out


def _put(pixels: Tensor, place: Tensor, shares: list[float]) -> None:
    """Frames into their place; those that share it are mixed with what is there."""
    shared = [i for i, share in enumerate(shares) if share < 1]
    mixed = shared[-1] + 1 if shared else 0
    place[:, :, mixed:] = pixels[:, :, mixed:]
    if mixed:
        weights = torch.tensor(shares[:mixed], dtype=place.dtype, device=place.device).view(-1, 1, 1)
        place[:, :, :mixed].lerp_(pixels[:, :, :mixed].to(place), weights)
