"""The memory that the host is told a step takes, against what it takes."""

from dataclasses import replace

import comfy.model_management as mm
import pytest
import torch

from support.mmdit import MMDIT
from support.pack import part
from support.tiny_networks import DIT, RELEASED_HUNYUAN_DIT

LiveBytes = part("benchmarks.live_bytes").LiveBytes
supported_models = part("easyanimate_models.supported_models")
ATTENDING = [part(f"easyanimate_models.dit.{name}") for name in ("layers", "mmdit", "hunyuan_dit", "motion_module")]
V3, V51 = supported_models.EasyAnimateV3, supported_models.EasyAnimateV51
RELEASED_MMDIT = replace(MMDIT, width=3072, depth=4, heads=48, caption_channels=3584, timestep_channels=512)
RELEASED = {  # release -> its config at full width; of alike blocks without skips a few are enough
    V3: replace(DIT, width=1152, depth=28, heads=16, caption_channels=4096, motion=V3.motion, skips=V3.skips),
    supported_models.EasyAnimateV4: RELEASED_HUNYUAN_DIT,
    supported_models.EasyAnimateV5: replace(
        RELEASED_MMDIT, caption_channels=1024, caption_channels_2=2048, text_norm=False
    ),
    V51: RELEASED_MMDIT,
}
TEXT_LENGTHS = {V3: 120, V51: 256}  # of others: 77, and 256 of the second
SIZES = ((512, 512, 1), (256, 256, 49), (384, 672, 49), (768, 1344, 49))


def without_numbers(q: torch.Tensor, *_, skip_reshape: bool = False, **__) -> torch.Tensor:
    """What attention gives, and nothing of what it takes, which depends on the machine."""
    return torch.empty_like(q.transpose(1, 2)).flatten(2) if skip_reshape else torch.empty_like(q)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", RELEASED, ids=lambda kind: kind.__name__)
def test_the_host_knows_how_much_memory_a_step_takes(monkeypatch, kind, size):
    """At the released width, with guidance, on tensors without numbers."""
    for module in ATTENDING:
        if hasattr(module, "optimized_attention"):
            monkeypatch.setattr(module, "optimized_attention", without_numbers)
    monkeypatch.setattr(mm, "pytorch_attention_flash_attention", lambda: True)
    release = kind(RELEASED[kind])
    release.set_inference_dtype(torch.bfloat16, None)
    model = release.get_model({}, device="meta")
    network, config = model.diffusion_model.to("meta"), release.config
    leaf = {"device": "meta", "dtype": torch.bfloat16}
    width, height, frames = size
    x = torch.empty(2, config.in_channels, kind.vae.plan.latents_for(frames), height // 8, width // 8, **leaf)
    given = {"context": torch.empty(2, TEXT_LENGTHS.get(kind, 77), config.caption_channels, **leaf)}
    if getattr(config, "caption_channels_2", None) is not None:
        given["context_t5"] = torch.empty(2, 256, config.caption_channels_2, **leaf)
    with torch.no_grad(), LiveBytes(x, *given.values(), *network.parameters()) as live:
        network(x, torch.empty(2, device="meta"), **given)
    assert model.memory_required(x.shape) == pytest.approx(live.peak, rel=0.15)
