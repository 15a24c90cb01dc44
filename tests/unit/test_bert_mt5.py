"""V4's and V5's text encoders: two files, one CLIP, and the rules of either release."""

import json
import os
import re
import shutil
from contextlib import nullcontext
from pathlib import Path

import comfy_extras.nodes_model_merging as stock_saving
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

import nodes as host_nodes
from support import tiny_text_encoders as tiny
from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part

prompt = part("easyanimate_models.text_encoders.prompt")
sd = part("easyanimate_models.sd")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
TEXT, CHINESE = "A (red:1.4) [ball] moves", "一只熊猫在竹林里"
LONG = "a red ball moves left " * 60


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {release: tiny.write_bert_and_mt5(tmp_path_factory.mktemp(release), release) for release in ("V4", "V5")}


@pytest.fixture(scope="module")
def clips(folders):
    return {release: sd.load_text_encoder(folder) for release, folder in folders.items()}


def encoded(clip, text: str = TEXT) -> dict:
    ((context, options),) = prompt.encode_prompt(clip, [text])
    return {"context": context, **options}


def assert_alike(clip, other, text: str = TEXT) -> None:
    ours, theirs = encoded(clip, text), encoded(other, text)
    assert set(ours) == set(theirs) and ours[prompt.ENCODED_FOR] == theirs[prompt.ENCODED_FOR]
    assert all(torch.equal(ours[k], v) for k, v in theirs.items() if torch.is_tensor(v))


@pytest.mark.parametrize("release", ["V4", "V5"])
def test_a_release_folder_says_whose_rules_hold(clips, release):
    found = encoded(clips[release])
    assert found[prompt.ENCODED_FOR] == release
    assert found["context"].shape == (1, 77, 64) and found["attention_mask"].shape == (1, 77)
    assert found["conditioning_mt5xl"].shape == (1, 256, 16) and found["attention_mask_mt5xl"].shape == (1, 256)


def test_padding_takes_part_in_v5_only(clips):
    v4, v5 = (encoded(clips[release]) for release in ("V4", "V5"))
    for context, mask in (("context", "attention_mask"), ("conditioning_mt5xl", "attention_mask_mt5xl")):
        real = v4[mask][0] == 1
        assert torch.equal(v4[mask], v5[mask]) and 2 < real.sum() < len(real)
        assert not torch.allclose(v4[context][0, real], v5[context][0, real], atol=1e-3)


@pytest.mark.parametrize("release", ["V4", "V5"])
def test_what_the_rows_hold(clips, release):
    """As typed, cut with their end kept; V4's mT5 reads 140 pieces."""
    tokens = clips[release].tokenize(LONG)
    rows = {name: [token for token, weight in row if weight == 1.0] for name, (row,) in tokens.items()}
    assert (len(rows["hydit_clip"]), rows["hydit_clip"][-1]) == (77, 102)
    assert len(rows["mt5xl"]) == 256
    assert rows["mt5xl"].index(1) in (range(130, 141) if release == "V4" else [255])  # a cut word becomes other pieces
    tokenizer = clips[release].tokenizer.mt5xl.tokenizer.tokenizer
    read = clips[release].tokenize(TEXT)
    assert tokenizer.decode([token for token, _ in read["mt5xl"][0] if token > 2]) == TEXT
    assert {weight for (row,) in read.values() for _, weight in row} == {1.0}


@pytest.mark.parametrize(("release", "limit"), [("V4", 141), ("V5", 256)])
def test_what_is_too_long_is_said(clips, release, limit):
    bert, mt5 = prompt.lost_text(clips[release], f"{LONG} the end")
    assert re.match(r"BERT reads 77 tokens of the prompt's 304; only mT5 reads these words: a red .* the end$", bert)
    assert re.match(rf"The prompt is \d+ tokens long and the model reads {limit}; these words are dropped: ", mt5)
    assert mt5.endswith("the end")
    assert prompt.lost_text(clips[release], TEXT) == prompt.lost_text(clips[release], CHINESE) == []


def test_unknown_characters_are_said_and_left_out_by_v4(clips):
    text = "a red \N{GRINNING FACE} ball"
    assert "mT5 does not know 1 parts of the prompt; write them in another way." in prompt.lost_text(clips["V4"], text)
    without, typed = (clips["V4"].tokenize(each)["mt5xl"] for each in ("a red ball", text))
    assert without == typed
    assert 2 in [token for token, _ in clips["V5"].tokenize(text)["mt5xl"][0]]


def test_several_texts_are_rows_of_one_conditioning(clips):
    ((context, options),) = prompt.encode_prompt(clips["V5"], [TEXT, CHINESE])
    alone = [encoded(clips["V5"], text) for text in (TEXT, CHINESE)]
    assert torch.equal(context, torch.cat([each["context"] for each in alone]))
    for key in ("attention_mask", "conditioning_mt5xl", "attention_mask_mt5xl"):
        assert torch.equal(options[key], torch.cat([each[key] for each in alone]))
    assert options[prompt.ENCODED_FOR] == "V5"


