"""V1 in its two files and V2, tiny and untrained, from file to video on a real ComfyUI server."""

from dataclasses import replace
from pathlib import Path

import client
import pytest
import torch
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.ops import disable_weight_init
from conftest import dev, golden, part
from safetensors.torch import save_file
from test_server import graph, node, watch
from tiny_networks import DIT, randomise

motion_dit = part("easyanimate_models.dit.motion_dit")
motion_module = part("easyanimate_models.dit.motion_module")
supported_models = part("easyanimate_models.supported_models")
embed_config = part("easyanimate_models.files.checkpoint").embed_config
transformer_config = part("easyanimate_models.configs.motion_dit").transformer_config
NAMES = {name: f"easyanimate-test-{name}" for name in ("v1-base.pth", "v1-mm.safetensors", "v2.safetensors")}
WORDS = 32  # width of the tiny text encoder


def v1_files(folder: Path) -> None:
    """A PixArt checkpoint as it was released, and the motion module beside it."""
    base = PixArtMS(
        hidden_size=96, depth=2, caption_channels=WORDS, micro_condition=False, operations=disable_weight_init
    )
    motion = motion_module.MotionModule(96, supported_models.EasyAnimateV1.motion[0], None, None, disable_weight_init)
    randomise(base)
    randomise(motion)
    torch.save({"state_dict": base.state_dict()}, folder / NAMES["v1-base.pth"])
    blocks = [f"transformer_blocks.{i}.attn_temporal." for i in range(2)]
    tensors = {block + k: v.clone() for block in blocks for k, v in motion.state_dict().items()}
    save_file(tensors, folder / NAMES["v1-mm.safetensors"])


def v2_file(folder: Path) -> None:
    config = replace(DIT, caption_channels=WORDS, motion=supported_models.EasyAnimateV2.motion)
    network = motion_dit.MotionDiT(config, operations=disable_weight_init)
    randomise(network)
    save_file(network.state_dict() | embed_config(transformer_config(config)), folder / NAMES["v2.safetensors"])


@pytest.fixture(scope="module")
def files():
    """The files where users put them, taken away afterwards."""
    models = dev.BASE / "models"
    v1_files(models / "diffusion_models")
    v2_file(models / "diffusion_models")
    vaes = {"V1": "v1_e2e/sd_vae", "V2": "v2_mag_vae/mag_vae"}
    for release, name in vaes.items():
        recorded = golden(name)
        tensors = recorded.weights | embed_config(recorded.config["constructor"])
        save_file(tensors, models / "vae" / f"easyanimate-test-{release}.safetensors")
    yield
    for file in models.glob("*/easyanimate-test-*"):
        file.unlink()


def chain(release: str, **changed) -> dict:
    """Prompt to ten frames, with the stock sampler for V1 and ours for V2."""
    transformer = NAMES["v1-base.pth" if release == "V1" else "v2.safetensors"]
    motion = {"motion_module": NAMES["v1-mm.safetensors"]} if release == "V1" else {}
    nodes = graph(
        model=node("EasyAnimateLoadTransformer", transformer=transformer, weight_dtype="default", **motion),
        vae=node("EasyAnimateLoadVAE", vae=f"easyanimate-test-{release}.safetensors"),
        empty=node("EasyAnimateEmptyLatent", width=64, height=48, length=10, batch_size=1, vae=["vae", 0]),
    )
    nodes["sampler"]["inputs"]["steps"] = 2
    if release == "V1":
        shared = {k: nodes["sampler"]["inputs"][k] for k in ("model", "positive", "negative", "seed", "steps", "cfg")}
        rest = {"latent_image": ["empty", 0], "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        nodes["sampler"] = node("KSampler", **shared, **rest)
    return nodes | changed


@pytest.mark.parametrize("release", ["V1", "V2"])
@pytest.mark.parametrize("stock", [False, True], ids=["our decode", "VAEDecodeTiled"])
def test_a_release_makes_a_video_of_the_length_it_promised(server, files, release, stock):
    tiled = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    decode = {"decode": node("VAEDecodeTiled", samples=["sampler", 0], vae=["vae", 0], **tiled)} if stock else {}
    assert watch(client.run(server, chain(release, **decode))).shape == (10, 48, 64, 3)


def refused(server, nodes: dict) -> str:
    with pytest.raises(client.WorkflowError) as error:
        client.run(server, nodes)
    return str(error.value)


def test_a_vae_of_another_release_is_named(server, files):
    nodes = chain("V1", other=node("EasyAnimateLoadVAE", vae="easyanimate-test-V2.safetensors"))
    nodes["decode"]["inputs"]["vae"] = ["other", 0]
    assert "The latent is for EasyAnimate V1, but the VAE is for V2; load the VAE of V1" in refused(server, nodes)


def test_a_transformer_of_another_release_is_named(server, files):
    other = node("EasyAnimateLoadVAE", vae="easyanimate-test-V1.safetensors")
    nodes = chain("V2", other=other)
    nodes["empty"]["inputs"]["vae"] = ["other", 0]
    assert "The latent is for EasyAnimate V1, but the transformer is for V2" in refused(server, nodes)


def test_a_motion_module_is_no_transformer(server, files):
    model = node("EasyAnimateLoadTransformer", transformer=NAMES["v1-mm.safetensors"], weight_dtype="default")
    said = "choose the PixArt base as transformer and this file as motion_module."
    assert refused(server, chain("V1", model=model)).endswith(said)
