"""Our VAEs as the host's VAE: every node that takes one works, slice by slice, with progress and interruption."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ..host import is_dynamic, out_of_memory, patcher_class
from .slicing import DecodeSlice
from .tiling import RELEASE_TILING, Tiling
from .video_sizes import length_note
from .video_vae import SPACE_RATIO, VideoVAE, tiles_of

SEAMS = ("original", "overlap", "smooth")  # as decoded; slices cross-faded; the original's smoothing
ENCODING = "easyanimate_encoding"  # what latents carry, see `encoding_of`
LEAST_TILE = 8  # side in latents: smaller tiles see too little
TILE_STEP = 8  # latents between the sides that are tried
TILE_MEMORY = 2.5e9  # bytes that a tile takes at most


class HostVAE(comfy.sd.VAE):
    """`comfy.sd.VAE` around a `VideoVAE`. The host's constructor guesses architectures, so it is not called.

    `latent_format` says which release's latents these are, `inpainting` what that release's inpainting models are
    given, `variants` what all of its models are, `plan` how time is cut, `video` the size and length to make unasked.
    `saved_with` are tensors that a file of this VAE must hold besides its weights.

    Latents come out so that the release's own scale brings them to this VAE's `scaling_factor`: `scale` is 1 for a
    VAE as it was released.
    """

    def __init__(
        self,
        model: VideoVAE,
        weights: dict[str, Tensor],
        release: Any,  # of supported_models
        saved_with: dict[str, Tensor] | None = None,
    ):
        self.saved_with = saved_with or {}
        self.latent_format, self.plan = release.latent_format(), model.plan
        self.inpainting, self.variants = release.inpainting, release.variants
        self.video = release.video
        self.scale = model.config.scaling_factor / self.latent_format.scale_factor
        self._declare(model)
        self.first_stage_model = model.eval()
        self.device = mm.vae_device()
        self.vae_dtype = mm.vae_dtype(self.device, self.working_dtypes)
        self.first_stage_model.to(self.vae_dtype)
        if hasattr(mm, "archive_model_dtypes"):  # 0.33
            mm.archive_model_dtypes(self.first_stage_model)
        self.output_device = mm.intermediate_device()
        offload = mm.vae_offload_device()
        self.patcher = patcher_class()(self.first_stage_model, load_device=self.device, offload_device=offload)
        self.first_stage_model.load_state_dict(weights, assign=is_dynamic(self.patcher))
        if self.device.type == "cpu":  # where it is 1.5 to 2 times as fast; on a GPU it takes 1.7 times as long
            self.first_stage_model.to(memory_format=model.channels_last)
        logging.info("EasyAnimate VAE: %s on %s", self.vae_dtype, self.device)

    def _declare(self, model: VideoVAE) -> None:
        """What the host's methods and nodes read."""
        plan, side = self.plan, SPACE_RATIO
        ratios = (plan.time_ratio, side, side)
        self.latent_channels, self.latent_dim, self.output_channels = model.config.latent_channels, 3, 3
        self.upscale_ratio, self.upscale_index_formula = (plan.frames_for, side, side), ratios
        self.downscale_ratio, self.downscale_index_formula = (plan.latents_for, side, side), ratios
        self.memory_used_encode = self._encode_memory
        self.memory_used_decode = self._decode_memory
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.working_dtypes = [torch.bfloat16, torch.float32]
        self.disable_offload = False
        self.not_video = False
        self.size = None
        self.extra_1d_channel = None
        self.crop_input = True
        self.pad_channel_value = None  # from here on: 0.33
        self.handles_tiling = False
        self.format_encoded = None
        self.audio_sample_rate = 44100

    def get_sd(self) -> dict[str, Tensor]:
        """What the host's save nodes write, in the layout that files have."""
        weights = {name: tensor.contiguous() for name, tensor in super().get_sd().items()}
        return {**weights, **self.saved_with}

    def decode(
        self, samples_in: Tensor, vae_options=None, tiling: Tiling | None = None, seams: str = "original"
    ) -> Tensor:
        """Latents `[B, C, F, h, w]` (or one frame, `[B, C, h, w]`) to images `[B, T, H, W, 3]` in 0..1.

        `seams` is one of `SEAMS`: what is done about the borders of slices. Out of memory, it begins again in
        smaller tiles: the release's, then half as large, and so on.
        """
        z = samples_in if samples_in.ndim == 5 else samples_in.unsqueeze(2)
        if seams != SEAMS[0] and self.plan.seamless:
            logging.info("This VAE leaves no seams between slices; decoding as with %s.", SEAMS[0])
            seams = SEAMS[0]
        tiling = self._fitting(self._decode_memory, z.shape, tiling, 1)
        return self._or_tiled(partial(self._decode, seams=seams), z, tiling, 1)

    def decode_tiled(self, samples, tile_x=None, tile_y=None, overlap=None, tile_t=None, overlap_t=None) -> Tensor:
        """The host's tiled decode. Time is always cut by slices, so the temporal tile sizes have nothing to do."""
        return self.decode(samples, tiling=_tiling(tile_x, tile_y, overlap, 1))

    def encode(self, pixel_samples: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Images `[T, H, W, C]` as one clip, or `[B, T, H, W, C]`, to latents.

        The sides are cropped to eights, the length as the plan says, of which the log tells.
        """
        clips = pixel_samples if pixel_samples.ndim == 5 else pixel_samples.unsqueeze(0)
        height, width = clips.shape[2:4]
        if min(height, width) < SPACE_RATIO:
            raise ValueError(
                f"A video of {width} x {height} is too small; make it at least {SPACE_RATIO} x {SPACE_RATIO}."
            )
        if self.plan.crop(clips.shape[1]) < clips.shape[1]:
            logging.warning(length_note(clips.shape[1], self.plan))
        clips = self.vae_encode_crop_pixels(clips.flatten(0, 1)[..., :3]).unflatten(0, clips.shape[:2])
        pixels = clips.movedim(-1, 1)
        tiling = self._fitting(self._encode_memory, pixels.shape, tiling, SPACE_RATIO)
        latents = self._or_tiled(self._encode, pixels, tiling, SPACE_RATIO)
        setattr(latents, ENCODING, Encoding(self, clips))
        return latents

    def encode_tiled(
        self, pixel_samples, tile_x=None, tile_y=None, overlap=None, tile_t=None, overlap_t=None
    ) -> Tensor:
        """The host's tiled encode; see `decode_tiled`."""
        return self.encode(pixel_samples, tiling=_tiling(tile_x, tile_y, overlap, SPACE_RATIO))

    def _encode_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> float:
        """Bytes at most above the weights for pixels `[B, 3, T, H, W]`."""
        model = self.first_stage_model
        values = model.memory.to_encode(on_gpu=self.device.type != "cpu") * model.config.channels[1]
        return values * shape[-2] * shape[-1] * mm.dtype_size(dtype)

    def _decode_memory(self, shape: tuple[int, ...], dtype: torch.dtype, length: float = 1.0) -> float:
        """Bytes at most above the weights for latents `[B, C, F, h, w]`, in slices of `length` times the usual."""
        model = self.first_stage_model
        values = model.memory.to_decode(length, on_gpu=self.device.type != "cpu") * model.config.channels[1]
        return values * shape[-2] * shape[-1] * SPACE_RATIO**2 * mm.dtype_size(dtype)

    def _fitting(
        self, memory: Callable[..., float], shape: tuple[int, ...], tiling: Tiling | None, ratio: int
    ) -> Tiling | None:
        """The tiling (None for whole frames), or the largest tiles that fit where it takes more than is free.

        Tiles take `TILE_MEMORY` at most, unless larger ones than the release's are asked for. Other models have to
        make room only for what fits into the device at all.
        """
        longer, total = max(shape[-2:]) // ratio, mm.get_total_memory(self.device) - self.patcher.model_size()
        for choice in [tiling, *_smaller_tilings(tiling, longer)]:
            needed = memory(_one_tile(shape, choice, ratio), self.vae_dtype)
            is_large = choice is None or choice.side > RELEASE_TILING.side
            if needed <= (total if is_large else min(total, TILE_MEMORY)):
                self._load(needed)
                if needed <= mm.get_free_memory(self.device):
                    break
        if choice is not None and choice != tiling:
            logging.info("Using tiles of %d pixels, which fit into memory.", choice.side * SPACE_RATIO)
        return choice

    def _or_tiled(
        self, work: Callable[[Tensor, Tiling | None], Tensor], x: Tensor, tiling: Tiling | None, ratio: int
    ) -> Tensor:
        """`work` on `x`; out of memory, again in smaller tiles. A latent pixel is `ratio` pixels of `x`."""
        largest = max(x.shape[-2:]) // ratio
        while True:
            try:
                return work(x, tiling)
            except Exception as error:
                smaller = _smaller(tiling, largest)
                if smaller is None or not out_of_memory(error):
                    raise
            tiling = smaller  # not above: until its error is handled, what ran out of memory holds on to it
            logging.warning("Out of memory; continuing with tiles of %d pixels.", tiling.side * SPACE_RATIO)
            mm.soft_empty_cache()

    def _decode(self, z: Tensor, tiling: Tiling | None, seams: str) -> Tensor:
        model = self.first_stage_model
        slices = self._decode_slices(z.shape[2], seams)
        longest = max(s.frame_stop - s.frame_start for s in slices) / self.plan.frames_per_slice
        self._load(self._decode_memory(_one_tile(z.shape, tiling, 1), self.vae_dtype, longest))
        b, c, t, h, w = model.pixel_shape(z.shape)
        images = torch.empty((b, t, h, w, c), device=self.output_device)
        between = self._between(t) if seams == "smooth" else slice(0)
        again = 2 * len(self.plan.decode(self.plan.latents_for(len(range(t)[between]))))
        on_slice = _progress(b * len(tiles_of(tiling, z.shape, SPACE_RATIO)) * (len(slices) + again))
        z = z if self.scale == 1 else z / self.scale
        for clip, image in zip(z.to(self.vae_dtype).split(1), images.split(1), strict=True):
            pixels = image.movedim(-1, 1)
            model.decode(clip, pixels, tiling, self.device, on_slice, slices)
            if again:
                self._smooth(pixels.clamp_(-1, 1)[:, :, between], tiling, on_slice)
        if not images.isfinite().all():
            if not z.isfinite().all():
                raise ValueError("The latent holds values that are not numbers (NaN); what made it overflowed.")
            raise ValueError(
                f"The VAE's values overflowed while decoding in {self.vae_dtype} (NaN); start ComfyUI with --fp32-vae."
            )
        return self.process_output(images)

    def _decode_slices(self, latents: int, seams: str) -> list[DecodeSlice]:
        if seams != "overlap" or self.plan.frames_per_slice == 1:
            return self.plan.decode(latents)
        if self.plan.overlapping is None:
            raise ValueError("The windows of this VAE (V2) can't overlap; set seams to original or smooth.")
        return self.plan.overlapping(latents)

    def _between(self, frames: int) -> slice:
        """Those that are not in the first half slice nor in the last; none where slices have no seams."""
        whole = self.plan.frames_per_slice
        return slice(whole // 2, frames - (whole - whole // 2)) if frames > whole > 1 else slice(0)

    def _smooth(self, pixels: Tensor, tiling: Tiling | None, on_slice: Callable[[], None]) -> None:
        """As the original: mix decoded pixels half and half with themselves, encoded and decoded once more.

        They begin half a slice into the video, so that the seams of either fall into the slices of the other.
        """
        model = self.first_stage_model
        latents = torch.empty(model.latent_shape(pixels.shape), dtype=self.vae_dtype, device=self.output_device)
        model.encode(pixels, latents, tiling, self.device, on_slice, prepare=lambda x: x.to(self.vae_dtype))
        slices = [replace(s, share=0.5) for s in self.plan.decode(latents.shape[2])]
        model.decode(latents, pixels, tiling, self.device, on_slice, slices)

    def _encode(self, clips: Tensor, tiling: Tiling | None) -> Tensor:
        model = self.first_stage_model
        self._load(self._encode_memory(_one_tile(clips.shape, tiling, SPACE_RATIO), self.vae_dtype))
        latents = torch.empty(model.latent_shape(clips.shape), device=self.output_device)
        slices = self.plan.encode(self.plan.crop(clips.shape[2]))
        on_slice = _progress(len(clips) * len(tiles_of(tiling, latents.shape, 1)) * len(slices))
        for clip, latent in zip(clips.split(1), latents.split(1), strict=True):
            model.encode(clip, latent, tiling, self.device, on_slice, prepare=self._prepare)
        return latents if self.scale == 1 else latents.mul_(self.scale)

    def _prepare(self, pixels: Tensor) -> Tensor:
        return self.process_input(pixels).to(self.vae_dtype)

    def _load(self, memory: float) -> None:
        mm.load_models_gpu([self.patcher], memory_required=memory, force_full_load=self.disable_offload)


@dataclass(frozen=True)
class Encoding:
    """How latents came about: what `vae` made them, out of which `clips` `[B, T, H, W, 3]` in 0..1."""

    vae: HostVAE
    clips: Tensor


def encoding_of(latents: Tensor) -> Encoding | None:
    """How these latents came about; stock nodes hand them on as they are. None when they were changed since."""
    return getattr(latents, ENCODING, None)


def _progress(slices: int) -> Callable[[], None]:
    """Moves the node's bar and stops when the user did, after each slice."""
    bar = comfy.utils.ProgressBar(slices)

    def on_slice() -> None:
        bar.update(1)
        mm.throw_exception_if_processing_interrupted()

    return on_slice


def _tiling(tile_x: int | None, tile_y: int | None, overlap: int | None, ratio: int) -> Tiling:
    """The host's tile sizes as ours, in latent pixels; tiles are square, the smaller side counts."""
    sides = [side // ratio for side in (tile_x, tile_y) if side is not None]
    side = max(1, min(sides)) if sides else RELEASE_TILING.side
    shared = RELEASE_TILING.overlap if overlap is None else overlap // ratio
    return Tiling(side, min(shared, side // 2))


def _smaller_tilings(tiling: Tiling | None, longer: int) -> list[Tiling]:
    """Tiles smaller than these, or than whole frames of this `longer` side in latents; the largest first."""
    now = longer if tiling is None else min(tiling.side, longer)
    sides = range(RELEASE_TILING.side, LEAST_TILE - 1, -TILE_STEP)
    return [Tiling(side, side // 4) for side in sides if side < now]


def _smaller(tiling: Tiling | None, largest: int) -> Tiling | None:
    """The tiles to try when these, or whole frames, take too much; `largest` is the longer side of the latents."""
    now = largest if tiling is None else min(tiling.side, largest)
    side = RELEASE_TILING.side if now > RELEASE_TILING.side else now // 2
    return Tiling(side, side // 4) if side >= LEAST_TILE else None


def _one_tile(shape: tuple[int, ...], tiling: Tiling | None, ratio: int) -> tuple[int, ...]:
    if tiling is None:
        return tuple(shape)
    return (*shape[:-2], *(min(side, tiling.side * ratio) for side in shape[-2:]))
