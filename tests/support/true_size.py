"""Stand-ins for V1 to V3's files in README's model table: published names, shapes and sizes, random numbers.

A row's files lie among the server's models only while it runs. Everything else that a video needs is as small as fits.
"""

import contextlib
import itertools
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.ops import disable_weight_init
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from tools import comfyui
from tools.workflows.author import node

from .control_arithmetic import pixart_shapes
from .pack import part
from .prompts import BUILT_IN, decode, empty, encode, sampler
from .recorded import manifest
from .releases import VAES, release_files
from .tiny_networks import DIT, randomise

supported_models = part("easyanimate_models.supported_models")
embed_config = part("easyanimate_models.files.checkpoint").embed_config
transformer_config = part("easyanimate_models.configs.motion_dit").transformer_config
MotionDiT = part("easyanimate_models.dit.motion_dit").MotionDiT

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]  # what a weights file holds, by name
FP32, FP16, BF16, FP8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn
NUMBERS = 2**24  # in the random block that is written again and again
SPREAD = 0.02
RANK = 64
SHARD = 5_000_000_000  # bytes that a shard may have
TEXT_WIDTH = 4096
SIDE, FRAMES = 128, 8
SMALL = "easyanimate-small-{}.safetensors"
SMALL_TEXT = SMALL.format("text")
CONTROL = "PixArt-XL-2-1024-ControlNet.pth"
T5, T5_AGAIN = "text_encoder_t5_v1_1_xxl", "encoder.embed_tokens.weight"  # the vocabulary under a second name
SMALL_BLOCK = {
    **dict.fromkeys(("q", "k", "v", "wi_0", "wi_1"), (64, TEXT_WIDTH)),
    **dict.fromkeys(("o", "wo"), (TEXT_WIDTH, 64)),
    "relative_attention_bias": (32, 1),
}
CLIP_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


@dataclass(frozen=True)
class Row:
    """A published model: its files below `models` (weights as `Shapes`, or the content of a JSON).

    `loaders` are the nodes that load it, by the name they have in the graph of `release`. `published` is its size in
    GB where one is known.
    """

    name: str
    release: str
    files: dict[str, dict]
    loaders: dict[str, dict]
    published: float | None = None

    @property
    def component(self) -> str:
        """What the first of `loaders` loads, by its name in the graph."""
        return next(iter(self.loaders))

    @property
    def bytes(self) -> int:
        return sum(size_of(content) for path, content in self.files.items() if not path.endswith(".json"))

    @property
    def memory(self) -> int:
        """Bytes of the weights on a CPU, where bfloat16 becomes float32."""
        dtypes = {BF16: FP32}
        return sum(
            size_of({key: (shape, dtypes.get(dtype, dtype)) for key, (shape, dtype) in content.items()})
            for path, content in self.files.items()
            if not path.endswith(".json")
        )


def size_of(shapes: Shapes) -> int:
    """Bytes of the numbers in a weights file."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values())


def listed(name: str, dtype: torch.dtype) -> Shapes:
    """What a manifest lists, in one precision."""
    return {key: (tuple(shape), dtype) for key, (shape, _) in manifest(name)["keys"].items()}


def of(network: torch.nn.Module, dtype: torch.dtype) -> Shapes:
    """The weights of a network that may lie on the meta device."""
    return {key: (tuple(tensor.shape), dtype) for key, tensor in network.state_dict().items()}


def rows() -> list[Row]:
    """README's table of V1 to V3."""
    return [*_transformers(), _lora(), *_v1(), *_vaes(), *_text_encoders(), *_image_encoders()]


def _transformers() -> list[Row]:
    """V2 and V3 as release folders, and V3 as the flat files without a config.json."""
    found = []
    for release, kind, size, sides in (("V3", "-InP", 7.21, (512, 768, 960)), ("V2", "", 6.84, (512, 768))):
        for side in sides:
            listing = f"{release.lower()}_xl_2{kind.lower().replace('-', '_')}_{side}_transformer"
            name = f"EasyAnimate{release}-XL-2{kind}-{side}x{side}"
            folder, loader = f"easyanimate/{name}/transformer", _transformer(f"easyanimate/{name}")
            files = {f"{folder}/diffusion_pytorch_model.safetensors": listed(listing, FP32)}
            files[f"{folder}/config.json"] = manifest(listing)["config"]
            found.append(Row(name, release, files, loader, size))
            if release == "V3":
                flat = f"{name}-bf16.safetensors"
                files = {f"diffusion_models/{flat}": listed(listing, BF16)}
                found.append(Row(flat, release, files, _transformer(flat), 3.605417))
    return found


