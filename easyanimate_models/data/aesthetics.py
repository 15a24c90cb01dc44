"""How good a clip looks: LAION's predictor on CLIP's view of four frames (paper 4.1), from files on this disk."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from ..files.checkpoint import CheckpointError, fingerprint, read_checkpoint
from ..media.video_file import sample_frames

FRAMES = 4
SIDE = 512  # pixels, more than CLIP sees
HEAD = "LAION's aesthetic predictor for CLIP ViT-L/14 (sac+logos+ava1-l14-linearMSE, or sa_0_4_vit_l_14_linear)"

See = Callable[[Tensor], Tensor]  # pictures [N, H, W, 3] in 0..1 to embeddings [N, D]


@dataclass(frozen=True)
class Aesthetics:
    """Scores looks from about 1 to 10. `see` is CLIP's image encoder, `head` the predictor's file."""

    see: See
    head: Path
    encoder: str = ""  # whose view it is: another one's scores are others
    name = "aesthetics"

    def __call__(self, file: Path) -> dict[str, float]:
        """`aesthetics`: the mean of four frames."""
        pictures = numpy.stack(sample_frames(file, FRAMES, SIDE)).astype(numpy.float32) / 255
        with torch.inference_mode():
            embeddings = F.normalize(self.see(torch.from_numpy(pictures)).float().cpu(), dim=-1)
            return {"aesthetics": float(_predicted(embeddings, layers(self.head)).mean())}


def by_host(clip_vision, head: Path) -> Aesthetics:
    """Seeing by the host's CLIP_VISION, wherever it runs."""
    return Aesthetics(lambda shown: clip_vision.encode_image(shown).image_embeds, head, fingerprint(clip_vision.model))


@lru_cache(maxsize=1)
def layers(head: Path) -> list[tuple[Tensor, Tensor]]:
    """The predictor's linear layers in order, weight and bias of each. Raises `CheckpointError` for another file."""
    tensors = read_checkpoint(head, "transformer").tensors
    weights = sorted((name for name in tensors if name.endswith("weight")), key=_place)
    found = [(tensors[name].float(), tensors.get(f"{name[: -len('weight')]}bias")) for name in weights]
    whole = [(weight, bias.float()) for weight, bias in found if weight.dim() == 2 and bias is not None]
    widths = [weight.shape for weight, _ in whole] if len(whole) == len(found) else []
    if not widths or widths[-1][0] != 1 or any(a[0] != b[1] for a, b in zip(widths, widths[1:], strict=False)):
        raise CheckpointError(f"{head.name} is no aesthetic predictor; choose {HEAD}.")
    return whole


def _predicted(x: Tensor, head: list[tuple[Tensor, Tensor]]) -> Tensor:
    for weight, bias in head:  # nothing stands between them: what was there in training were dropouts
        if x.shape[-1] != weight.shape[1]:
            raise CheckpointError(
                f"The aesthetic predictor is for embeddings of {weight.shape[1]} numbers and the image encoder gives "
                f"{x.shape[-1]}; load CLIP ViT-L/14 with it."
            )
        x = F.linear(x, weight, bias)
    return x


def _place(name: str) -> int:
    """Of `layers.4.weight`, 4."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)
