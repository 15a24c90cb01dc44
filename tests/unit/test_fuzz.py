"""Files of any content either load or are answered with one of our sentences: no crash, no hang, no code, no memory."""

import functools
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from support.control_arithmetic import pixart_file
from support.footage import write_clip, write_image
from support.mutations import OURS, answered, fuzzed, joined, objects, parts_of, safetensors, spoilt, tomls, values
from support.pack import part
from support.pickles import Call, saved
from support.stand_ins import IMAGE_ENCODER, image_encoder
from support.tiny_text_encoders import BERT, QWEN, bert_and_mt5, qwen, spiece

sd = part("easyanimate_models.sd")
files = part("easyanimate_models.files.model_files")
loras = part("easyanimate_models.lora")
read_checkpoint = part("easyanimate_models.files.checkpoint").read_checkpoint
aesthetics = part("easyanimate_models.data.aesthetics")
dataset_file = part("easyanimate_models.data.dataset_file")
filters = part("easyanimate_models.data.filters")
read_dataset = part("easyanimate_models.training.clips.dataset").read_dataset
recipes = part("easyanimate_models.training.recipe")
data_recipes = part("easyanimate_models.data.recipe")
TINY = files.TINY
PACKAGE = TINY.parent


@functools.cache
def tiny_model():
    return sd.load_transformer(TINY)


def lora_onto_the_tiny_model(path: Path) -> None:
    loras.load_lora(path, tiny_model())


def aesthetic_head(path: Path) -> None:
    aesthetics.read_layers.cache_clear()
    aesthetics.read_layers(path)


