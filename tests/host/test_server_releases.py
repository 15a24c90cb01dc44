"""V1 in its two files and V2, tiny and untrained, from file to video on a real ComfyUI server."""

import pytest

from support.releases import V1_MOTION_MODULE, VAES, release_to_video
from support.videos import first_video
from tools.workflows import client
from tools.workflows.author import node

pytestmark = pytest.mark.usefixtures("release_files")


@pytest.mark.parametrize("release", ["V1", "V2"])
@pytest.mark.parametrize("stock", [False, True], ids=["our decode", "VAEDecodeTiled"])
def test_a_release_makes_a_video_of_the_length_it_promised(server, release, stock):
    tiled = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    decode = {"decode": node("VAEDecodeTiled", samples=["sampler", 0], vae=["vae", 0], **tiled)} if stock else {}
    assert first_video(client.run(server, release_to_video(release, **decode))).shape == (10, 48, 64, 3)


def refused(server, nodes: dict) -> str:
    with pytest.raises(client.WorkflowError) as error:
        client.run(server, nodes)
    return str(error.value)


def test_a_vae_of_another_release_is_named(server):
    nodes = release_to_video("V1", other=node("EasyAnimateLoadVAE", vae=VAES["V2"]))
    nodes["decode"]["inputs"]["vae"] = ["other", 0]
    assert "The latent is for EasyAnimate V1, but the VAE is for V2; load the VAE of V1" in refused(server, nodes)


def test_a_transformer_of_another_release_is_named(server):
    nodes = release_to_video("V2", other=node("EasyAnimateLoadVAE", vae=VAES["V1"]))
    nodes["empty"]["inputs"]["vae"] = ["other", 0]
    assert "The latent is for EasyAnimate V1, but the transformer is for V2" in refused(server, nodes)


def test_a_motion_module_is_no_transformer(server):
    model = node("EasyAnimateLoadTransformer", transformer=V1_MOTION_MODULE, weight_dtype="default")
    message = "choose the PixArt base as transformer and this file as motion_module."
    assert refused(server, release_to_video("V1", model=model)).endswith(message)
