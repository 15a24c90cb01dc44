"""Recorded models through the real loaders, and how recorded inputs go into them."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import comfy.cli_args
import comfy.ops
import numpy as np
import pytest
import torch
from PIL import Image

from .components import write_component
from .pack import part
from .recorded import Golden, model_of, recorded
from .tiny_text_encoders import spiece

sd = part("easyanimate_models.sd")
detect_transformer = part("easyanimate_models.model_detection").detect_transformer
INPUTS = {  # the original's names of the transformer's inputs -> ours
    "encoder_hidden_states": "context",
    "text_embedding_mask": "attention_mask",
    "encoder_hidden_states_t5": "context_t5",
    "text_embedding_mask_t5": "attention_mask_t5",
    "clip_encoder_hidden_states": "clip_embeds",
    "clip_attention_mask": "clip_mask",
    "resolution": "resolution",
    "aspect_ratio": "aspect_ratio",
    "image_meta_size": "image_meta_size",
    "style": "style",
}


class Loaders:
    """Recorded models as our loaders load them, in float32, by name; each is loaded once."""

    def __init__(self, new_folder: Callable[[], Path]):
        def folder_of(name: str) -> Path:
            """The component folder that a release would hold."""
            return write_component(new_folder(), *with_whole_vocabulary(recorded(model_of(name))))

        def text_encoder_in_float32(name: str):
            with float32_text_encoder():
                return sd.load_text_encoder(folder_of(name))

        self.transformer = functools.cache(lambda name: sd.load_transformer(folder_of(name), weight_dtype="fp32"))
        self.network = functools.cache(lambda name: network_in(folder_of(name)))
        self.vae = functools.cache(lambda name: sd.load_vae(folder_of(name)))
        self.text_encoder = functools.cache(lambda name: sd.load_text_encoder(folder_of(name)))
        self.text_encoder_in_float32 = functools.cache(text_encoder_in_float32)

        def bert_mt5(bert: str, mt5: str, release: str):
            """Both, with a vocabulary of as many words as were recorded."""
            folder = folder_of(mt5)
            (folder / "spiece.model").write_bytes(spiece(len(recorded(mt5).weights["shared.weight"])))
            with float32_text_encoder():
                return sd.load_text_encoder(folder_of(bert), folder, release=release)

        self.bert_mt5 = functools.cache(bert_mt5)
        self.qwen2_vl = functools.cache(
            lambda name, padding: sd.load_text_encoder(folder_of(name), padding_positions=padding)
        )
        self.image_encoder = functools.cache(lambda name: sd.load_image_encoder(folder_of(name)))


def with_whole_vocabulary(model: Golden) -> tuple[dict[str, torch.Tensor], dict]:
    """Weights and config of a recorded model; the rows of a vocabulary that was cut go back to where they were."""
    token_ids, config = model.tensors.get("inputs.kept_token_ids"), model.config["constructor"]
    if token_ids is None:
        return model.weights, config
    size, weights = int(token_ids.max()) + 1, dict(model.weights)
    for key in weights:
        if key.endswith(("embed_tokens.weight", "word_embeddings.weight")):
            words = torch.zeros(size, weights[key].shape[1], dtype=torch.float16)
            words[token_ids] = weights[key].half()
            weights[key] = words
    return weights, {**config, "vocab_size": size}


def network_in(folder: Path) -> torch.nn.Module:
    """The network of a transformer folder by itself, in float32, with all its weights and no others."""
    checkpoint = sd.read_transformer(folder)
    release = detect_transformer(checkpoint)
    network = release.network(release.config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    network.load_state_dict(checkpoint.tensors)
    return network.requires_grad_(False)


@contextlib.contextmanager
def float32_text_encoder() -> Iterator[None]:
    """By default the host keeps text encoders in float16, which holds recorded weights exactly, but no LoRA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.cli_args.args, "fp32_text_enc", True)
        yield


def predict(network, inputs: dict[str, torch.Tensor], *left_out: str) -> torch.Tensor:
    """What a transformer makes of recorded inputs, without those that are `left_out`."""
    x = torch.cat([inputs[k] for k in ("hidden_states", "inpaint_latents", "control_latents") if k in inputs], dim=1)
    named = {INPUTS[k]: v for k, v in inputs.items() if k in INPUTS and k not in left_out}
    return network(x, inputs["timestep"], **named)


def noise_in(sample: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The predicted noise in a recorded output, whose other half is the learnt variance that nobody uses."""
    return sample[:, : inputs["hidden_states"].shape[1]]


def encode_ids(clip, ids: torch.Tensor) -> dict:
    """What a text encoder makes of one row of recorded token ids, with its mask."""
    return clip.encode_from_tokens({"t5xxl": [[(int(i), 1.0) for i in ids]]}, return_dict=True)


def prepare(image: torch.Tensor, processor: dict) -> torch.Tensor:
    """An image `[H, W, 3]` in 0..255, resized and cropped by Pillow as a recorded image processor says; in 0..1."""
    whole = Image.fromarray(image.numpy())
    scale = processor["size"]["shortest_edge"] / min(whole.size)
    whole = whole.resize((int(whole.width * scale), int(whole.height * scale)), processor["resample"])
    width, height = processor["crop_size"]["width"], processor["crop_size"]["height"]
    left, top = (whole.width - width) // 2, (whole.height - height) // 2
    cropped = whole.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(cropped)).float() / 255
