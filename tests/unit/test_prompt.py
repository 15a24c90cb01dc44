"""The one way from text to conditioning, for our text encoders and for stock ones."""

import comfy.text_encoders.pixart_t5 as pixart
import pytest
import torch

from support.pack import part

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
    return host.clip_with_weights(Target, file.tensors, **options)


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
