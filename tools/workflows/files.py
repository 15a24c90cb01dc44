"""Files of models that templates name, and where the editor may download them. Standard library only."""

from dataclasses import dataclass

HUB = "https://huggingface.co/{}/resolve/main/{}"
V51 = "EasyAnimateV5.1-7b-zh"  # whose VAE and text encoder the other V5.1 transformers use too
V51_MODELS = (V51, f"{V51}-InP", f"{V51}-Control", f"{V51}-Control-Camera")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Download:
    """A file that a loader names, which the editor offers to download where it is missing."""

    name: str  # as the loader lists it
    url: str
    directory: str  # below ComfyUI's models


@dataclass(frozen=True)
class ModelFiles:
    """What the loaders of a release name."""

    transformer: str
    text_encoder: str
    vae: str
    image_encoder: str = ""  # of releases that see start images through CLIP


V3 = ModelFiles(
    transformer="EasyAnimateV3-XL-2-InP-512x512-bf16.safetensors",
    text_encoder="t5xxl_fp16.safetensors",
    vae="EasyAnimateV3-vae.safetensors",
    image_encoder="clip-vit-large-patch14.safetensors",
)
V4 = ModelFiles(*["easyanimate/EasyAnimateV4-XL-2-InP"] * 4)
V51_VAE = "EasyAnimateV5.1-vae.safetensors"
V3_REPOSITORY = "alibaba-pai/EasyAnimateV3-XL-2-InP-512x512"
CHECKPOINT, CONTROL_NET = "v1-5-pruned-emaonly-fp16.safetensors", "control_v11f1e_sd15_tile_fp16.safetensors"


def _download(name: str, directory: str, repository: str, file: str | None = None) -> Download:
    """`name` in ComfyUI's folder `directory`, from the hub; `file` there, where it is called something else."""
    return Download(name, HUB.format(repository, file or name), directory)


def v51(transformer: str) -> ModelFiles:
    """Those of V5.1 with one of `V51_MODELS`."""
    return ModelFiles(f"{transformer}.safetensors", f"easyanimate/{V51}", V51_VAE)


DOWNLOADS = {  # by the name in a loader; what comes in several files, or as a pickle, isn't offered by the editor
    download.name: download
    for download in (
        _download(V3.transformer, "diffusion_models", "Kijai/EasyAnimate-bf16"),
        _download(V3.text_encoder, "text_encoders", "comfyanonymous/flux_text_encoders"),
        _download(V3.vae, "vae", V3_REPOSITORY, f"vae/{WEIGHTS}"),
        _download(V3.image_encoder, "clip_vision", "openai/clip-vit-large-patch14", "model.safetensors"),
        *(
            _download(f"{model}.safetensors", "diffusion_models", f"alibaba-pai/{model}", f"transformer/{WEIGHTS}")
            for model in V51_MODELS
        ),
        _download(V51_VAE, "vae", f"alibaba-pai/{V51}", f"vae/{WEIGHTS}"),
        _download(CHECKPOINT, "checkpoints", "Comfy-Org/stable-diffusion-v1-5-archive"),
        _download(CONTROL_NET, "controlnet", "comfyanonymous/ControlNet-v1-1_fp16_safetensors"),
    )
}
