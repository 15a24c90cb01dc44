"""Motion modules apart from their transformer: which weights they are, and a file of them alone (as V1's are)."""

from pathlib import Path

from torch import Tensor, nn

from ...files.atomic import write_safetensors
from ...files.checkpoint import embed_config
from ...supported_models import Release

ReleaseClass = Release | type[Release]


def load_image_weights(network: nn.Module, weights: dict[str, Tensor], release: ReleaseClass) -> None:
    """Load `weights` into a network of `release`; motion modules that are not among them stay as they are.

    Raises `ValueError` when anything else is missing, or left over.
    """
    missing, unexpected = network.load_state_dict(weights, strict=False)
    wrong = [name for name in missing if not release.is_motion_weight(name)] + list(unexpected)
    if wrong:
        raise ValueError(
            f"The transformer can't be trained the way it was loaded (first mismatch: {wrong[0]}); load it in bf16."
        )


def motion_weights(weights: dict[str, Tensor], release: ReleaseClass) -> dict[str, Tensor]:
    """The weights of the motion modules, in bfloat16 as their files have them."""
    return {name: tensor.bfloat16() for name, tensor in weights.items() if release.is_motion_weight(name)}


def save_motion_modules(file: Path, weights: dict[str, Tensor], config, release: ReleaseClass) -> Path:
    """Write the motion modules among `weights` into a file of their own, with the network's config inside.

    So the file says by itself which kind they are, in whatever folder it lies.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    embedded = embed_config(release.config_json(config))
    write_safetensors(file, motion_weights(weights, release) | embedded, {"format": "pt"})
    return file
