"""V5.1's text encoder: its files in every layout, what is not one, and how prompts are read."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from support import tiny_text_encoders as tiny
from support.pack import part

checkpoint = part("easyanimate_models.files.checkpoint")
detection = part("easyanimate_models.model_detection")
prompt = part("easyanimate_models.text_encoders.prompt")
qwen2_vl = part("easyanimate_models.text_encoders.qwen2_vl")
sd = part("easyanimate_models.sd")
CheckpointError = checkpoint.CheckpointError
TEXT, CHINESE = "A (red:1.4) [ball], Smoothly.", "一只戴着红色帽子的熊猫在竹林里弹吉他"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_qwen(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def clip(folder):
    return sd.load_text_encoder(folder)


def embeddings(clip, text: str = TEXT) -> torch.Tensor:
    return prompt.encode_prompt(clip, [text])[0][0]


def tokens(clip, text: str) -> list[int]:
    (row,) = clip.tokenize(text)["qwen2_vl"]
    assert {weight for _, weight in row} == {1.0}
    return [token for token, _ in row]


def read(clip, ids: list[int]) -> str:
    return clip.tokenizer.qwen2_vl.tokenizer.decode(ids)


@pytest.mark.parametrize("text", [TEXT, CHINESE, "a (cat) and \\n {curly}", " leading space", ""])
def test_prompts_are_read_as_typed_in_the_template(clip, text):
    ids = tokens(clip, text)
    assert len(ids) == 256
    used = ids[: ids.index(qwen2_vl.PADDING)]
    assert read(clip, used) == f"{qwen2_vl.BEFORE}{text}{qwen2_vl.AFTER}"
    assert set(ids[len(used) :]) == {qwen2_vl.PADDING}


@pytest.mark.parametrize("clean", [True, False])
def test_cleaning_changes_nothing(clip, clean):
    assert prompt.cleaned(clip, CHINESE) == CHINESE
    assert torch.equal(prompt.encode_prompt(clip, [TEXT], clean)[0][0], embeddings(clip))
    assert prompt.lost_text(clip, CHINESE, clean) == []


def test_what_is_too_long_is_said(clip):
    (note,) = prompt.lost_text(clip, "word " * 240 + "and more of it: 结尾")
    assert note.startswith("The prompt is 247 tokens long and the model reads 242; these words are dropped: ")
    assert note.endswith("结尾")
    assert prompt.lost_text(clip, "word " * 241) == []  # what is cut of the template is no word of the prompt
    assert len(tokens(clip, "word " * 300)) == 256


def test_what_the_conditioning_holds(clip):
    ((context, options),) = prompt.encode_prompt(clip, [TEXT])
    assert context.shape == (1, 256, 16) and options["attention_mask"].shape == (1, 256)
    assert options["attention_mask"].sum() == len([t for t in tokens(clip, TEXT) if t != qwen2_vl.PADDING])
    assert options[prompt.ENCODED_FOR] == "V5.1"
    assert context.abs().sum(-1).min() > 0  # rows of padding are seen


def test_several_texts_are_rows_of_one_conditioning(clip):
    ((context, options),) = prompt.encode_prompt(clip, [TEXT, CHINESE])
    assert torch.equal(context, torch.cat([embeddings(clip, text) for text in (TEXT, CHINESE)]))
    assert options["attention_mask"].shape == (2, 256) and options[prompt.ENCODED_FOR] == "V5.1"


def test_stock_nodes_take_what_it_gives(clip):
    (stock,) = host_nodes.CLIPTextEncode().encode(clip, TEXT)
    assert torch.equal(stock[0][0], embeddings(clip))
    other = prompt.encode_prompt(clip, [CHINESE])
    assert host_nodes.ConditioningConcat().concat(stock, other)[0][0][0].shape[1] == 512
    assert host_nodes.ConditioningAverage().addWeighted(stock, other, 0.5)[0][0][0].shape[1] == 256


def test_padding_can_stand_at_position_one(folder, clip):
    other = sd.load_text_encoder(folder, padding_positions="one")
    n, index, one = len(tokens(clip, TEXT)), embeddings(clip), embeddings(other)
    n -= tokens(clip, TEXT).count(qwen2_vl.PADDING)
    assert torch.allclose(index[:, :n], one[:, :n], atol=1e-5)
    assert torch.allclose(one[:, n:], one[:, n : n + 1].expand_as(one[:, n:]), atol=1e-5)
    assert not torch.allclose(index[:, n:], one[:, n:], atol=1e-2)


@pytest.mark.parametrize(
    "root", ["model.language_model.", "language_model.model.", "language_model.", "qwen2_vl.transformer.model."]
)
def test_every_naming_of_the_text_tower(clip, root, tmp_path):
    weights = {k.replace("model.", root, 1) if k.startswith("model.") else k: v for k, v in tiny.qwen().items()}
    save_file(weights, tmp_path / "qwen.safetensors")
    assert torch.equal(embeddings(sd.load_text_encoder(tmp_path / "qwen.safetensors")), embeddings(clip))


def test_five_shards_named_by_their_index(clip, tmp_path):
    weights, names = tiny.qwen(), [f"model-{i:05}-of-00005.safetensors" for i in range(1, 6)]
    shards = {name: dict(list(weights.items())[i::5]) for i, name in enumerate(names)}
    for name, shard in shards.items():
        save_file(shard, tmp_path / name)
    index = {"weight_map": {key: name for name, shard in shards.items() for key in shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(embeddings(sd.load_text_encoder(tmp_path)), embeddings(clip))


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 0.9999), (torch.bfloat16, 0.999), (torch.float8_e4m3fn, 0.98)]
)
def test_files_of_any_precision_read_alike(clip, dtype, least, tmp_path):
    save_file({k: v.to(dtype) for k, v in tiny.qwen().items()}, tmp_path / "qwen.safetensors")
    ours = embeddings(sd.load_text_encoder(tmp_path / "qwen.safetensors"))
    assert torch.cosine_similarity(ours.flatten(), embeddings(clip).flatten(), dim=0) > least


def test_scaled_fp8_reads_alike(clip, tmp_path):
    weights = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for key, tensor in tiny.qwen().items():
        weights[key] = tensor
        if key.endswith("_proj.weight") and tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448
            weights[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            weights[key.replace(".weight", ".scale_weight")] = scale
    save_file(weights, tmp_path / "qwen_fp8_scaled.safetensors")
    loaded = sd.load_text_encoder(tmp_path / "qwen_fp8_scaled.safetensors")
    weight = loaded.cond_stage_model.qwen2_vl.transformer.model.layers[0].mlp.up_proj.weight
    assert getattr(weight, "_qdata", weight).dtype == torch.float8_e4m3fn  # 0.33 wraps it, with its scale
    assert torch.cosine_similarity(embeddings(loaded).flatten(), embeddings(clip).flatten(), dim=0) > 0.98


def test_a_file_that_the_host_saved_loads(clip, tmp_path, caplog):
    """As CLIPSave writes it."""
    saved = {key: tensor.contiguous() for key, tensor in clip.get_sd().items()}
    save_file(saved, tmp_path / "saved.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded = sd.load_text_encoder(tmp_path / "saved.safetensors")
    assert caplog.messages == []
    assert torch.equal(embeddings(loaded), embeddings(clip))


def test_qwen25_vl_is_refused(tmp_path):
    vision = {"visual.blocks.0.mlp.gate_proj.weight": torch.ones(2, 2)}
    save_file({**tiny.qwen(), **vision}, tmp_path / "qwen_2.5_vl_7b_fp8_scaled.safetensors")
    with pytest.raises(CheckpointError, match=r"is Qwen2\.5-VL, which has other weights than Qwen2-VL"):
        sd.load_text_encoder(tmp_path / "qwen_2.5_vl_7b_fp8_scaled.safetensors")


def test_another_model_by_its_config_is_refused(tmp_path):
    folder = tiny.write_qwen(tmp_path / "release") / "text_encoder"
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(CheckpointError, match="text_encoder is 'qwen2' according to its config.json, not Qwen2-VL"):
        sd.load_text_encoder(folder)


def test_a_text_tower_alone_could_be_another_model(clip, tmp_path, caplog):
    weights = {k: v for k, v in tiny.qwen().items() if "visual." not in k}
    save_file(weights, tmp_path / "qwen.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded = sd.load_text_encoder(tmp_path / "qwen.safetensors")
    assert "neither a vision tower nor a config.json" in caplog.text
    assert torch.equal(embeddings(loaded), embeddings(clip))


def test_half_a_text_tower_is_refused(tmp_path):
    weights = {k: v for k, v in tiny.qwen().items() if k != "model.layers.2.mlp.up_proj.weight"}
    save_file(weights, tmp_path / "qwen.safetensors")
    with pytest.raises(CheckpointError, match="has 3 parts named model.layers but only|is not a complete Qwen2-VL"):
        sd.load_text_encoder(tmp_path / "qwen.safetensors")


def test_the_published_sizes_load_whole():
    """28 layers of 3584, as in the release's config.json; nothing of it lies in memory."""
    skeleton = qwen2_vl.Qwen2VLText(tiny.QWEN_7B, *tiny.META)
    weights = {**skeleton.state_dict(), "lm_head.weight": torch.empty(152064, 3584, device="meta")}
    file = checkpoint.Checkpoint(tiny.Path("text_encoder"), weights, {"model_type": "qwen2_vl", **tiny.QWEN_7B}, {})
    encoder = detection.detect_text_encoder(file)
    (found,) = encoder.skeletons()
    assert encoder.sizes == tiny.QWEN_7B and len(found.state_dict()) == 28 * 12 + 2
    assert set(checkpoint.require_fit(found, file, encoder.name, encoder.ignored)) == set(found.state_dict())


def test_a_scale_without_its_weight_is_refused(tmp_path):
    """Else its weight would be taken as it is stored."""
    scale = {"language.layers.0.mlp.up_proj.scale_weight": torch.ones(())}
    save_file({**tiny.qwen(), **scale}, tmp_path / "qwen.safetensors")
    with pytest.raises(CheckpointError, match="is quantised in a way that this version of ComfyUI can't read"):
        sd.load_text_encoder(tmp_path / "qwen.safetensors")
