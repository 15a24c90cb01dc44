"""CLIP vision from a release's `image_encoder`, pickled or not, read as weights and never run."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from support.pack import part
from support.parity import prepare
from support.pickles import Call
from support.recorded import golden, relative_error

sd = part("easyanimate_models.sd")
files = part("easyanimate_models.files.model_files")
checkpoint = part("easyanimate_models.files.checkpoint")
RECORDED = "v3_e2e/clip_vision"


@pytest.fixture
def folder(tmp_path):
    """A release folder whose image encoder has a config.json, and no weights yet."""
    path = tmp_path / "EasyAnimateV3" / "image_encoder"
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(golden(RECORDED).config["constructor"]))
    return path


def pickled(folder: Path, weights: dict) -> None:
    torch.save(weights, folder / "pytorch_model.bin")


@pytest.mark.parametrize("save", [pickled, lambda folder, w: save_file(w, folder / "model.safetensors")])
@pytest.mark.parametrize("by", ["release", "component", "file"])
def test_every_layout_loads(folder, save, by):
    recorded = golden(RECORDED)
    save(folder, {**recorded.weights, "vision_model.embeddings.position_ids": torch.arange(50)[None]})
    path = {"release": folder.parent, "component": folder, "file": next(folder.glob("*model.*"))}[by]
    encoder = sd.load_image_encoder(path)
    loaded = encoder.model.state_dict()
    assert set(loaded) == set(recorded.weights)
    assert all(torch.equal(loaded[k].float(), w) for k, w in recorded.weights.items())


def test_the_host_prepares_images_nearly_as_pillow_does(folder):
    recorded = golden(RECORDED)
    save_file(recorded.weights, folder / "model.safetensors")
    encoder, image = sd.load_image_encoder(folder), recorded.tensors["inputs.img0_uint8"]
    by_pillow = prepare(image, recorded.config["image_processor"])
    ours, theirs = (encoder.encode_image(x[None])["image_embeds"] for x in (image.float() / 255, by_pillow))
    assert relative_error(ours, theirs) < 5e-3


def test_a_pickle_is_never_run(folder, tmp_path):
    sprung = tmp_path / "sprung"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Call(Path.touch, sprung)))
    with pytest.raises(checkpoint.CheckpointError, match=r"pytorch_model\.bin"):
        sd.load_image_encoder(folder)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(1)}, "is a T5 text encoder, not a CLIP vision"),
        ({"visual_projection.weight": torch.zeros(768, 24)}, "is not a complete CLIP ViT-L/14 vision model"),
    ],
)
def test_another_file_is_named(folder, weights, message):
    pickled(folder, weights)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        sd.load_image_encoder(folder)


def test_releases_with_an_image_encoder_are_offered(folder, monkeypatch):
    import folder_paths

    root = folder.parent.parent
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "easyanimate", ([str(root)], set()))
    offered = files.choices("image_encoder")
    assert offered["easyanimate/EasyAnimateV3"] == folder.parent
    assert files.BUILT_IN not in offered


@pytest.mark.parametrize("nested", [True, False], ids=["CLIPModel's config", "the vision model's config"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole CLIP", "vision half"])
def test_a_whole_clip_is_its_vision_half(tmp_path, nested, whole):
    """The hub's CLIP ViT-L/14 holds text and vision, and its config.json has one for each."""
    recorded = golden(RECORDED)
    config, text = dict(recorded.config["constructor"]), {}
    if whole:
        text = {"text_model.embeddings.token_embedding.weight": torch.zeros(9, 8), "logit_scale": torch.tensor(4.6)}
        text["text_projection.weight"] = torch.zeros(8, 8)
    if nested:
        width = config.pop("projection_dim")
        config = {"model_type": "clip", "projection_dim": width, "vision_config": config, "text_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pickled(tmp_path, recorded.weights | text)
    loaded = sd.load_image_encoder(tmp_path).model.state_dict()
    assert set(loaded) == set(recorded.weights)
    assert all(torch.equal(loaded[k].float(), w) for k, w in recorded.weights.items())
