"""What an inpainting (InP) model is given beside the noise: which pixels to generate, and what the others show.

That covers image to video (a frame is given), inpainting (a region is to be generated) and, with nothing given, text to
video. How mask and video become latents is a strategy of the release; nodes find it at its VAE.
"""

import comfy.model_management as mm
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ..vae.host_vae import encoding_of
from ..vae.masks import pixel_mask
from ..vae.slicing import TimePlan
from ..vae.video_vae import SPACE_RATIO

BLACK, GREY, WHITE = 0.0, 0.5, 1.0  # images in 0..1; the VAE is shown -1, 0, 1
THRESHOLD = 0.5  # of a mask; above it, a pixel is to be generated
NOISE_AUGMENTATION = 0.0563  # standard deviation of the noise on given pixels (V5, V5.1)
SAME_SHAPE = 0.02  # relative difference of aspect ratios that a resize may hide


def given_frames(frames: int, height: int, width: int, start: Tensor | None, end: Tensor | None):
    """A video `[T, H, W, 3]` that begins with `start` and ends with `end` (images `[n, H, W, 3]`), and its mask.

    The mask `[T, H, W]` is 1 where a pixel is to be generated. Raises `ValueError` when the images don't fit in.
    """
    given = sum(len(images) for images in (start, end) if images is not None)
    if given > frames:
        raise ValueError(f"{given} start and end images don't fit into {frames} frames; make the video longer.")
    video = torch.full((frames, height, width, 3), BLACK)
    mask = torch.ones(frames, height, width)
    if start is not None:
        video[: len(start)], mask[: len(start)] = fitted(start, height, width), 0.0
    if end is not None:
        video[-len(end) :], mask[-len(end) :] = fitted(end, height, width), 0.0
    return video, mask


def fitted(images: Tensor, height: int, width: int) -> Tensor:
    """Images `[T, H, W, C]` scaled to this size, cut in the middle where the shape differs."""
    if images.shape[1:3] == (height, width):
        return images[..., :3].cpu()
    scaled = comfy.utils.common_upscale(images[..., :3].movedim(-1, 1), width, height, "lanczos", "center")
    return scaled.movedim(1, -1).cpu()


def mask_for(mask: Tensor | None, frames: int, height: int, width: int) -> Tensor:
    """A mask `[T or 1, H, W]` in the size of a video, `[T, H, W]`; without one, all is to be generated."""
    if mask is None:
        return torch.ones(frames, height, width)
    return (pixel_mask(mask, frames, height, width) > THRESHOLD).float()


def masked_clip(clip: Tensor, mask: Tensor, plan: TimePlan) -> tuple[Tensor, Tensor]:
    """A clip `[T, H, W, 3]` that a stock node encoded, in the length that comes out, and its mask `[T, H, W]`.

    `mask` is one of those that `pixel_mask` takes. Where the clip's latents decode to more or fewer frames than it has,
    given frames keep their distance to the nearer end, as those of `given_frames`.
    """
    clip, (length, height, width, _) = clip.float().cpu(), clip.shape
    of_latents = mask.ndim == 5 and mask.shape[2] == plan.latents_for(length)
    frames = plan.frames_for(mask.shape[2]) if of_latents else length
    made = mask_for(mask, frames, height, width)
    if frames != length:
        start = next((i for i, each in enumerate(made) if each.all()), frames)  # from there on, they count from the end
        from_start = [min(i, length - 1) for i in range(start)]
        clip = clip[from_start + [max(length - frames + i, 0) for i in range(start, frames)]]
    return clip, made


def inpaint_latents(vae, video: Tensor, mask: Tensor, noise_augmentation: float = NOISE_AUGMENTATION) -> Tensor:
    """What inpainting models of this VAE's release are given beside the noise, `[1, C, F, h, w]`, unscaled.

    `video` `[T, H, W, 3]` in 0..1, `mask` `[T, H, W]` with 1 where a pixel is to be generated. `noise_augmentation` is
    the standard deviation of the noise on given pixels (in -1..1), for releases that were trained with some.
    """
    return vae.inpainting.encode(vae, video, mask, noise_augmentation)


