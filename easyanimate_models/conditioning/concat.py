"""The further input channels of networks that take more than the noise."""

from typing import Protocol

from torch import Tensor


class ConcatInputs(Protocol):
    """One variant of a release, such as inpainting or control: what its networks are given beside the noise."""

    name: str
    channels: int
    takes: frozenset[str]  # of CONDITIONING, what only some networks know: see `model_base.UNUSED`

    def concat(self, noise: Tensor, conds: dict, latent_format) -> Tensor:
        """Those channels for `noise` `[B, C, F, h, w]`, scaled as `latent_format` says, in the noise's size.

        `conds` is the host's conditioning dictionary. Raises `ValueError` for conditioning of another variant.
        """