def _lora() -> Row:
    """A LoRA of rank 64 in the releases' names, over every linear layer of a block."""
    base, lora = "EasyAnimateV3-XL-2-InP-512x512-bf16.safetensors", "easyanimate-style.safetensors"
    weights, adapters = listed("v3_xl_2_inp_512_transformer", BF16), {}
    for key, (shape, _) in weights.items():
        if key.startswith("transformer_blocks.") and key.endswith(".weight") and len(shape) == 2:
            layer = "lora_unet__" + key.removesuffix(".weight").replace(".", "_")
            adapters[f"{layer}.lora_down.weight"] = ((RANK, shape[1]), FP32)
            adapters[f"{layer}.lora_up.weight"] = ((shape[0], RANK), FP32)
            adapters[f"{layer}.alpha"] = ((), FP32)
    nodes = {
        **_transformer(base),
        "lora": node("EasyAnimateLoadLora", model=["model", 0], lora=lora, strength_model=1.0),
        "sampler": _one_step(model=["lora", 0], positive=["images", 0], negative=["images", 1], latent=["images", 2]),
    }
    return Row(f"a LoRA on {base}", "V3", {f"diffusion_models/{base}": weights, f"loras/{lora}": adapters}, nodes)


def _v1() -> list[Row]:
    """PixArt under both namings, with the motion module and with a ControlNet."""
    base, motion = "PixArt-XL-2-512x512", "easyanimate_v1_mm.safetensors"
    image = listed("v1_base_transformer_pixart_xl2_512", FP32)
    files = {f"easyanimate/{base}/transformer/diffusion_pytorch_model.safetensors": image}
    files[f"diffusion_models/{motion}"] = listed("v1_motion_module", FP32)
    video = _transformer(f"easyanimate/{base}", motion_module=motion)
    sizes = {"hidden_size": 1152, "depth": 28, "caption_channels": TEXT_WIDTH, "micro_condition": False}
    original = of(PixArtMS(**sizes, device="meta", dtype=FP32, operations=disable_weight_init), FP32)
    control = {name: (shape, FP32) for name, shape in pixart_shapes(1152, 13).items()}
    steered = {
        **_transformer(f"{base}.pth"),
        "control": node("EasyAnimateLoadControlNet", control_net=CONTROL),
        "edges": node("LoadImage", image="example.png"),
        "steered": node(
            "ControlNetApplyAdvanced",
            positive=["prompt", 0], negative=["prompt", 1], control_net=["control", 0], image=["edges", 0],
            vae=["vae", 0], strength=1.0, start_percent=0.0, end_percent=1.0,
        ),
        "sampler": _one_step(positive=["steered", 0], negative=["steered", 1]),
    }  # fmt: skip
    pickles = {f"diffusion_models/{base}.pth": original, f"controlnet/{CONTROL}": control}
    return [
        Row(f"{motion} in {base}", "V1", files, video, 4.33 + 2.44),
        Row(f"{base}.pth with {CONTROL}", "V1", pickles, steered),
    ]


