"""A real ComfyUI server runs the shipped workflow, and stock nodes stand in for ours at every station."""

import json
from pathlib import Path

import pytest

from support.pack import ROOT, part
from support.prompts import CFG, PROMPT, decode, empty, encode, ksampler, sampler, text_to_video
from support.videos import assert_shows, first_video
from tools import comfyui
from tools.workflows import client, graphs
from tools.workflows.author import node

WORKFLOW = ROOT / "workflows" / f"{graphs.text_to_video_tiny().name}.json"


def test_the_shipped_workflow_makes_what_its_prompt_says(server):
    progress = []
    outputs = client.run(server, client.load(server, WORKFLOW), lambda *event: progress.append(event))
    assert_shows(first_video(outputs))
    assert ("EasyAnimateSampler", 25, 25) in progress
    assert ("EasyAnimateDecode", 3, 3) in progress


def test_another_prompt_makes_another_video(server):
    prompt = client.load(server, WORKFLOW)
    encoder = next(n for n in prompt.values() if n["class_type"] == "EasyAnimateEncodePrompt")
    encoder["inputs"]["positive"] = "a green square goes down"
    assert_shows(first_video(client.run(server, prompt)), "green", "down")


def test_the_template_browser_offers_the_workflows(server):
    templates = client.get(server, "/workflow_templates")
    offered = [name for pack, names in templates.items() if pack == comfyui.PACK for name in names]
    assert sorted(offered) == sorted(path.stem for path in WORKFLOW.parent.glob("*.json"))


STOCK = {
    "KSampler": {"sampler": ksampler()},
    "SamplerCustomAdvanced": {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("CFGGuider", model=["model", 0], positive=["prompt", 0], negative=["prompt", 1], cfg=CFG),
        "method": node("KSamplerSelect", sampler_name="dpmpp_2m"),
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=25, denoise=1.0),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["method", 0],
            sigmas=["sigmas", 0],
            latent_image=["empty", 0],
        ),
    },
    "CLIPTextEncode": {
        "prompt": node("CLIPTextEncode", clip=["clip", 0], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["clip", 0], text=""),
        "sampler": sampler(negative=["negative", 0]),
    },
    "EmptyHunyuanLatentVideo": {
        "empty": node("EmptyHunyuanLatentVideo", width=64, height=64, length=21, batch_size=1),
    },
    "VAEDecode": {"decode": node("VAEDecode", samples=["sampler", 0], vae=["vae", 0])},
    "VAEDecodeTiled": {
        "decode": node(
            "VAEDecodeTiled",
            samples=["sampler", 0],
            vae=["vae", 0],
            tile_size=64,
            overlap=16,
            temporal_size=64,
            temporal_overlap=8,
        )
    },
}


@pytest.mark.parametrize("kind", STOCK)
def test_a_stock_node_works_in_the_place_of_ours(server, kind):
    assert_shows(first_video(client.run(server, text_to_video(**STOCK[kind]))))


@pytest.mark.parametrize(
    "encoder",
    [
        node("VAEEncode", pixels=["decode", 0], vae=["vae", 0]),
        node("EasyAnimateEncode", images=["decode", 0], vae=["vae", 0], tile_size=0),
    ],
    ids=["VAEEncode", "EasyAnimateEncode"],
)
def test_a_video_encoded_and_decoded_is_the_same_video(server, encoder):
    again = {
        "encode": encoder,
        "again": node("VAEDecode", samples=["encode", 0], vae=["vae", 0]),
        "video": node("CreateVideo", images=["again", 0], fps=24),
    }
    assert_shows(first_video(client.run(server, text_to_video(**again))))


def test_video_to_video_keeps_the_motion(server):
    """A red ball's video, half re-noised and sampled again."""
    second = {
        "encode": node("EasyAnimateEncode", images=["decode", 0], vae=["vae", 0], tile_size=0),
        "other": encode(),
        "second": sampler(positive=["other", 0], latent=["encode", 0], denoise=0.5, seed=2),
        "again": decode("second"),
        "video": node("CreateVideo", images=["again", 0], fps=24),
    }
    assert_shows(first_video(client.run(server, text_to_video(**second))))


def test_a_length_of_one_is_an_image(server):
    assert first_video(client.run(server, text_to_video(empty=empty(1)))).shape[0] == 1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("empty", {"width": -16}),
        ("empty", {"length": -1}),
        ("model", {"transformer": "../../../../etc/passwd"}),
        ("vae", {"vae": "gone.safetensors"}),
    ],
)
def test_bad_values_are_refused_before_anything_runs(server, name, wrong):
    changed = text_to_video()[name]
    changed = {**changed, "inputs": {**changed["inputs"], **wrong}}
    with pytest.raises(client.WorkflowError, match=next(iter(wrong))):
        client.run(server, text_to_video(**{name: changed}))


def test_a_wrong_file_is_answered_with_one_sentence(server):
    folder = comfyui.BASE / "models" / "diffusion_models"
    file = folder / "easyanimate-test-notes.safetensors"
    file.write_text("no weights here\n" * 40)
    try:
        wrong = node("EasyAnimateLoadTransformer", transformer=file.name, weight_dtype="default")
        with pytest.raises(client.WorkflowError) as error:
            client.run(server, text_to_video(model=wrong))
    finally:
        file.unlink()
    expected = f"{file.name} is not a valid safetensors file; download it again."
    assert str(error.value) == f"EasyAnimateLoadTransformer: {expected}"


def test_our_decode_says_so_when_given_another_vae(server):
    wrong = {"taesd": node("VAELoader", vae_name="pixel_space"), "decode": decode(vae=["taesd", 0])}
    with pytest.raises(client.WorkflowError, match="This VAE is not an EasyAnimate VAE"):
        client.run(server, text_to_video(**wrong))


def test_every_node_is_known_to_the_server(server):
    known = client.get(server, "/object_info")
    assert {cls.define_schema().node_id for cls in part("nodes").NODES} <= set(known)


def test_saved_workflows_hold_no_trace_of_a_machine():
    for path in Path(ROOT / "workflows").glob("*.json"):
        assert json.loads(path.read_text())["nodes"]
        assert "/home/" not in path.read_text()
