"""How near to the machine's limit one step of the denoiser runs, at V3's real width and depth."""

import time

import comfy.model_management as mm
import comfy.sample
import torch

from .measure import CUDA, Row, alternating, matrix_share, report
from .networks import V3, shallow, step_inputs, transformer

FRAMES, SIDE = 4, 16  # latents: 256 tokens, 512 in a batch of 2
DTYPE = torch.bfloat16 if CUDA else torch.float32


def step_row() -> Row:
    """One step, against a large product in the same run."""
    frames, side = (12, 64) if CUDA else (FRAMES, SIDE)
    network, inputs = transformer(dtype=DTYPE), step_inputs(V3, 2, frames, (side, side), DTYPE)
    how = f"28 layers, 1.45 B parameters, batch 2 of {frames * side * side // 4} tokens"
    return matrix_share(lambda: network(**inputs), DTYPE).row("DiT step", DTYPE, how)


def bfloat16_row() -> Row:
    """What bfloat16 gains on this CPU."""
    question, target = "DiT step: bfloat16 against float32", "≥ 1.8 ×"
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return Row(question, target, "not measured", None, "this CPU has no bfloat16 units")
    config = shallow(4)
    steps = {}
    for dtype in (torch.float32, torch.bfloat16):
        network, inputs = transformer(config, dtype), step_inputs(config, 2, FRAMES, (SIDE, SIDE), dtype)
        steps[str(dtype)] = lambda n=network, i=inputs: n(**i)
    took = alternating(5, **steps)
    gain = took["torch.float32"] / took["torch.bfloat16"]
    return Row(question, target, f"{gain:.2f} ×", gain >= 1.8, "4 layers, batch 2 of 256 tokens")


def outside_row() -> Row:
    """What the host and our wrapping cost beside the network, in a run of ten steps."""
    patcher = _patcher(shallow(4))
    network, inside = patcher.model.diffusion_model, []
    forward = network.forward

    def timed(*args, **kwargs):
        start = time.perf_counter()
        result = forward(*args, **kwargs)
        if CUDA:
            torch.cuda.synchronize()
        inside.append(time.perf_counter() - start)
        return result

    network.forward = timed
    text = [[torch.randn(1, 120, 4096), {"attention_mask": torch.ones(1, 120)}]]
    empty = torch.zeros(1, 4, 4, 32, 32)
    noise = comfy.sample.prepare_noise(empty, 0)
    arguments = 10, 7.0, "euler", "normal", text, text, empty
    comfy.sample.sample(patcher, noise, *arguments, disable_pbar=True)
    inside.clear()
    start = time.perf_counter()
    comfy.sample.sample(patcher, noise, *arguments, disable_pbar=True)
    whole = time.perf_counter() - start
    share = 1 - sum(inside) / whole
    how = f"10 steps of 4 layers at real width, cfg 7, {whole:.1f} s; 28 layers dilute it sevenfold"
    return Row("Sampling: time outside the network", "< 1 %", f"{share:.2%}", share < 0.01, how)


def _patcher(config):
    """A text-to-video model of the host around a network with random weights."""
    from dataclasses import replace

    import comfy.model_patcher

    from easyanimate_models.supported_models import EasyAnimateV3

    config = replace(config, in_channels=4, clip_tokens=False)
    release = EasyAnimateV3(config)
    release.set_inference_dtype(DTYPE, None)
    model = release.get_model({})
    model.diffusion_model.load_state_dict(transformer(config, DTYPE).state_dict())
    device = mm.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


@torch.no_grad()
def main() -> None:
    report(__file__, [step_row(), *([] if CUDA else [bfloat16_row()]), outside_row()])


if __name__ == "__main__":
    main()