def augmentation_noise(shape: torch.Size, strength: float) -> Tensor:
    """Noise for given pixels, in -1..1 and always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * strength


class Inpainting:
    """How a release's inpainting models are given mask and masked video: `encode`; `channels` of them in all.

    `sees_through_clip` says whether they were also trained on CLIP's view of the start image, `with_noise` whether on
    noise on given pixels.
    """

    name = "InP"
    takes: frozenset[str] = frozenset()
    channels: int
    sees_through_clip = True
    with_noise = False

    def encode(self, vae, video: Tensor, mask: Tensor, noise_augmentation: float) -> Tensor:
        """See `inpaint_latents`."""
        raise NotImplementedError

    def without_images(self, noise: Tensor) -> Tensor:
        """Latents for a run that was given no images: zeros, as these releases were trained."""
        return noise.new_zeros(len(noise), self.channels, *noise.shape[2:])

    def from_stock_nodes(self, latents: Tensor, mask: Tensor) -> Tensor:
        """Inpaint latents out of what WanFirstLastFrameToVideo or InpaintModelConditioning give, unscaled.

        `latents` `[1, C, F, h, w]` show grey where pixels are to be generated, the model knows black; so the video they
        were made of is encoded once more. `mask` is 1 there, in any of the shapes that `pixel_mask` takes.
        """
        encoding = encoding_of(latents)
        if encoding is None:
            raise ValueError(
                "An inpainting (InP) model needs an encoded mask, but it is unknown which VAE made these latents; use "
                "EasyAnimate Image to Video or EasyAnimate Inpaint Video instead of the stock node."
            )
        loaded = mm.loaded_models(only_currently_used=True)
        clips = (masked_clip(clip, mask, encoding.vae.plan) for clip in encoding.clips)
        made = torch.cat([inpaint_latents(encoding.vae, *clip) for clip in clips])
        mm.load_models_gpu(loaded)
        return made.to(latents)

    def concat(self, noise: Tensor, conds: dict, latent_format) -> Tensor:
        """See `concat.ConcatInputs`."""
        if conds.get("camera_conditions") is not None:
            raise ValueError(
                "This is an inpainting (InP) transformer and can't follow a camera; load a Camera transformer, or "
                "remove the camera embedding."
            )
        latents, mask = conds.get("concat_latent_image"), conds.get("concat_mask")
        if latents is None:
            latents = self.without_images(noise)
        if latents.shape[1] == latent_format.latent_channels and mask is not None:
            latents = self.from_stock_nodes(latents, mask)
        if latents.shape[1] == 2 * latent_format.latent_channels != self.channels:
            raise ValueError(
                "This is an inpainting (InP) transformer, but its conditioning is a control video; load a Control "
                "transformer, or use EasyAnimate Image to Video."
            )
        require_inputs(latents, self.channels)
        return latent_format.process_in(resized(latents, noise))


class EncodedMask(Inpainting):
    """V1 to V3: the mask as a video, then the masked video, both encoded, `[1, 2*C, F, h, w]`."""

    channels = 8

    def encode(self, vae, video: Tensor, mask: Tensor, noise_augmentation: float) -> Tensor:
        masked = torch.where(mask[..., None] > THRESHOLD, BLACK, video)
        return torch.cat([self._mask_latents(vae, mask), vae.encode(masked)], dim=1)

    def without_images(self, noise: Tensor) -> Tensor:
        """These releases encode the empty video, which takes the VAE."""
        raise ValueError(
            "This is an inpainting (InP) transformer; connect EasyAnimate Image to Video between the prompt and the "
            "sampler (without images it makes video from text)."
        )

    @staticmethod
    def _mask_latents(vae, mask: Tensor) -> Tensor:
        """The mask as the VAE sees it: grey where pixels are given, white where they are to be generated."""
        generated = torch.where(mask > THRESHOLD, WHITE, GREY)
        return vae.encode(generated[..., None].expand(*generated.shape, 3))


class EncodedMaskOrZeros(EncodedMask):
    """V4: the same, but zeros where nothing is given at all."""

    def encode(self, vae, video: Tensor, mask: Tensor, noise_augmentation: float) -> Tensor:
        if (mask > THRESHOLD).all():
            return _zeros(vae, mask, self.channels)
        return super().encode(vae, video, mask, noise_augmentation)

    def without_images(self, noise: Tensor) -> Tensor:
        return Inpainting.without_images(self, noise)


class ResizedMask(Inpainting):
    """V5 and V5.1: a mask of what is given, in the size of the latents, then the encoded masked video.

    `[1, 17, F, h, w]`. Given pixels carry a little noise, except black ones. Zeros where nothing is given at all.
    """

    channels = 17
    sees_through_clip = False
    with_noise = True

    def encode(self, vae, video: Tensor, mask: Tensor, noise_augmentation: float) -> Tensor:
        generated = mask > THRESHOLD
        if generated.all():
            return _zeros(vae, mask, self.channels)
        masked = torch.where(generated[..., None], BLACK, video)
        if noise_augmentation > 0:
            noise = augmentation_noise(video.shape, noise_augmentation)
            masked = torch.where(masked == BLACK, masked, masked + noise / 2)  # images are 0..1, the noise -1..1
        latents = vae.encode(masked)
        given = 1 - generated[: vae.plan.crop(len(generated))].float()
        given = resized_by_frame(given[None, None], latents.shape[2:])
        return torch.cat([given.to(latents), latents], dim=1)


def _zeros(vae, mask: Tensor, channels: int) -> Tensor:
    """Latents that give nothing, for a video in the size of `mask` `[T, H, W]`."""
    frames, height, width = mask.shape
    size = (vae.plan.latents_for(frames), height // SPACE_RATIO, width // SPACE_RATIO)
    return torch.zeros(1, channels, *size, device=mm.intermediate_device())


def resized_by_frame(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps of pixels `[B, C, T, H, W]` in the size of latents `(F, h, w)`, as V5 and V5.1 were given them.

    Linear in time and space; the first frame belongs to the first latent alone.
    """
    frames, height, width = size
    first = F.interpolate(maps[:, :, :1], (1, height, width), mode="trilinear", align_corners=False)
    if frames == 1:
        return first
    rest = F.interpolate(maps[:, :, 1:], (frames - 1, height, width), mode="trilinear", align_corners=False)
    return torch.cat([first, rest], dim=2)


def require_inputs(latents: Tensor, channels: int) -> None:
    """Raise `ValueError` when the network takes another number of further channels."""
    if latents.shape[1] != channels:
        raise ValueError(
            f"The images were encoded with {latents.shape[1]} latent channels, but this transformer needs {channels}; "
            "encode them with the VAE of the transformer's release."
        )


def resized(latents: Tensor, noise: Tensor) -> Tensor:
    """Inpaint latents in the size and batch of `noise` `[B, C, F, h, w]`, for a second pass after an upscale."""
    frames, height, width = latents.shape[2:]
    shapes = (height / width, noise.shape[3] / noise.shape[4])
    if frames != noise.shape[2] or abs(shapes[0] / shapes[1] - 1) > SAME_SHAPE:
        here, there = (f"{s[4] * 8}x{s[3] * 8} with {s[2]} latent frames" for s in (latents.shape, noise.shape))
        raise ValueError(
            f"The images are for a video of {here}, but the latent is {there}; connect the latent output of the same "
            "node."
        )
    if (height, width) != noise.shape[3:]:
        latents = comfy.utils.common_upscale(latents, noise.shape[4], noise.shape[3], "bilinear", "disabled")
    return comfy.utils.resize_to_batch_size(latents, noise.shape[0])
