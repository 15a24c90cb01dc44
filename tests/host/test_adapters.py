"""LoRA and ControlNet on a real server: they change the video, and leave the model as it was."""

import torch

from support.control_arithmetic import pixart_file
from support.loras import linears, write_lora
from support.pack import part
from support.prompts import PROMPT, decode, encode, ksampler, sampler, text_to_video
from support.videos import first_video, read_pictures
from tools import comfyui
from tools.workflows import client
from tools.workflows.author import node

sd = part("easyanimate_models.sd")
TINY = part("easyanimate_models.files.model_files").TINY


def test_a_server_samples_with_a_lora_and_from_a_video(server):
    """Text to video, then that video again at denoise 0.6, both through the LoRA; after it the model is as before."""
    folder = comfyui.BASE / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    path, _ = write_lora(folder, linears(sd.load_transformer(TINY, weight_dtype="fp32")))
    try:
        load = node("EasyAnimateLoadLora", model=["model", 0], lora=path.name, strength_model=0.0)
        plain, none = frames(server), frames(server, load)
        load["inputs"]["strength_model"] = 0.5
        some, again = frames(server, load), frames(server, load, **second_pass())
    finally:
        path.unlink()
    assert torch.equal(plain, none)
    assert (some - plain).abs().mean() > 0.005
    assert again.shape == plain.shape and (again - some).abs().mean() > 0.001
    again = encode(f"{PROMPT} ")  # means the same, but the server must sample again
    assert torch.equal(frames(server, prompt=again), plain)


def frames(server, load: dict | None = None, **changed) -> torch.Tensor:
    """The frames of a few steps, every sampler through the LoRA that `load` loads; as pictures, since H.264 varies."""
    nodes = text_to_video(**changed)
    source = nodes.pop("video")["inputs"]["images"]
    nodes["save"] = node("SaveImage", images=source, filename_prefix="tests/lora")
    for each in [each for each in nodes.values() if each["class_type"] == "EasyAnimateSampler"]:
        each["inputs"] = {**each["inputs"], "steps": 5, "model": ["lora" if load else "model", 0]}
    return read_pictures(client.run(server, {**nodes, "lora": load} if load else nodes))


def second_pass() -> dict:
    return {
        "encode": node("EasyAnimateEncode", images=["decode", 0], vae=["vae", 0], tile_size=0),
        "second": sampler(latent=["encode", 0], denoise=0.6, seed=2),
        "again": decode("second"),
        "video": node("CreateVideo", images=["again", 0], fps=24),
    }


def test_a_server_samples_with_a_control_net(server):
    folder = comfyui.BASE / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "easyanimate-test-control.safetensors"
    pixart_file(path, width=128, heads=4, depth=5)
    text = {"positive": ["prompt", 0], "negative": ["prompt", 1]}
    hint = {"image": ["hint", 0], "vae": ["vae", 0], "strength": 0.5, "start_percent": 0.0, "end_percent": 1.0}
    nodes = {
        "control": node("EasyAnimateLoadControlNet", control_net=path.name),
        "hint": node("EmptyImage", width=64, height=64, batch_size=24, color=0xFFFFFF),
        "apply": node("ControlNetApplyAdvanced", control_net=["control", 0], **hint, **text),
        "sampler": ksampler(positive=["apply", 0], negative=["apply", 1], steps=4),
    }
    try:
        plain = first_video(client.run(server, text_to_video(sampler=ksampler(steps=4))))
        steered = first_video(client.run(server, text_to_video(**nodes)))
    finally:
        path.unlink()
    assert steered.shape == plain.shape == (24, 64, 64, 3)
    assert (steered - plain).abs().mean() > 0.005
