"""Videos longer than the model was trained for: windows over latent frames that start from the same noise.

Windows that share frames agree where they meet; what they show farther apart depends on their noise. So the noise of
the first window is used again for all frames that follow, its slices shuffled (Qiu et al., FreeNoise,
arXiv 2310.15169).
"""

import copy
import functools
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..host import context_handler, prepares_for_windows
from ..vae.slicing import TimePlan
from ..vae.video_sizes import window_size

KEY = "easyanimate_long_video"


def in_windows(model, length: int, overlap: int, plan: TimePlan):
    """A copy of the host's MODEL that samples windows of `length` frames, of which neighbours share `overlap`."""
    window, shared = window_size(length, overlap, plan)
    clone = model.clone()
    clone.model_options["context_handler"] = context_handler(window, shared, bool(plan.lone))
    prepares_for_windows(clone)

    def sample(executor, noise: Tensor, *args, **kwargs):
        return executor(repeated(noise, window, window - shared, plan.unit), *args, **kwargs)

    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
    return clone


def repeated(noise: Tensor, window: int, step: int, unit: int) -> Tensor:
    """Noise `[B, C, F, h, w]` of which frames after the first `window` are earlier ones in another order.

    Each `step` frames are those of a window before, in units that stay together.
    """
    noise, frames = noise.clone(), noise.shape[2]
    generator = torch.Generator().manual_seed(frames)
    for start in range(window, frames, step):
        source = noise[:, :, start - window : start - window + step].split(unit, dim=2)
        order = torch.randperm(len(source), generator=generator).tolist()
        shuffled = torch.cat([source[i] for i in order], dim=2)
        noise[:, :, start : start + step] = shuffled[:, :, : frames - start]
    return noise


def with_any_batch(handler):
    """The host's context handler, for more than one video and for samplers that step between the noise levels.

    The host looks for the one sigma of a batch among those of the run, and cuts the sigmas of a batch as if they were
    frames. A handler that `needs_anchor` shows each window the frame before it: the first of causal latents stands for
    a single frame, and the network expects one there.
    """
    kind: Any = type(handler)
    needs_anchor = getattr(handler, "needs_anchor", False)

    class AnyBatch(kind):
        def set_step(self, timestep: Tensor, model_options: dict) -> None:
            sigmas = model_options["transformer_options"]["sample_sigmas"]
            self._step = int((sigmas - timestep.flatten()[0]).abs().argmin())

        def get_context_windows(self, *args, **kwargs) -> list:
            windows = super().get_context_windows(*args, **kwargs)
            for window in windows:
                kind: Any = type(window)
                window.__class__ = _of_frames(kind)
                window.anchor = window.index_list[0] - 1 if needs_anchor else -1
            return windows

        def evaluate_context_windows(self, *args, **kwargs) -> list:
            results = super().evaluate_context_windows(*args, **kwargs)
            for result in results:
                if result.window.anchor >= 0:
                    result.sub_conds_out[:] = [_without_first(out, self.dim) for out in result.sub_conds_out]
            return results

    safe = copy.copy(handler)
    safe.__class__ = AnyBatch
    return safe


@functools.cache
def _of_frames(kind: Any) -> Any:
    """The host's context window, which leaves the batch whole; before it comes frame `anchor`, if that is not -1."""

    class FrameWindow(kind):
        def get_tensor(self, full: Tensor, device=None, dim: int | None = None, **kwargs) -> Tensor:
            if dim == 0 and self.dim != 0:
                return full.to(device)
            frames = super().get_tensor(full, device, dim, **kwargs)
            if self.anchor < 0:
                return frames
            dim = self.dim if dim is None else dim
            return torch.cat([full.narrow(dim, self.anchor, 1).to(frames.device), frames], dim)

    return FrameWindow


def _without_first(out: Tensor, dim: int) -> Tensor:
    return out.narrow(dim, 1, out.shape[dim] - 1)


def cut_to_window(latents: Tensor, x: Tensor, options: dict) -> Tensor:
    """Latents for the whole video as those for the context window `x`; 0.3.75 does not cut them itself."""
    window = options.get("context_window")
    if window is None or latents.shape[2] == x.shape[2]:
        return latents
    return window.get_tensor(latents, x.device, dim=2)
