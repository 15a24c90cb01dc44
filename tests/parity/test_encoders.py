"""Embeddings of the original's text encoder and image encoder, met by ours through the real loaders."""

import re

import torch

from support.pack import part
from support.parity import encode_ids, prepare
from support.recorded import config_of, each, names, recorded, shapes_of, texts_of

encode_prompt = part("easyanimate_models.text_encoders.prompt").encode_prompt

IDS = "inputs.input_ids"
TEXTS = [(name, row) for name in names("text encoder") for row in range(shapes_of(name).get(IDS, [0])[0])]
IMAGE = re.compile(r"inputs\.(\w+)_uint8")
IMAGES = [(n, found[1]) for n in names("image encoder") for key in shapes_of(n) if (found := IMAGE.fullmatch(key))]


@each("name, row", TEXTS)
def test_t5_gives_the_recorded_hidden_states_under_its_mask(load, agree, name, row):
    tensors = recorded(name).tensors
    mask = tensors["inputs.attention_mask"][row]
    encoded = encode_ids(load.text_encoder(name), tensors[IDS][row])
    assert torch.equal(encoded["attention_mask"], mask[None])
    ours, theirs = encoded["cond"][0], tensors["outputs.last_hidden_state"][row]
    agree(name, None, f"row {row}", ours[mask == 1], theirs[mask == 1])


@each("name, file, case", texts_of("Qwen2-VL"))
def test_qwen2_vl_gives_the_recorded_hidden_states(load, agree, name, file, case):
    """From the prompt on; rows of padding too, which the transformer sees. Some recordings hold the first rows only."""
    inputs, prompt = recorded(file).inputs(case), config_of(file)["cases"][case]["prompt"]
    by_index = torch.equal(inputs["position_ids"].flatten(), torch.arange(inputs["position_ids"].numel()))
    clip = load.qwen2_vl(name, "index" if by_index else "one")
    (row,) = clip.tokenize(prompt)["qwen2_vl"]
    assert [token for token, _ in row] == inputs["input_ids"][0].tolist()
    ((context, options),) = encode_prompt(clip, [prompt])
    assert torch.equal(options["attention_mask"], inputs["attention_mask"]) and context.shape[1] == len(row)
    theirs = recorded(file).outputs(case)["hidden_states_minus2"]
    agree(file, case, "hidden states", context[:, : theirs.shape[1]], theirs)


@each("name, image", IMAGES)
def test_the_image_encoder_gives_the_recorded_embedding(load, agree, name, image):
    """Of an image prepared by Pillow as the original does it; the host's own resizing differs a little."""
    encoder, tensors = load.image_encoder(name), recorded(name).tensors
    pixels, theirs = tensors[f"inputs.{image}_uint8"], tensors[f"outputs.{image}_image_embeds"]
    prepared = prepare(pixels, recorded(name).config["image_processor"])
    agree(name, None, image, encoder.encode_image(prepared[None])["image_embeds"], theirs)
