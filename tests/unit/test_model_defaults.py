"""What a node makes that is left at its defaults: the connected model decides, and what a user chose stays."""

import json

import comfy.sd
import pytest

from support.pack import part
from support.tiny_networks import random, tiny_release_vae, tiny_transformer
from tools.workflows import graphs

sd = part("easyanimate_models.sd")
decoding = part("nodes.decoding")
latents = part("nodes.latents")
sampling = part("nodes.sampling")
RELEASES = {release.latent_format.release: release for release in part("easyanimate_models.supported_models").RELEASES}
TINY = part("easyanimate_models.files.model_files").TINY


def shape(vae=None, width=0, height=0, length=0) -> list[int]:
    """Of the empty latent that the node makes."""
    return list(latents.EasyAnimateEmptyLatent.execute(width, height, length, 1, vae).result[0]["samples"].shape[2:])


@pytest.mark.parametrize("node", ["EasyAnimateEmptyLatent", "EasyAnimateImageToVideo", "EasyAnimateControlToVideo"])
def test_a_new_node_leaves_the_size_to_the_model(node):
    found = next(cls for cls in part("nodes").NODES if cls.__name__ == node).GET_SCHEMA().inputs
    assert {i.id: i.default for i in found if i.id in ("width", "height", "length")} == dict.fromkeys(
        ("width", "height", "length"), 0
    )


@pytest.mark.parametrize(("release", "length"), [("V1", 72), ("V3", 72), ("V4", 72), ("V5", 49), ("V5.1", 49)])
def test_a_release_makes_videos_as_it_was_trained_on(release, length):
    vae = tiny_release_vae(release)
    assert shape(vae) == [vae.plan.latents_for(length), 48, 84]


def test_the_tiny_model_makes_small_videos():
    assert shape(sd.load_vae(TINY / "vae")) == [6, 8, 8]


def test_a_video_plays_as_fast_as_its_model_was_trained():
    rates = {release: frame_rate(tiny_release_vae(release)) for release in RELEASES}
    assert rates == {"V1": 12, "V2": 24, "V3": 24, "V4": 24, "V5": 8, "V5.1": 8}
    assert frame_rate(sd.load_vae(TINY / "vae")) == 12


def frame_rate(vae) -> float:
    """What Decode hands to Create Video."""
    latent = {"samples": random(1, vae.latent_format.latent_channels, 1, 2, 2)}
    return decoding.EasyAnimateDecode.execute(latent, vae, 0).result[1]


def test_every_template_takes_the_frame_rate_of_the_model():
    for workflow in (make() for make in graphs.WORKFLOWS):
        videos = [n["inputs"] for n in workflow.nodes.values() if n["class_type"] == "CreateVideo"]
        assert videos and all(inputs["fps"] == ["decode", 1] for inputs in videos), workflow.name


def test_what_a_user_chose_stays():
    vae = sd.load_vae(TINY / "vae")
    assert shape(vae, 672, 384, 72) == [18, 48, 84]
    assert shape(vae, width=96) == [6, 8, 12]
    assert shape() == [18, 48, 84]  # nothing connected: V3


@pytest.mark.parametrize(("folder", "cfg"), [("transformer", 2.5), ("transformer_inp", 2.0)])
def test_the_tiny_model_has_a_cfg_of_its_own(folder, cfg):
    assert sd.load_transformer(TINY / folder).model.model_config.cfg == cfg


def test_a_release_has_its_cfg():
    assert {name: release.cfg for name, release in RELEASES.items()} == {
        **dict.fromkeys(("V1", "V2", "V3", "V4"), 7.0),
        **dict.fromkeys(("V5", "V5.1"), 6.0),
    }


def test_the_sampler_takes_the_models_own_cfg_only_below_zero(monkeypatch):
    model, taken = tiny_transformer(), []
    monkeypatch.setattr(sampling.comfy.sample, "sample", lambda *a, **k: taken.append(a[3]) or a[8])
    latent = {"samples": random(1, 4, 2, 8, 8)}
    for cfg in (sampling.MODELS_OWN, 0.0, 2.5):
        sampling.EasyAnimateSampler.execute(model, [], [], latent, 0, 1, cfg, "euler", "normal", 1.0)
    assert taken == [7.0, 0.0, 2.5]


def test_what_the_host_saves_keeps_them(tmp_path):
    model, vae = sd.load_transformer(TINY / "transformer"), sd.load_vae(TINY / "vae")
    comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), model, metadata={})
    assert sd.load_transformer(tmp_path / "saved.safetensors").model.model_config.cfg == 2.5
    part("easyanimate_models.files.atomic").write_safetensors(tmp_path / "vae.safetensors", vae.get_sd())
    assert sd.load_vae(tmp_path / "vae.safetensors").video == vae.video


def test_a_wrong_default_in_a_config_is_an_error(tmp_path):
    for file in (TINY / "vae").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"default_width": "wide"}))
    with pytest.raises(ValueError, match="sets default_width to 'wide', which is not a valid whole number"):
        sd.load_vae(tmp_path)
