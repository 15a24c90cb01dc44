"""Masks of pixels and of latents: where sizes differ, the maximum counts, so that everything marked stays marked."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .slicing import TimePlan

WRONG_LENGTH = "The mask has {} frames but the video has {}; use a single mask, or one per frame."
GROUP = 4  # frames of a latent in the masks of stock video nodes; all four of the first latent are frame 0


def pixel_mask(mask: Tensor, frames: int, height: int, width: int) -> Tensor:
    """A mask in any of the host's shapes as one for the frames of a video, `[T, H, W]`.

    `[H, W]` and `[1, H, W]` hold for all frames, `[T, H, W]` and `[T, 1, H, W]` for each; `[1, 1, F, h, w]` and
    `[1, 4, F, h, w]` (four frames a latent) are those of stock video nodes. Raises `ValueError` for another length.
    """
    masks = _rows(mask)
    if mask.ndim == 5 and mask.shape[1] == GROUP:
        masks = _ungrouped(masks, frames)
    elif mask.ndim == 5 and len(masks) not in (1, frames):
        masks = _ungrouped(masks.repeat_interleave(GROUP, dim=0), frames)
    if len(masks) not in (1, frames):
        raise ValueError(WRONG_LENGTH.format(len(masks), frames))
    return resized_mask(masks, height, width).expand(frames, -1, -1)


def latent_mask(mask: Tensor, plan: TimePlan, latents: torch.Size) -> Tensor:
    """A mask of pixels for latents `[B, C, F, h, w]`, `[1 or B, 1, F, h, w]`: marked where any pixel or frame is.

    Which pixel frames a latent stands for, the VAE's `plan` says. A mask with a frame for each latent is one of latents
    already; one for each video of a batch holds for all its frames. Raises `ValueError` for another length.
    """
    batch, _, frames, height, width = latents
    masks = _rows(mask)
    if len(masks) in (1, frames):
        return resized_mask(masks, height, width).expand(frames, -1, -1)[None, None]
    spans = plan.frames_of(len(masks))
    if len(spans) == frames:
        masks = torch.stack([masks[span.start : span.stop].amax(0) for span in spans])
        return resized_mask(masks, height, width)[None, None]
    if len(masks) == batch:
        return resized_mask(masks, height, width)[:, None, None].expand(-1, -1, frames, -1, -1)
    raise ValueError(WRONG_LENGTH.format(len(masks), plan.frames_for(frames)))


def resized_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """Masks `[T, H, W]` in another size: a pixel is as marked as the most marked of those that it covers."""
    if mask.shape[-2:] == (height, width):
        return mask
    return F.adaptive_max_pool2d(mask[:, None], (height, width))[:, 0]


def _rows(mask: Tensor) -> Tensor:
    """One mask after the other, `[N, H, W]`; groups of frames one frame after the other."""
    mask = mask.float()
    return mask[0].transpose(0, 1).flatten(0, 1) if mask.ndim == 5 else mask.reshape(-1, *mask.shape[-2:])


def _ungrouped(masks: Tensor, frames: int) -> Tensor:
    """The mask of each frame of a video out of those of stock nodes, where frame 0 has four.

    They count from either end; for videos of other than 4n + 1 frames, what either of both marks is marked.
    """
    last = len(masks) - 1
    from_start = [min(frame + GROUP - 1, last) for frame in range(frames)]
    from_end = [max(last + 1 - frames + frame, 0) for frame in range(frames)]
    return torch.maximum(masks[from_start], masks[from_end])
