"""V4, V5 and V5.1 from a release folder to a video on a real ComfyUI server, tiny and with random weights."""

import json
import shutil
from dataclasses import replace

import pytest

from support.components import write_component
from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part
from support.prompts import empty, ksampler, sampler, text_to_video
from support.tiny_networks import HUNYUAN_DIT, VAE_CONFIGS, tiny_hunyuan_dit, tiny_release_vae
from support.tiny_text_encoders import BERT, MT5, QWEN, write_bert_and_mt5, write_qwen
from support.videos import first_video
from tools import comfyui
from tools.workflows import client
from tools.workflows.author import node

supported_models = part("easyanimate_models.supported_models")
FOLDER = "easyanimate-test-{}"
BOTH_TEXTS = {"caption_channels": BERT["hidden_size"], "caption_channels_2": MT5["d_model"]}
NETWORKS = {  # release: its network, given images or text
    "V4": lambda: tiny_hunyuan_dit(**BOTH_TEXTS, text_length=77, text_length_2=256, resampler=OF_CLIP),
    "V5": lambda: tiny_mmdit(**TWO_TEXTS | BOTH_TEXTS, in_channels=33),
    "V5.1": lambda: tiny_mmdit(caption_channels=QWEN["hidden_size"], in_channels=33),
    "V5.1 Control": lambda: tiny_mmdit(caption_channels=QWEN["hidden_size"], in_channels=48),
}
OF_CLIP = replace(HUNYUAN_DIT.resampler, channels=1024)
LENGTHS = {"V4": 16}  # all others: 9
SIZE = {"width": 64, "height": 48, "batch_size": 1}


@pytest.fixture(scope="module", params=list(NETWORKS))
def release(request):
    """A release, whose folder lies among the models for as long as this lasts."""
    name = request.param.split()[0]
    folder = comfyui.BASE / "models" / "easyanimate" / FOLDER.format(request.param)
    shutil.rmtree(folder, ignore_errors=True)
    if name == "V5.1":
        write_qwen(folder)
    else:
        write_bert_and_mt5(folder, name)
    network = NETWORKS[request.param]().model.diffusion_model
    kind = getattr(supported_models, f"EasyAnimate{name.replace('.', '')}")
    write_component(folder / "transformer", network.state_dict(), kind.config_json(network.config))
    weights = {
        key: tensor.contiguous() for key, tensor in tiny_release_vae(name).first_stage_model.state_dict().items()
    }
    write_component(folder / "vae", weights, json.loads(json.dumps(kind.vae_config_json(VAE_CONFIGS[name]))))
    yield request.param
    shutil.rmtree(folder)


def loaders(release: str) -> dict:
    folder = f"easyanimate/{FOLDER.format(release)}"
    return {
        "model": node("EasyAnimateLoadTransformer", transformer=folder, weight_dtype="default"),
        "clip": node("EasyAnimateLoadTextEncoder", text_encoder=folder),
        "vae": node("EasyAnimateLoadVAE", vae=folder),
    }


@pytest.mark.parametrize("stock", [False, True], ids=["ours", "KSampler"])
def test_a_release_makes_a_video_from_an_image(server, release, stock):
    length, wired = LENGTHS.get(release, 9), {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0]}
    kind, image = "EasyAnimateImageToVideo", {"start_image": ["grey", 0]}
    if "Control" in release:
        kind, image = "EasyAnimateControlToVideo", {"control_video": ["grey", 0], "ref_image": ["grey", 0]}
    given = node(kind, **wired, **SIZE, length=length, **image)
    ends = {"positive": ["given", 0], "negative": ["given", 1]}
    sample = ksampler(steps=2, **ends, latent_image=["given", 2]) if stock else sampler(steps=2, **ends)
    if not stock:
        sample["inputs"]["latent"] = ["given", 2]
    grey = node("EmptyImage", width=64, height=48, batch_size=length, color=8421504)
    if "Control" not in release:
        grey["inputs"]["batch_size"] = 1
    nodes = text_to_video(**loaders(release), grey=grey, given=given, sampler=sample)
    nodes.pop("empty")
    assert first_video(client.run(server, nodes)).shape == (length, 48, 64, 3)


def test_a_release_learns_a_lora_that_the_stock_loader_reads(server, release):
    if "Control" in release:
        pytest.skip("connected clips have no control video; test_train_later trains on a list that names them")
    name, length = "easyanimate-test-later", LENGTHS.get(release, 9)
    links = {each: [each, 0] for each in ("model", "vae", "clip")}
    settings = {"name": name, "folder": "clips that are connected", "steps": 3, "learning_rate": 1e-3, "rank": 2}
    settings |= {"resolution": 64, "frames": length, "batch_size": 1, "seed": 0, "clips": ["grey", 0]}
    settings |= {"captions": ["caption", 0], "sample_every": 3, "sample_prompt": "a grey picture"}
    nodes = {
        **loaders(release),
        "grey": node("EmptyImage", width=64, height=48, batch_size=length, color=8421504),
        "caption": node("PrimitiveString", value="a grey picture"),
        "trained": node("EasyAnimateTrainLora", **links, **settings),
        "curve": node("SaveImage", images=["trained", 1], filename_prefix="tests/curve"),
    }
    file = comfyui.BASE / "models" / "loras" / f"{name}.safetensors"
    run = comfyui.OUTPUT / "easyanimate_training" / name
    try:
        client.run(server, nodes)
        assert file.exists() and (run / "samples" / "step_000003.webp").exists()
        stock = node("LoraLoaderModelOnly", model=["model", 0], lora_name=file.name, strength_model=1.0)
        sample = sampler(model=["lora", 0], steps=1)
        video = text_to_video(
            **loaders(release), lora=stock, sampler=sample, empty=empty(length, 64, 48, vae=["vae", 0])
        )
        assert first_video(client.run(server, video)).shape[-1] == 3
    finally:
        file.unlink(missing_ok=True)
        shutil.rmtree(run, ignore_errors=True)