def _vaes() -> list[Row]:
    """As released: with what is left of the discriminator that they were trained against."""
    found = []
    for release, listing, size, left in (
        ("V3", "v3_vae", 1.07, 86_000_000), ("V2", "v2_vae", 1.05, 66_000_000), ("V1", "v1_vae_sd_kl", 0.335, 0),
    ):  # fmt: skip
        discriminator = {f"loss.discriminator.{i}.weight": ((left // 56 // 4,), FP32) for i in range(56) if left}
        name = f"EasyAnimate{release}-vae"
        files = {
            f"easyanimate/{name}/vae/diffusion_pytorch_model.safetensors": listed(listing, FP32) | discriminator,
            f"easyanimate/{name}/vae/config.json": manifest(listing)["config"],
        }
        loader = {"vae": node("EasyAnimateLoadVAE", vae=f"easyanimate/{name}")}
        found.append(Row(f"VAE of {release}", release, files, loader, size))
    return found


def _text_encoders() -> list[Row]:
    """The release's two shards, and the single files that other models use, which hold the vocabulary twice."""
    whole = listed(T5, FP16)
    once = {key: content for key, content in whole.items() if key != T5_AGAIN}
    fp8 = {key: (shape, FP8) for key, (shape, _) in whole.items()}
    scaled = {"scaled_fp8": ((0,), FP8)}
    for key, (shape, _) in whole.items():
        linear = len(shape) == 2 and "block." in key and "bias" not in key
        scaled[key] = (shape, FP8 if linear else FP16)
        if linear:
            scaled[key.removesuffix("weight") + "scale_weight"] = ((), FP32)
    folder, name = "easyanimate/EasyAnimateV3-t5", "T5 in shards"
    files = {f"{folder}/text_encoder/{file}": content for file, content in sharded(once).items()}
    files[f"{folder}/text_encoder/config.json"] = manifest(T5)["config"]
    singles = {"t5xxl_fp16": (whole, 9.79), "t5xxl_fp8_e4m3fn": (fp8, 4.89), "t5xxl_fp8_e4m3fn_scaled": (scaled, 5.16)}
    return [
        Row(name, "V3", files, _text(folder), 4.99 + 4.53),
        *(
            Row(file, "V3", {f"text_encoders/{file}.safetensors": content}, _text(f"{file}.safetensors"), size)
            for file, (content, size) in singles.items()
        ),
    ]


def _image_encoders() -> list[Row]:
    """The whole CLIP ViT-L/14, as the releases have it and as a safetensors file, and its vision half."""
    sizes = manifest("image_encoder_clip_vit_l14")["config"]
    config = {"model_type": "clip", "projection_dim": 768, "text_config": CLIP_TEXT, "vision_config": sizes}
    with torch.device("meta"):
        whole = of(CLIPModel(CLIPConfig(**config)), FP32)
    half = listed("image_encoder_clip_vit_l14", FP16)
    pickled, safe = (f"easyanimate/EasyAnimateV3-{kind}/image_encoder" for kind in ("clip-pickle", "clip-safetensors"))
    return [
        _image_row("CLIP, pickled", {f"{pickled}/pytorch_model.bin": whole, f"{pickled}/config.json": config}, 1.71),
        _image_row("CLIP, safetensors", {f"{safe}/model.safetensors": whole, f"{safe}/config.json": config}, 1.71),
        _image_row("CLIP, vision half", {"clip_vision/clip_vision_l.safetensors": half}, 0.61),
    ]


def _image_row(name: str, files: dict[str, dict], size: float) -> Row:
    first = Path(next(iter(files)))
    choice = first.name if first.parts[0] == "clip_vision" else f"easyanimate/{first.parts[1]}"
    nodes = {
        "image_encoder": node("EasyAnimateLoadImageEncoder", image_encoder=choice),
        "start": node("LoadImage", image="example.png"),
        "view": node("CLIPVisionEncode", clip_vision=["image_encoder", 0], image=["start", 0], crop="center"),
        "images": _images(start_image=["start", 0], clip_vision_output=["view", 0], clip_start_percent=0.0),
    }
    return Row(name, "V3", files, nodes, size)


def _transformer(name: str, **inputs) -> dict:
    return {"model": node("EasyAnimateLoadTransformer", transformer=name, weight_dtype="default", **inputs)}


def _text(name: str) -> dict:
    return {"clip": node("EasyAnimateLoadTextEncoder", text_encoder=name)}


def _images(**inputs) -> dict:
    links = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0]}
    size = {"width": SIDE, "height": SIDE, "length": FRAMES, "batch_size": 1}
    return node("EasyAnimateImageToVideo", **links, **size, **inputs)


def _one_step(**inputs) -> dict:
    return sampler(**{"steps": 1, "seed": 1, "cfg": 6.0} | inputs)


def graph(release: str) -> dict:
    """Text to pictures in one step, with the smallest files that a release's graph takes."""
    vae = BUILT_IN if release == "V3" else VAES[release]
    nodes = {
        **_transformer(SMALL.format(release)),
        **_text(SMALL_TEXT),
        "vae": node("EasyAnimateLoadVAE", vae=vae),
        "prompt": encode(),
        "empty": empty(FRAMES, SIDE, SIDE, vae=["vae", 0]),
        "sampler": _one_step(),
        "decode": decode(),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="tests/true-size"),
    }
    if release == "V3":
        del nodes["empty"]
        nodes["images"] = _images()
        nodes["sampler"] = _one_step(positive=["images", 0], negative=["images", 1], latent=["images", 2])
    return nodes


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """A transformer of each release and a text encoder of T5's width, among the models for as long as this lasts."""
    models = comfyui.BASE / "models"
    inpainting = {"in_channels": 12, "clip_tokens": True}
    for release, changed in (("V1", {"skips": None}), ("V2", {}), ("V3", inpainting)):
        motion = getattr(supported_models, f"EasyAnimate{release}").motion
        config = replace(DIT, caption_channels=TEXT_WIDTH, motion=motion, **changed)
        network = MotionDiT(config, operations=disable_weight_init)
        randomise(network)
        file = models / "diffusion_models" / SMALL.format(release)
        save_file(network.state_dict() | embed_config(transformer_config(config)), file)
    _write(_small_text(), models / "text_encoders" / SMALL_TEXT)
    try:
        with release_files():
            yield
    finally:
        for file in models.glob(f"*/{SMALL.format('*')}"):
            file.unlink()


