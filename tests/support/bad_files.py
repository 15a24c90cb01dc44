"""Files that users really have and that the loaders can't use, among the models of this process while a test runs."""

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import comfy.ldm.modules.diffusionmodules.openaimodel as ldm
import comfy.ops
import comfy.sd1_clip
import comfy.taesd.taesd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools import comfyui

from . import pickles
from .control_arithmetic import pixart_file
from .footage import write_clip, write_image
from .mmdit import tiny_mmdit
from .pack import part
from .recorded import golden
from .stand_ins import IMAGE_ENCODER, UNET, image_encoder
from .tiny_networks import DIT, VAE_CONFIGS, motion_dit, randomise, tiny_release_vae

FOLDER = "easyanimate-bad"
EXECUTED = comfyui.BASE / "executed"  # which no pickle may create
DATA = "easyanimate-bad-data"  # in the host's input folder
LISTS = {  # metadata.jsonl, and the error
    "no-json": ("{file: a.mp4}", "has a line that is not valid JSON .*; fix it, or start with a new name"),
    "outside": ('{"file": "../a.mp4", "text": "a"}', "names ../a.mp4, which is outside .*; move it there"),
    "nameless": ('{"text": "a"}', "names no file: .*; fix it"),
    "in-words": (
        '{"file": "a.mp4", "motion": "fast", "text": "a"}',
        "motion of a.mp4 is 'fast', which is not valid; fix",
    ),
    "hashless": (
        '{"file": "a.mp4", "hash": "no hash", "text": "a"}',
        "hash of a.mp4 is 'no hash', which is not valid; fix",
    ),
}
TINY = part("easyanimate_models.files.model_files").TINY
embed_config = part("easyanimate_models.files.checkpoint").embed_config
supported_models = part("easyanimate_models.supported_models")
transformer_config = part("easyanimate_models.configs.motion_dit").transformer_config
WEIGHTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
MODEL_FOLDERS = {  # a loader's component -> the host's folder of its files
    "transformer": "diffusion_models",
    "vae": "vae",
    "text_encoder": "text_encoders",
    "image_encoder": "clip_vision",
    "lora": "loras",
    "controlnet": "controlnet",
}
NUMBER = torch.zeros(1)
KEYS = {  # the keys that tell a file of another kind
    "v4": {"blocks.0.attn_clip.weight": NUMBER},
    "v5": {"text_proj_t5.weight": NUMBER, "transformer_blocks.0.txt_ff.net.2.weight": NUMBER},
    "sigma": {"y_embedder.y_embedding": torch.zeros(300, 32)},
    "clip-l": {"text_model.encoder.layers.0.layer_norm1.weight": NUMBER},
    "clip-g": {
        "vision_model.encoder.layers.47.layer_norm1.weight": NUMBER,
        "vision_model.encoder.layers.47.layer_norm1.bias": NUMBER,
        "visual_projection.weight": torch.zeros(1280, 1664),
    },
    "flux-vae": {f"encoder.down_blocks.{i}.resnets.0.conv1.weight": torch.zeros(8, 8, 3, 3) for i in range(4)}
    | {"encoder.conv_in.weight": torch.zeros(8, 3, 3, 3), "decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)},
    "sd-control": {"zero_convs.0.0.weight": NUMBER},
    "sd-lora": {
        f"lora_unet_down_blocks_0_attentions_0_proj_in.lora_{part}.weight": torch.zeros(2, 2) for part in ("up", "down")
    },
    "wan-lora": {f"diffusion_model.blocks.0.self_attn.q.lora_{part}.weight": torch.zeros(2, 2) for part in ("A", "B")},
    "text-lora": {
        f"lora_te_encoder_block_0_layer_0_SelfAttention_q.lora_{part}.weight": torch.zeros(2, 2)
        for part in ("up", "down")
    },
    "shared-is-missing": {
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": torch.zeros(32, 2),
        "encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(8, 8),
        "encoder.block.0.layer.1.DenseReluDense.wi_0.weight": torch.zeros(8, 8),
    },
}


def tiny(component: str) -> Path:
    return TINY / component / f"{WEIGHTS[component]}.safetensors"


def model_folder(component: str) -> Path:
    return comfyui.BASE / "models" / MODEL_FOLDERS[component] / FOLDER


def name_of(file: str) -> str:
    """What the server calls a file."""
    return os.path.join(FOLDER, file)


def _for_every_loader(folder: Path, component: str) -> None:
    """A text, half a file and a pickle that runs code, for every loader."""
    (folder / "notes.safetensors").write_text("Remember to buy milk.\n" * 40)
    whole = tiny(component if component in WEIGHTS else "vae").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("empty", "gone"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    (folder / "runs-code.bin").write_bytes(pickle.dumps(pickles.Call(os.system, f"touch {EXECUTED}"), protocol=2))
    for name, tensors in KEYS.items():
        save_file({k: v.clone() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    for other in WEIGHTS:
        shutil.copy(tiny(other), folder / f"a-{other}.safetensors")


def _folders(folder: Path) -> None:
    """Transformers with something wrong beside the weights, or nothing at all."""
    network, config = transformer(DIT), transformer_config(DIT)
    beside = {
        "contradiction": config | {"num_layers": 28},
        "too-big": config | {"num_layers": 10**9},
        "no-number": config | {"num_attention_heads": "many"},
        "no-heads": config | {"num_attention_heads": 0},
        "other-blocks": config | {"basic_block_type": "selfattentiontemporal"},
        "no-object": [1, 2],
    }
    for name, content in beside.items():
        (folder / name).mkdir()
        save_file(network.state_dict(), folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps(content))
    save_file(network.state_dict(), folder / "no-config.safetensors")


def _releases(folder: Path) -> None:
    """Release folders with an index that can't be followed, and with more weights than one."""
    shards = {"outside": "../../vae/x.safetensors", "half": "part-2.safetensors", "twice": ""}
    for name, shard in shards.items():
        component = folder / f"{FOLDER}-{name}" / "transformer"
        component.mkdir(parents=True)
        if shard:
            (component / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    for name in ("one.safetensors", "other.safetensors"):
        save_file({"a": NUMBER}, component / name)


def _vaes(folder: Path) -> None:
    """V2's VAE with the flags of later releases in config.json, SDXL's, and one of V1 and of each later release."""
    for name, change in {
        "v4": {"cache_compression_vae": True},
        "v5": {"slice_mag_vae": False, "cache_mag_vae": True},
    }.items():
        (folder / name).mkdir()
        recorded = golden("v2_mag_vae/mag_vae")
        save_file(recorded.weights, folder / name / "vae.safetensors")
        (folder / name / "config.json").write_text(json.dumps(recorded.config["constructor"] | change))
    recorded = golden("v1_e2e/sd_vae")
    save_file(recorded.weights | embed_config({"scaling_factor": 0.13025}), folder / "sdxl.safetensors")
    save_file(recorded.weights | embed_config(recorded.config["constructor"]), folder / "v1-vae.safetensors")
    for release in ("V4", "V5", "V5.1"):
        kind = getattr(supported_models, f"EasyAnimate{release.replace('.', '')}")
        config = json.loads(json.dumps(kind.vae_config_json(VAE_CONFIGS[release])))
        weights = tiny_release_vae(release).first_stage_model.state_dict()
        weights = {key: tensor.contiguous() for key, tensor in weights.items()}
        save_file(weights | embed_config(config), folder / f"of-{release}.safetensors")


def _transformers(folder: Path) -> None:
    """One with CLIP tokens, one for wider text embeddings, and V5.1's for images and for control videos."""
    with_clip = replace(DIT, caption_channels=32, in_channels=12, clip_tokens=True)
    for name, config in {"with-clip": with_clip, "wide-text": replace(DIT, caption_channels=48)}.items():
        network = transformer(config)
        save_file(network.state_dict() | embed_config(transformer_config(config)), folder / f"{name}.safetensors")
    for name, channels in {"inp": 33, "control": 48}.items():
        release = tiny_mmdit(caption_channels=32, in_channels=channels).model
        config = release.model_config.config_json(release.diffusion_model.config)
        weights = {key: tensor.contiguous() for key, tensor in release.diffusion_model.state_dict().items()}
        save_file(weights | embed_config(config), folder / f"v51-{name}.safetensors")
    motion = {k: v for k, v in network.state_dict().items() if ".attn_temporal." in k}
    save_file({k: v.clone() for k, v in motion.items()}, folder / "narrow-mm.safetensors")


def transformer(config) -> torch.nn.Module:
    network = motion_dit.MotionDiT(config, operations=comfy.ops.disable_weight_init)
    randomise(network)
    return network


def _others(models: Path) -> None:
    """CLIP vision of another width, a ControlNet of another size, no aesthetic predictor, Stable Diffusion."""
    weights = image_encoder() | {"visual_projection.weight": torch.zeros(512, IMAGE_ENCODER["hidden_size"])}
    encoder = models / "clip_vision" / FOLDER / "clip-b"
    encoder.mkdir()
    save_file(weights, encoder / "model.safetensors")
    (encoder / "config.json").write_text(json.dumps(IMAGE_ENCODER | {"projection_dim": 512}))
    pixart_file(models / "controlnet" / FOLDER / "narrow.safetensors")
    weights = load_file(models / "controlnet" / FOLDER / "narrow.safetensors")
    save_file(weights, models / "controlnet" / FOLDER / "heads.safetensors", {"num_attention_heads": "9" * 5000})
    save_file({"head.weight": torch.zeros(3, 768)}, models / "aesthetics" / f"{FOLDER}.safetensors")
    save_file(stable_diffusion(), models / "checkpoints" / FOLDER / "sd15.safetensors")


def stable_diffusion() -> dict[str, Tensor]:
    """Stable Diffusion 1.5 as the host knows it, one block deep; CLIP-L whole, since the host has no smaller one."""
    with torch.device("meta"):
        parts = {
            "model.diffusion_model.": ldm.UNetModel(**UNET, out_channels=4, transformer_depth_output=[1, 1]),
            "cond_stage_model.transformer.": comfy.sd1_clip.SDClipModel(device="meta", dtype=torch.half).transformer,
        }
    weights = {prefix + k: v for prefix, module in parts.items() for k, v in module.state_dict().items()}
    vae = {f"first_stage_model.{k}": v for k, v in comfy.taesd.taesd.TAESD().state_dict().items()}
    return {k: torch.zeros(v.shape, dtype=torch.half) for k, v in (weights | vae).items()}


def _footage(folder: Path) -> None:
    """A data set, others that can't be read, and a captioner that is none."""
    write_clip(folder / DATA / "a.mp4", frames=9, width=64, height=64).with_suffix(".txt").write_text("grey")
    write_image(folder / DATA / "c.png").with_suffix(".txt").write_text("red")
    write_clip(folder / f"{DATA}-silent" / "a.mp4", frames=9)
    (folder / f"{DATA}-empty").mkdir()
    (folder / f"{DATA}-empty" / "list.docx").write_text("no clips")
    for name, (rows, _) in LISTS.items():
        write_clip(folder / f"{DATA}-{name}" / "a.mp4", frames=9)
        (folder / f"{DATA}-{name}" / "metadata.jsonl").write_text(rows + "\n")
    (comfyui.BASE / "models" / "LLM" / FOLDER).mkdir(parents=True)
    (comfyui.BASE / "models" / "LLM" / FOLDER / "config.json").write_text("{}")


def remove() -> None:
    """All that `bad_files` makes, wherever it lies."""
    for root in (comfyui.BASE / "models", comfyui.BASE / "input"):
        for folder in [*root.glob(f"*/{FOLDER}*"), *root.glob(f"{DATA}*")]:
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    with contextlib.suppress(OSError):
        (comfyui.BASE / "models" / "aesthetics").rmdir()


@contextlib.contextmanager
def bad_files() -> Iterator[None]:
    """All of them, and nothing of them afterwards."""
    models = comfyui.BASE / "models"
    remove()
    try:
        (models / "aesthetics").mkdir(exist_ok=True)
        (models / "checkpoints" / FOLDER).mkdir(parents=True)
        for component in MODEL_FOLDERS:
            model_folder(component).mkdir(parents=True)
            _for_every_loader(model_folder(component), component)
        _folders(model_folder("transformer"))
        _transformers(model_folder("transformer"))
        _vaes(model_folder("vae"))
        _releases(models / "easyanimate")
        _others(models)
        _footage(comfyui.BASE / "input")
        yield
    finally:
        remove()