def test_stock_nodes_take_what_it_gives(clips):
    clip = clips["V5"]
    (stock,) = host_nodes.CLIPTextEncode().encode(clip, TEXT)
    ours = prompt.encode_prompt(clip, [TEXT])
    assert torch.equal(stock[0][1]["conditioning_mt5xl"], ours[0][1]["conditioning_mt5xl"])
    other = prompt.encode_prompt(clip, [CHINESE])
    assert host_nodes.ConditioningConcat().concat(stock, other)[0][0][0].shape[1] == 154
    assert host_nodes.ConditioningAverage().addWeighted(stock, other, 0.5)[0][0][0].shape[1] == 77


def test_prompts_of_another_release_and_joined_ones_are_told(clips):
    for release, other in (("V4", "V5"), ("V5", "V4")):
        ((context, options),) = prompt.encode_prompt(clips[release], [TEXT])
        prompt.require_text_of(release, {"cross_attn": context, **options})
        with pytest.raises(ValueError, match=f"encoded for {release}, but this transformer is {other}; choose"):
            prompt.require_text_of(other, {"cross_attn": context, **options})
    first, second = (prompt.encode_prompt(clips["V5"], [text]) for text in (TEXT, CHINESE))
    ((context, options),) = host_nodes.ConditioningConcat().concat(first, second)[0]
    with pytest.raises(ValueError, match="Two prompts were joined, but V5 reads each with two text encoders"):
        prompt.require_text_of("V5", {"cross_attn": context, **options})


def test_mixed_prompts_are_refused_unless_all_is_of_one(clips):
    """ConditioningAverage knows BERT's part alone, and keeps mT5's of conditioning_to."""
    to, other = (prompt.encode_prompt(clips["V5"], [text]) for text in (TEXT, CHINESE))
    for strength, mixes in ((1.0, False), (0.5, True), (0.0, True)):
        ((context, options),) = host_nodes.ConditioningAverage().addWeighted(to, other, strength)[0]
        with pytest.raises(ValueError, match="mixed the prompt with another, but V5") if mixes else nullcontext():
            prompt.require_text_of("V5", {"cross_attn": context, **options})


def test_zeroing_out_means_both_texts(clips):
    ((context, options),) = host_nodes.ConditioningZeroOut().zero_out(prompt.encode_prompt(clips["V5"], [TEXT]))[0]
    widths = {"caption_channels": context.shape[-1], "caption_channels_2": tiny.MT5["d_model"]}
    model, noise = tiny_mmdit(**TWO_TEXTS | widths).model, torch.zeros(1, 16, 1, 4, 4)
    for text, is_zero in ((context, True), (options[prompt.FIRST], False)):
        second = model.extra_conds(cross_attn=text, noise=noise, device=noise.device, **options)["context_t5"].cond
        assert (second == 0).all() == is_zero


@pytest.mark.parametrize("release", ["V4", "V5"])
def test_two_files_and_a_choice(folders, clips, release, tmp_path):
    """In models/text_encoders, with spiece.model beside them."""
    files = {name: tmp_path / f"{name}.safetensors" for name in ("text_encoder", "text_encoder_2")}
    for name, file in files.items():
        shutil.copy(folders[release] / name / "model.safetensors", file)
    shutil.copy(folders[release] / "tokenizer_2" / "spiece.model", tmp_path)
    assert_alike(sd.load_text_encoder(*files.values(), release=release), clips[release])
    if release == "V5":
        assert_alike(sd.load_text_encoder(*files.values()), clips[release])


def test_component_folders_know_their_release(folders, clips):
    assert_alike(sd.load_text_encoder(folders["V4"] / "text_encoder"), clips["V4"])
    assert_alike(sd.load_text_encoder(folders["V4"] / "text_encoder" / "model.safetensors"), clips["V4"])
    assert_alike(sd.load_text_encoder(folders["V4"], folders["V4"] / "text_encoder_2", release="V5"), clips["V5"])


@pytest.mark.parametrize("release", ["V4", "V5"])
def test_files_that_clip_save_writes_load(clips, release, tmp_path, monkeypatch):
    """Two, and mT5's holds its vocabulary and says the release."""
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    stock_saving.CLIPSave().save(clips[release], "clip")
    bert, mt5 = (next(tmp_path.glob(f"clip_{name}_*")) for name in ("hydit_clip", "mt5xl"))
    assert_alike(sd.load_text_encoder(bert, mt5), clips[release])


