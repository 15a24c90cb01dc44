"""What stands for each release in the matrix of stock nodes: the built-in model, or a tiny one with random weights."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from safetensors.torch import load_file, save_file

from tools import comfyui
from tools.workflows import v4, v51
from tools.workflows.author import node

from .pack import part
from .prompts import BUILT_IN_INP, empty
from .prompts import loaders as built_in
from .stand_in_releases import releases
from .stand_ins import FOLDER, IMAGE_ENCODER, lora_over

supported_models = part("easyanimate_models.supported_models")


@dataclass(frozen=True)
class Model:
    """A release in the table. `length` is in frames, `stock_length` what EmptyHunyuanLatentVideo takes for as many.

    `clip` is the length of a short video that its VAE takes whole.
    """

    release: str
    nodes: dict[str, dict]  # its loaders `model`, `vae` and `clip`, and `empty`
    inpainting: dict  # the loader of its InP transformer
    weights: str  # of its transformer, below the host's models
    lora: str
    length: int = 24
    stock_length: int = 21
    clip: int = 8
    trained: bool = False

    @property
    def plan(self):
        """How its VAE cuts time."""
        return getattr(supported_models, f"EasyAnimate{self.release.replace('.', '')}").vae.plan


def _transformer(name: str) -> dict:
    return node("EasyAnimateLoadTransformer", transformer=name, weight_dtype="default")


def _nodes(transformer: str, vae: str, text_encoder: str, length: int) -> dict:
    return {
        "model": _transformer(transformer),
        "vae": node("EasyAnimateLoadVAE", vae=vae),
        "clip": node("EasyAnimateLoadTextEncoder", text_encoder=text_encoder),
        "empty": empty(length, vae=["vae", 0]),
    }


V3 = Model(
    release="V3",
    nodes={**built_in(), "empty": empty()},
    inpainting=_transformer(BUILT_IN_INP),
    weights="",
    lora="easyanimate-style-lora.safetensors",
    trained=True,
)
V4 = Model(
    release="V4",
    nodes=_nodes(v4.RELEASE, v4.RELEASE, v4.RELEASE, 24),
    inpainting=_transformer(v4.RELEASE),
    weights=f"{v4.RELEASE}/transformer/diffusion_pytorch_model.safetensors",
    lora="v4-lora.safetensors",
)
V51 = Model(
    release="V5.1",
    nodes=_nodes(f"{v51.TEXT_TO_VIDEO}.safetensors", v51.VAE, f"easyanimate/{v51.TEXT_TO_VIDEO}", 25),
    inpainting=_transformer(f"{v51.INPAINTING}.safetensors"),
    weights=f"diffusion_models/{v51.TEXT_TO_VIDEO}.safetensors",
    lora="v51-lora.safetensors",
    length=25,
    stock_length=25,
    clip=9,
)
MODELS = (V3, V4, V51)
RELEASES = tuple(model.release for model in MODELS)
CONTROL, CAMERA = (_transformer(f"{name}.safetensors") for name in (v51.CONTROL, v51.CAMERA))  # of V5.1


@contextlib.contextmanager
def models() -> Iterator[None]:
    """V4 and V5.1, and a LoRA of each beside the stand-ins' one, among the host's models for as long as this lasts."""
    folder, loras = comfyui.BASE / "models", comfyui.BASE / "models" / "loras" / FOLDER
    with releases(IMAGE_ENCODER["hidden_size"]):
        for model in (V4, V51):
            save_file(lora_over(load_file(folder / model.weights)), loras / model.lora)
        yield
