"""LoRA files that the original's training saved, merged by the host: weights and outputs as recorded."""

import pytest
import torch
from safetensors.torch import load_file

from support.components import Patched
from support.loras import NAMINGS
from support.pack import part
from support.parity import encode_ids, noise_in, predict
from support.recorded import RECORDED, config_of, each, names, recorded, relative_error, shapes_of, texts_of, tolerance

lora, sd = part("easyanimate_models.lora"), part("easyanimate_models.sd")
TINY = part("easyanimate_models.files.model_files").TINY
OF_BERT = [name for name in names("LoRA") if config_of(name)["base_model"] in names("BERT")]
LORAS = [name for name in names("LoRA") if name not in OF_BERT]
STATES, MASK = "outputs.last_hidden_state", "inputs.attention_mask"
MERGED_TEXT = "outputs.t5_last_hidden_state_after_merge"
CHANGED = 10  # tolerances


def file_of(name: str):
    """The file that a recording names, before any remark; else the one beside it."""
    named = RECORDED / config_of(name).get("lora_file", "").split(" ")[0]
    return named if named.is_file() else (RECORDED / name).with_name("lora.safetensors")


@pytest.fixture(scope="module")
def merge(load):
    """The recorded base model with a LoRA, at the recorded multiplier."""

    def merged(name: str):
        base = load.transformer(config_of(name)["base_model"])
        return lora.load_lora(file_of(name), base, strength_model=config_of(name)["multiplier"])[0]

    return merged


@each("name", LORAS)
def test_the_output_is_that_of_the_original(merge, agree, name):
    base, case = recorded(config_of(name)["base_model"]), config_of(name)["case_of_base_model"]
    inputs, theirs = base.inputs(case), recorded(name).outputs(case)["sample_after_merge"]
    with Patched(merge(name)) as patched:
        ours = predict(patched.diffusion_model, inputs)
    agree(name, None, "output", ours, noise_in(theirs, inputs))
    assert relative_error(
        noise_in(base.outputs(case)["sample"], inputs), noise_in(theirs, inputs)
    ) > CHANGED * tolerance(name)


@each("name", LORAS)
def test_the_merged_weights_are_those_of_the_formula(merge, name):
    """The record kept weights from after unmerging, so its formula stands for those in between."""
    tensors, original = load_file(file_of(name)), recorded(config_of(name)["base_model"]).weights
    with Patched(merge(name)) as patched:
        weights = {k: v.clone() for k, v in patched.diffusion_model.state_dict().items()}
    changed = {k for k, v in weights.items() if not torch.equal(v, original[k])}
    assert changed == {k for k in config_of(name)["changed_weights"] if k in weights}
    assert len(changed) == sum(key.startswith("lora_unet") and key.endswith(".alpha") for key in tensors)
    for key in changed:
        layer = NAMINGS["easyanimate"](key.removesuffix(".weight"))
        up, down, alpha = (tensors[f"{layer}.{end}"].float() for end in ("lora_up.weight", "lora_down.weight", "alpha"))
        scale = config_of(name)["multiplier"] * alpha / down.shape[0]
        assert relative_error(weights[key], original[key] + scale * up @ down) <= tolerance(name), key


@each("name", [name for name in LORAS if MERGED_TEXT in shapes_of(name)])
def test_the_text_encoder_changes_as_recorded(load, agree, name):
    """The record doesn't say which text encoder it was: one of those whose hidden states have its shape."""
    theirs = recorded(name).tensors[MERGED_TEXT]
    texts = [text for text in names("text encoder") if shapes_of(text).get(STATES) == list(theirs.shape)]
    if not texts:
        pytest.skip(f"{RECORDED} holds no text encoder for {name}")
    base = load.transformer(config_of(name)["base_model"])
    closest: dict[float, tuple] = {}
    for text in texts:
        plain = load.text_encoder_in_float32(text)
        _, clip = lora.load_lora(file_of(name), base, plain, strength_clip=config_of(name)["multiplier"])
        before, after = (states_of(encoder, text) for encoder in (plain, clip))
        expected = theirs[recorded(text).tensors[MASK] == 1]
        closest[relative_error(after, expected)] = before, after, expected
    before, after, expected = closest[min(closest)]
    agree(name, None, "text", after, expected)
    assert relative_error(before, expected) > CHANGED * tolerance(name)


@each("name", OF_BERT)
def test_bert_changes_as_recorded(load, agree, name):
    """As V4's and V5's training saved it, in which mT5 does not learn. Only the first rows are recorded."""
    base, case = config_of(name)["base_model"], config_of(name)["case_of_base_model"]
    plain = load.bert_mt5(base, texts_of("text encoder")[0][0], case.split("_")[0].upper())
    multiplier = config_of(name)["multiplier"]
    _, clip = lora.load_lora(file_of(name), sd.load_transformer(TINY), plain, strength_clip=multiplier)
    tokens = {"hydit_clip": recorded(base).inputs(case)["input_ids"][0].tolist(), "mt5xl": [1, *[0] * 255]}
    rows = {encoder: [[(token, 1.0) for token in row]] for encoder, row in tokens.items()}
    theirs = recorded(name).outputs(case)["last_hidden_state_after_merge"]
    before, after = (each.encode_from_tokens(rows)[:, : theirs.shape[1]] for each in (plain, clip))
    agree(name, case, "text", after, theirs)
    assert relative_error(before, theirs) > CHANGED * tolerance(name)


def states_of(clip, text: str) -> torch.Tensor:
    """Hidden states of all recorded texts, one after the other, without padding."""
    tensors = recorded(text).tensors
    states = torch.cat([encode_ids(clip, ids)["cond"] for ids in tensors["inputs.input_ids"]])
    return states[tensors[MASK] == 1]