def test_fp8_files_read_alike(folders, clips, tmp_path):
    folder = shutil.copytree(folders["V5"], tmp_path / "V5")
    for name in ("text_encoder", "text_encoder_2"):
        file = folder / name / "model.safetensors"
        small = {k: v.to(torch.float8_e4m3fn) for k, v in load_file(file).items()}
        file.unlink()
        save_file(small, file)
    ours, theirs = encoded(sd.load_text_encoder(folder)), encoded(clips["V5"])
    for key in ("context", "conditioning_mt5xl"):
        assert torch.cosine_similarity(ours[key].flatten(), theirs[key].flatten(), dim=0) > 0.98


def test_one_of_two_may_be_in_scaled_fp8(folders, clips, tmp_path):
    folder = shutil.copytree(folders["V5"], tmp_path / "V5")
    file = folder / "text_encoder_2" / "model.safetensors"
    weights, scaled = load_file(file), {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for key, tensor in weights.items():
        scaled[key] = tensor
        if "DenseReluDense" in key:
            scale = tensor.float().abs().max() / 448
            scaled[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            scaled[key.replace(".weight", ".scale_weight")] = scale
    file.unlink()
    save_file(scaled, file)
    ours, theirs = encoded(sd.load_text_encoder(folder)), encoded(clips["V5"])
    assert torch.equal(ours["context"], theirs["context"])
    found = torch.cosine_similarity(ours["conditioning_mt5xl"].flatten(), theirs["conditioning_mt5xl"].flatten(), dim=0)
    assert 0.98 < found < 0.999999


FIRST, SECOND = "text_encoder", "text_encoder_2"
WRONG = {
    "BERT alone": (
        ["text_encoder"],
        "is BERT, the first of two text encoders of V4 and V5; choose mT5 as text_encoder_2",
    ),
    "the other way round": ([SECOND, FIRST], "is mT5 and .* BERT; swap text_encoder and text_encoder_2"),
    "BERT twice": ([FIRST, FIRST], "is a BERT text encoder, not mT5; choose V4's or V5's text_encoder_2"),
    "mT5 twice": ([SECOND, SECOND], "is a T5 text encoder, not BERT, to which mT5 is the second text encoder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_pairs(folders, tmp_path, name):
    parts, error = WRONG[name]
    paths = []
    for i, folder in enumerate(parts):
        paths.append(tmp_path / f"{i}.safetensors")
        shutil.copy(folders["V5"] / folder / "model.safetensors", paths[-1])
    with pytest.raises(CheckpointError, match=error):
        sd.load_text_encoder(*paths)


def test_vocabularies_that_do_not_fit(folders, tmp_path):
    folder = shutil.copytree(folders["V5"], tmp_path / "V5")
    file = folder / "tokenizer_2" / "spiece.model"
    file.write_bytes(b"not a vocabulary")
    with pytest.raises(CheckpointError, match=r"The spiece.model that belongs to text_encoder_2 is damaged"):
        sd.load_text_encoder(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"spiece.model, mT5's vocabulary, is missing beside text_encoder_2"):
        sd.load_text_encoder(folder)


def test_fewer_words_than_pieces(folders, tmp_path):
    folder = shutil.copytree(folders["V5"], tmp_path / "V5")
    file = folder / "text_encoder_2" / "model.safetensors"
    weights = load_file(file)
    weights["shared.weight"] = weights["shared.weight"][:20].clone()
    file.unlink()
    save_file(weights, file)
    (folder / "text_encoder_2" / "config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=r"has 20 words, but the spiece.model that belongs to it \d+"):
        sd.load_text_encoder(folder)


def test_an_unknown_release(folders):
    with pytest.raises(CheckpointError, match="No release named 'V9' reads prompts with BERT and mT5"):
        sd.load_text_encoder(folders["V5"], release="V9")


@pytest.mark.parametrize("release", ["automatic", "V4", "V5"])
def test_the_loader_offers_folders_and_pairs_of_files(folders, clips, release):
    """The second file is optional, and a release folder needs none."""
    loader = part("nodes.loaders").EasyAnimateLoadTextEncoder
    models = Path(folder_paths.models_dir)
    here, release_folder = models / "text_encoders" / "pair", models / "easyanimate" / "V4-release"
    try:
        here.mkdir(parents=True)
        for name in (FIRST, SECOND):
            shutil.copy(folders["V5"] / name / "model.safetensors", here / f"{name}.safetensors")
        shutil.copy(folders["V5"] / "tokenizer_2" / "spiece.model", here)
        shutil.copytree(folders["V4"], release_folder)
        first, second = (os.path.join("pair", f"{name}.safetensors") for name in (FIRST, SECOND))
        expected = "V5" if release == "automatic" else release
        assert_alike(loader.execute(first, second, release)[0], clips[expected])
        assert_alike(loader.execute("easyanimate/V4-release")[0], clips["V4"])
        assert "easyanimate/V4-release" in part("easyanimate_models.files.model_files").choices("text_encoder_2")
    finally:
        shutil.rmtree(here, ignore_errors=True)
        shutil.rmtree(release_folder, ignore_errors=True)
