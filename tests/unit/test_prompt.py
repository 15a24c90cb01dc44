"""The one way from text to conditioning, for our text encoders and for stock ones."""

import re

import comfy.text_encoders.pixart_t5 as pixart
import pytest
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from support.pack import part

model_base = part("easyanimate_models.model_base")
prompt = part("easyanimate_models.text_encoders.prompt")
clean_prompt = part("easyanimate_models.text_encoders.prompt_cleaning").clean_prompt
sd = part("easyanimate_models.sd")
host = part("easyanimate_models.host")
checkpoint = part("easyanimate_models.files.checkpoint")
TINY = part("easyanimate_models.files.model_files").TINY
SHORT, LONG = "a ball", "a Red ball (moves) to the left on a black background"


@pytest.fixture(scope="module")
def ours():
    return sd.load_text_encoder(TINY)


@pytest.fixture(scope="module")
def stock(ours):
    """What the stock CLIPLoader, type pixart, makes of the same weights."""

    class Target:
        params: dict = {}
        clip = pixart.pixart_te(dtype_t5=torch.float16)
        tokenizer = pixart.PixArtTokenizer

    file = checkpoint.read_checkpoint(TINY, "text_encoder")
    sizes = part("easyanimate_models.model_detection").detect_text_encoder(file).sizes
    options = {"tokenizer_data": {}, "parameters": 1, "model_options": {"t5xxl_model_config": sizes}}
    return host.clip_with_weights(Target, [file.tensors], **options)


def test_one_text_is_what_the_host_encodes(ours):
    theirs = ours.encode_from_tokens_scheduled(ours.tokenize(clean_prompt(LONG)))[0]
    found = prompt.encode_prompt(ours, [LONG])[0]
    assert torch.equal(found[0], theirs[0]) and torch.equal(found[1]["attention_mask"], theirs[1]["attention_mask"])


def test_text_can_be_left_as_it_is_typed(ours):
    typed, clean = (prompt.encode_prompt(ours, [LONG], clean)[0][0] for clean in (False, True))
    assert not torch.equal(typed, clean)


def test_a_clip_says_how_its_prompts_are_cleaned(ours, monkeypatch):
    monkeypatch.setattr(type(ours.tokenizer), "clean", staticmethod(lambda text: "another text"))
    assert prompt.cleaned(ours, LONG) == "another text"


def test_a_stock_text_encoder_has_no_mask_and_all_of_it_counts(stock):
    conditioning = prompt.encode_prompt(stock, [LONG])
    assert conditioning[0][1].get("attention_mask") is None
    context, mask = prompt.embeddings_of(conditioning)
    assert mask.shape == context.shape[:2] and bool(mask.all())


def test_texts_of_unequal_length_are_padded_and_masked(stock):
    context, mask = prompt.embeddings_of(prompt.encode_prompt(stock, [SHORT, LONG]))
    alone = [prompt.embeddings_of(prompt.encode_prompt(stock, [text])).context for text in (SHORT, LONG)]
    lengths = [each.shape[1] for each in alone]
    assert lengths[0] < lengths[1] and context.shape[:2] == mask.shape == (2, lengths[1])
    assert mask.sum(1).tolist() == lengths
    for row, each in zip(context, alone, strict=True):
        assert torch.equal(row[: each.shape[1]], each[0]) and not row[each.shape[1] :].any()


def test_prompts_that_stock_nodes_join_are_both_seen(ours):
    """The mask of joined prompts is the first one's; which tokens count is known by the padding."""
    first, second = (prompt.encode_prompt(ours, [text]) for text in (SHORT, LONG))
    ((context, options),) = host_nodes.ConditioningConcat().concat(first, second)[0]
    mask = model_base.text_mask(context, options.get("attention_mask"))
    parts = [prompt.embeddings_of(each).mask[0] for each in (first, second)]
    counts = torch.ones(context.shape[1]) if mask is None else mask[0]
    assert torch.equal(counts.bool(), torch.cat(parts).bool())


def test_prompts_that_stock_nodes_mix_keep_the_tokens_of_both(ours):
    first, second = (prompt.encode_prompt(ours, [text]) for text in (SHORT, LONG))
    for to, source in ((first, second), (second, first)):
        ((context, options),) = host_nodes.ConditioningAverage().addWeighted(to, source, 0.5)[0]
        mask = model_base.text_mask(context, options.get("attention_mask"))
        longest = max(int(prompt.embeddings_of(each).mask.sum()) for each in (first, second))
        assert int(context.shape[1] if mask is None else mask.sum()) == longest


def test_an_empty_embedding_counts_as_a_whole():
    zeros = torch.zeros(1, 5, 8)
    assert model_base.text_mask(zeros, None) is None
    assert torch.equal(model_base.text_mask(zeros, torch.ones(1, 5)), torch.ones(1, 5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("一个红色的球", "Cleaning removed characters that the text encoder can't read .*write in English"),
        ("красный шар", "Cleaning removed characters|text encoder does not know"),
        ("a red ball " * 60, "tokens long and the model reads 120; these words are dropped: .*ball"),
        ("@someone", "Cleaning left nothing of the prompt"),
    ],
)
def test_what_does_not_reach_the_model_is_said(ours, text, said):
    assert re.search(said, "\n".join(prompt.lost_text(ours, text)))


@pytest.mark.parametrize("text", ["", "a red ball on a black background", "Two balls: one is red, 100% round!"])
def test_nothing_is_said_of_a_prompt_that_is_read_whole(ours, text):
    assert prompt.lost_text(ours, text) == []


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a \ufb01ne \ufb02ower", "a fine flower"),
        ("ｒｅｄ　ｂａｌｌ", "red ball"),
        ("\ufeffred\u200b ball", None),
        ("cafe\u0301", "caf\u00e9"),
        ("red\x07 ball", "red ball"),
        ("a 12\u044515 grid", "a grid"),
    ],
)
def test_listed_characters_are_cleaned_as_the_original_does(text, clean):
    assert clean is None or clean_prompt(text) == clean
    assert "\ufeff" not in clean_prompt(text)


def test_a_text_encoder_that_the_host_saved_loads(ours, tmp_path):
    tensors = ours.cond_stage_model.state_dict()
    name = "t5xxl.transformer."
    saved = {key.removeprefix(name): value.contiguous() for key, value in tensors.items() if key.startswith(name)}
    file = tmp_path / "saved.safetensors"
    save_file({**saved, "logit_scale": torch.tensor(4.6)}, file)
    (tmp_path / "config.json").write_text((TINY / "text_encoder" / "config.json").read_text())
    loaded = sd.load_text_encoder(file)
    assert torch.equal(prompt.encode_prompt(loaded, [LONG])[0][0], prompt.encode_prompt(ours, [LONG])[0][0])