def text_encoder_of_a_later_release(path: Path, second: Path | None = None) -> None:
    """All that is done with a file; building the CLIP, which takes the longest, is left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sd, "clip_with_weights", lambda *_, **__: None)
        sd.load_text_encoder(path, second)


@functools.cache
def mt5() -> Path:
    folder = Path(tempfile.mkdtemp())
    save_file(bert_and_mt5(words=64)[1], folder / "model.safetensors")
    (folder / "spiece.model").write_bytes(spiece())
    return folder


LOADERS = {  # kind of file -> loader, file name, and the tensors that it looks at first
    "transformer": (sd.load_transformer, "diffusion_pytorch_model", (
        "pos_embed.proj.weight", "caption_projection.linear_1.weight", "proj_out.weight", "long_connect_fc.0.weight",
        "transformer_blocks.0.attn_temporal.temporal_transformer.proj_in.weight",
    )),
    "vae": (sd.load_vae, "diffusion_pytorch_model", (
        "encoder.down_blocks.0.convs.0.conv1.weight", "encoder.down_blocks.3.convs.0.conv1.weight",
        "decoder.conv_in.weight", "encoder.conv_in.weight",
    )),
    "text_encoder": (sd.load_text_encoder, "model", (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
    )),
    "qwen2_vl": (text_encoder_of_a_later_release, "model", (
        "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.k_proj.bias", "model.embed_tokens.weight",
        "model.layers.0.mlp.gate_proj.weight", "model.norm.weight",
    )),
    "bert": (lambda path: text_encoder_of_a_later_release(path, mt5()), "model", (
        "embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight",
        "encoder.layer.0.intermediate.dense.weight", "embeddings.LayerNorm.weight",
    )),
    "image_encoder": (sd.load_image_encoder, "model", (
        "visual_projection.weight", "vision_model.embeddings.position_embedding.weight",
    )),
    "controlnet": (sd.load_controlnet, "pixart", (
        "controlnet.0.before_proj.weight", "controlnet.0.copied_block.attn.qkv.weight",
    )),
    "lora": (lora_onto_the_tiny_model, "grey", ()),
    "motion_module": (lambda path: sd.load_transformer(TINY / "transformer", path), "motion", (
        "transformer_blocks.0.attn_temporal.temporal_transformer.proj_in.weight",
    )),
    "head": (aesthetic_head, "head", ("layers.0.weight", "layers.0.bias")),
}  # fmt: skip
CONFIGURED = ("transformer", "vae", "text_encoder", "qwen2_vl", "bert", "image_encoder")
MORE = (
    "latent_rgb_bias",
    "uvit_start",
    "scaling_factor",
    "cache_mag_vae",
    "mini_batch_encoder",
    "image_mean",
    "hidden_act",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder for each loader with a file that it loads."""
    root = tmp_path_factory.mktemp("whole")
    for name in ("transformer", "vae", "text_encoder", "lora"):
        shutil.copytree(TINY / name, root / name)
    for name in ("image_encoder", "controlnet", "motion_module", "head", "qwen2_vl", "bert"):
        (root / name).mkdir()
    for name, weights, sizes in (("qwen2_vl", qwen(words=64), QWEN), ("bert", bert_and_mt5(words=64)[0], BERT)):
        save_file(weights, root / name / "model.safetensors")
        config = {**sizes, "vocab_size": 64, "model_type": name}
        (root / name / "config.json").write_text(json.dumps(config))
    save_file(image_encoder(), root / "image_encoder" / "model.safetensors")
    (root / "image_encoder" / "config.json").write_text(json.dumps(IMAGE_ENCODER))
    pixart_file(root / "controlnet" / "pixart.safetensors")
    whole = load_file(TINY / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file({k: v for k, v in whole.items() if ".attn_temporal." in k}, root / "motion_module" / "motion.safetensors")
    shutil.copy(TINY / "transformer" / "config.json", root / "motion_module")
    head = {"layers.0.weight": torch.zeros(8, 32), "layers.0.bias": torch.zeros(8)}
    save_file(
        head | {"layers.2.weight": torch.zeros(1, 8), "layers.2.bias": torch.zeros(1)},
        root / "head" / "head.safetensors",
    )
    return {name: root / name for name in LOADERS}


@pytest.mark.parametrize("kind", LOADERS)
def test_weights(kind, folders, tmp_path):
    read, name, probes = LOADERS[kind]
    file = shutil.copytree(folders[kind], tmp_path / kind) / f"{name}.safetensors"
    assert answered(lambda: read(file)) == ""
    header, data = parts_of(file)

    @fuzzed
    @given(whole=safetensors(header, data, probes))
    def test(whole):
        file.write_bytes(whole)
        answered(lambda: read(file))

    test()


@pytest.mark.parametrize("kind", CONFIGURED)
def test_configs(kind, folders, tmp_path):
    read, name, _ = LOADERS[kind]
    folder = Path(shutil.copytree(folders[kind], tmp_path / kind))
    good = json.loads((folder / "config.json").read_text())

    @fuzzed
    @given(config=objects(good, MORE))
    def test(config):
        (folder / "config.json").write_bytes(config)
        answered(lambda: read(folder))

    test()


NAMES = [
    "a.safetensors", "b.safetensors", "loop.safetensors", "folder.safetensors", "model.safetensors.index.json", "", ".",
    "..", "../a.safetensors", "/etc/passwd", "C:\\a.safetensors", "a.safetensors\0", "x" * 300, "\ud800",
]  # fmt: skip


def test_indices_of_shards(tmp_path):
    tensors = load_file(TINY / "text_encoder" / "model.safetensors")
    half = len(tensors) // 2
    save_file(dict(list(tensors.items())[:half]), tmp_path / "a.safetensors")
    save_file(dict(list(tensors.items())[half:]), tmp_path / "b.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    os.symlink(tmp_path / "loop.safetensors", tmp_path / "loop.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    assert answered(lambda: sd.load_text_encoder(tmp_path)) == ""
    maps = st.dictionaries(st.sampled_from("xyz"), st.sampled_from(NAMES) | values, max_size=3) | values

    @fuzzed
    @given(content=maps.flatmap(lambda names: spoilt(json.dumps({"weight_map": names}).encode())))
    def test(content):
        index.write_bytes(content)
        answered(lambda: sd.load_text_encoder(tmp_path))

    test()


ROW = {
    "file": "a.mp4",
    "text": "a ball",
    "width": 64,
    "height": 48,
    "seconds": 1.0,
    "motion": 4.0,
    "hash": "00ff00ff00ff00ff",
}
FILES = st.sampled_from(
    ["a.mp4", "b.png", "", ".", "..", "../x.mp4", "/etc/passwd", "\0", "\ud800", "x" * 300, "loop.mp4", "a.mp4/x"]
)


@st.composite
def lists(draw) -> bytes:
    """Lines of a list of clips."""
    rows = []
    for _ in range(draw(st.integers(0, 3))):
        row = dict(ROW)
        for key in draw(st.lists(st.sampled_from([*ROW, "file", "rejected", "wrong", "source", "light"]), max_size=3)):
            row[key] = draw(FILES if key == "file" and draw(st.booleans()) else values)
        rows.append(json.dumps(draw(st.sampled_from([row, row, row, [row], 3, None]))).encode())
    return draw(spoilt(draw(st.sampled_from([b"\n", b"\n\n", b", "])).join(rows)))


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.json", "a.txt"])
def test_lists_of_clips(name, tmp_path):
    write_clip(tmp_path / "a.mp4", frames=2)
    write_image(tmp_path / "b.png")
    os.symlink(tmp_path / "loop.mp4", tmp_path / "loop.mp4")

    def prepare():
        rows = dataset_file.read_rows(tmp_path)
        for row in filters.apply_limits(rows, filters.Limits()):
            dataset_file.read_caption(tmp_path / row["file"])
        dataset_file.write_rows(tmp_path / "again", rows)

    @fuzzed
    @given(content=lists())
    def test(content):
        (tmp_path / name).write_bytes(
            content.replace(b'"file"', b'"file_path"') if name == "metadata.json" else content
        )
        answered(prepare)
        answered(lambda: [item.text.encode() for item in read_dataset(tmp_path)])

    (tmp_path / "again").mkdir()
    test()


RECIPES = sorted([*PACKAGE.glob("training/recipes/*.toml"), *PACKAGE.glob("data/recipes/*.toml")])


@pytest.mark.parametrize("recipe", RECIPES[::3], ids=[file.stem for file in RECIPES[::3]])
def test_recipes(recipe, tmp_path):
    read = data_recipes.read_data_recipe if recipe.parent.parent.name == "data" else recipes.read_recipe
    file = tmp_path / "recipe.toml"

    @fuzzed
    @given(content=tomls(recipe.read_text(encoding="utf-8")))
    def test(content):
        file.write_bytes(content)
        answered(lambda: read(file))

    test()


# --- memory ---------------------------------------------------------------------------------------------------------


def resident(what: str) -> int:
    """Bytes of this process in memory: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024


def _header_of(length: int):
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").write_bytes(joined(b"{}", b"", length))
        return folder / "model.safetensors"

    return make


def _told(kind: str, **claims):
    def make(folder: Path) -> Path:
        config = json.loads((folder / kind / "config.json").read_text())
        (folder / kind / "config.json").write_text(json.dumps(config | claims))
        return folder / kind

    return make


def _wide(kind: str, key: str, shape: list[int]):
    """A tensor without numbers that says it is wide."""

    def make(folder: Path) -> Path:
        file = folder / kind / f"{LOADERS[kind][1]}.safetensors"
        header, data = parts_of(file)
        end = header[key]["data_offsets"][1]
        header |= {"else": header[key], key: {"dtype": "F16", "shape": shape, "data_offsets": [end, end]}}
        file.write_bytes(joined(json.dumps(header).encode(), data))
        return file

    return make


def _many_blocks(folder: Path) -> Path:
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {f"transformer_blocks.{i}.x": torch.zeros(1) for i in range(6, 5000)}, file)
    return file


def _packed(folder: Path) -> Path:
    """A pickle that fits into a thousandth of what it grows to."""
    file = folder / "weights.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("weights/data.pkl", b"\x80\x02X" + (2**26).to_bytes(4, "little") + b"a" * 2**26 + b".")
        packed.writestr("weights/version", "3\n")
    return file


def _long(folder: Path) -> Path:
    """A pickle that asks for room for a trillion bytes."""
    (folder / "weights.pt").write_bytes(saved({"a": torch.zeros(1), "b": Call(bytearray, 10**12)}))
    return folder / "weights.pt"


BOMBS = {
    "a header of 2^60 bytes": ("vae", _header_of(2**60)),
    "a header of 99 million bytes": ("vae", _header_of(99_000_000)),
    "a billion layers": ("transformer", _told("transformer", num_layers=10**9)),
    "a billion heads": ("transformer", _told("transformer", num_attention_heads=10**9)),
    "a wide VAE": ("vae", _told("vae", block_out_channels=[10**6] * 4)),
    "a billion words": ("text_encoder", _told("text_encoder", vocab_size=10**9)),
    "a billion layers of CLIP": ("image_encoder", _told("image_encoder", num_hidden_layers=10**9)),
    "a wide CLIP": ("image_encoder", _told("image_encoder", hidden_size=10**6, intermediate_size=10**7)),
    "a CLIP of wide layers": ("image_encoder", _told("image_encoder", intermediate_size=10**9)),
    "a CLIP of large pictures": ("image_encoder", _told("image_encoder", image_size=10**6)),
    "nothing, wide": ("vae", _wide("vae", "encoder.down_blocks.3.convs.0.conv1.weight", [2**20, 0, 3, 3, 3])),
    "patches of nothing": ("transformer", _wide("transformer", "pos_embed.proj.weight", [2**20, 0, 2, 2])),
    "blocks by name": ("transformer", _many_blocks),
    "a packed pickle": ("vae", _packed),
    "a long pickle": ("vae", _long),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not count the most memory")
@pytest.mark.parametrize("bomb", BOMBS)
def test_nothing_is_built_before_it_is_compared(bomb, folders, tmp_path):
    kind, make = BOMBS[bomb]
    shutil.copytree(folders[kind], tmp_path / kind)
    path = make(tmp_path)
    size = sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    assert answered(lambda: LOADERS[kind][0](path)) != ""
    assert resident("VmHWM") - before <= 2 * size + 32 * 2**20


def test_our_sentences_are_the_pack_s_own():
    assert all(issubclass(kind, ValueError) for kind in OURS)