def _small_text() -> Shapes:
    """T5 with one block of one head and 64 features, and its whole vocabulary."""
    small = {}
    for key, (shape, dtype) in listed(T5, FP16).items():
        if key != T5_AGAIN and ("block." not in key or "block.0." in key):
            small[key] = (SMALL_BLOCK.get(key.split(".")[-2], shape), dtype)
    return small


@contextlib.contextmanager
def written(row: Row) -> Iterator[None]:
    """The files of a row among the server's models, for as long as this lasts."""
    models = comfyui.BASE / "models"
    try:
        for path, content in row.files.items():
            _write(content, models / path)
        yield
    finally:
        for path in row.files:
            (models / path).unlink(missing_ok=True)
        for folder in {Path(path).parts[1] for path in row.files if path.startswith("easyanimate/")}:
            shutil.rmtree(models / "easyanimate" / folder, ignore_errors=True)


def sharded(shapes: Shapes) -> dict[str, dict]:
    """The same in shards of at most `SHARD` bytes and an index, named as the releases name them."""
    parts: list[Shapes] = [{}]
    for key, content in shapes.items():
        if size_of(parts[-1]) + size_of({key: content}) > SHARD:
            parts.append({})
        parts[-1][key] = content
    named = {f"model.fp16-{i:05d}-of-{len(parts):05d}.safetensors": shard for i, shard in enumerate(parts, 1)}
    weight_map = {key: name for name, shard in named.items() for key in shard}
    index = {"metadata": {"total_size": size_of(shapes)}, "weight_map": weight_map}
    return {**named, "model.safetensors.index.json": index}


@cache
def _numbers(dtype: torch.dtype) -> torch.Tensor:
    """Small random numbers, the same every time."""
    return (torch.randn(NUMBERS, generator=torch.Generator().manual_seed(0)) * SPREAD).to(dtype)


def _write(content: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    elif path.suffix == ".safetensors":
        _write_safetensors(content, path)
    else:
        torch.save({key: _tensor(*each) for key, each in content.items()}, path)


def _tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    count = math.prod(shape)
    return _numbers(dtype).repeat(math.ceil(count / NUMBERS))[:count].clone().reshape(shape)


def _write_safetensors(shapes: Shapes, path: Path) -> None:
    """Tensor after tensor out of one block of random numbers, so that next to no memory is needed."""
    names = {FP32: "F32", FP16: "F16", BF16: "BF16", FP8: "F8_E4M3"}
    ends = list(itertools.accumulate(size_of({key: content}) for key, content in shapes.items()))
    header = {
        key: {"dtype": names[dtype], "shape": list(shape), "data_offsets": [start, end]}
        for (key, (shape, dtype)), start, end in zip(shapes.items(), [0, *ends], ends, strict=False)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape, dtype in shapes.values():
            left, block = math.prod(shape) * dtype.itemsize, memoryview(_numbers(dtype).view(torch.uint8).numpy())
            while left > 0:
                left -= file.write(block[:left])
