"""How good a clip looks: LAION's aesthetic predictor on CLIP embeddings of four frames (paper 4.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from ..files.checkpoint import CheckpointError, fingerprint_weights, read_checkpoint
from ..media.video_file import sample_frames

FRAMES = 4
SIDE = 512  # pixels, more than CLIP takes
HEAD = "LAION's aesthetic predictor for CLIP ViT-L/14 (sac+logos+ava1-l14-linearMSE, or sa_0_4_vit_l_14_linear)"

EncodeImages = Callable[[Tensor], Tensor]  # pictures [N, H, W, 3] in 0..1 to embeddings [N, D]


@dataclass(frozen=True)
class Aesthetics:
    """Scores from about 1 to 10. `encode_images` is CLIP's image encoder, `head` the predictor's file.

    `encoder` is the encoder's fingerprint: with another encoder, clips are scored again.
    """

    encode_images: EncodeImages
    head: Path
    encoder: str = ""
    name = "aesthetics"

    def __call__(self, file: Path) -> dict[str, float]:
        """`aesthetics`: the mean of four frames."""
        pictures = numpy.stack(sample_frames(file, FRAMES, SIDE)).astype(numpy.float32) / 255
        with torch.inference_mode():
            embeddings = F.normalize(self.encode_images(torch.from_numpy(pictures)).float().cpu(), dim=-1)
            return {"aesthetics": float(_predict(embeddings, read_layers(self.head)).mean())}


def clip_vision_aesthetics(clip_vision, head: Path) -> Aesthetics:
    """The scorer that uses the host's CLIP_VISION."""

    def encode_images(pictures: Tensor) -> Tensor:
        return clip_vision.encode_image(pictures).image_embeds

    return Aesthetics(encode_images, head, fingerprint_weights(clip_vision.model.state_dict()))


@lru_cache(maxsize=1)
def read_layers(head: Path) -> list[tuple[Tensor, Tensor]]:
    """The predictor's linear layers in order, weight and bias of each. Raises `CheckpointError` for another file."""
    tensors = read_checkpoint(head, "transformer").tensors
    names = sorted((name for name in tensors if name.endswith("weight")), key=_layer_number)
    pairs = [(tensors[name].float(), tensors.get(f"{name[: -len('weight')]}bias")) for name in names]
    layers = [(weight, bias.float()) for weight, bias in pairs if weight.dim() == 2 and bias is not None]
    shapes = [weight.shape for weight, _ in layers] if len(layers) == len(pairs) else []
    if not shapes or shapes[-1][0] != 1 or any(a[0] != b[1] for a, b in zip(shapes, shapes[1:], strict=False)):
        raise CheckpointError(f"{head.name} is not an aesthetic predictor; choose {HEAD}.")
    return layers


def _predict(x: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    for weight, bias in layers:  # there were only dropouts between them
        if x.shape[-1] != weight.shape[1]:
            raise CheckpointError(
                f"The aesthetic predictor needs {weight.shape[1]}-dimensional embeddings, but the image encoder gives "
                f"{x.shape[-1]}; load CLIP ViT-L/14."
            )
        x = F.linear(x, weight, bias)
    return x


def _layer_number(name: str) -> int:
    """Of `layers.4.weight`, 4."""
    return next((int(part) for part in name.split(".") if part.isdigit()), 0)
