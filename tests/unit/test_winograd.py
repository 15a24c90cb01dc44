"""Convolutions of two frames at a time give what plain ones give, with two thirds of the products."""

import comfy.ops
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.pack import part
from support.recorded import relative_error

layers = part("easyanimate_models.vae.layers")
onednn = part("easyanimate_models.vae.onednn_conv")
winograd = part("easyanimate_models.vae.winograd")
OURS = onednn.for_single_clips(comfy.ops.disable_weight_init)
LAST = torch.channels_last_3d
EXACT = 2e-6  # of float32, as of a plain convolution


def plain(conv3d: type) -> type:
    return conv3d


def convolution(of=plain, channels=16, **how):
    """One of ours, with random weights."""
    torch.manual_seed(0)
    conv = of(OURS.Conv3d)(channels, 24, 3, **how)
    torch.nn.init.normal_(conv.weight, std=0.1)
    torch.nn.init.normal_(conv.bias)
    return conv.to(memory_format=LAST)


def clip(frames=6, channels=16, count=1):
    return torch.randn(count, channels, frames, 34, 40).to(memory_format=LAST)


@pytest.mark.parametrize("frames", range(4, 10))
@pytest.mark.parametrize("zeros", [0, 1])
@pytest.mark.parametrize("of", [plain, layers.doubling_conv3d])
@torch.no_grad()
def test_results_are_as_exact_as_those_of_a_plain_convolution(of, zeros, frames, monkeypatch):
    """In chunks of a pair, too."""
    conv = convolution(of, padding=(zeros, 0, 0) if of is layers.doubling_conv3d else (zeros, 1, 1))
    x = clip(frames)
    assert winograd.saves_products(conv, x, conv.weight)
    found = conv(x)
    monkeypatch.setattr(winograd, "CHUNK", 1)
    assert relative_error(conv(x), found) < EXACT
    assert found.is_contiguous(memory_format=LAST)
    expected = conv.double()(x.double())
    assert relative_error(found.double(), expected) < EXACT


@torch.no_grad()
def test_two_thirds_of_the_products_are_left():
    conv, x = convolution(padding=(0, 1, 1)), clip(6)
    work = []
    for clips in (x, x.repeat(2, 1, 1, 1, 1)):  # several at once are convolved plainly
        with FlopCounterMode(display=False) as counter:
            conv(clips)
        work.append(counter.get_total_flops())
    assert work[0] * 3 == work[1] // 2 * 2


@pytest.mark.parametrize(
    ("how", "x"),
    [
        ({"stride": (1, 2, 2)}, clip()),
        ({"dilation": (1, 2, 2)}, clip()),
        ({"channels": 3}, clip(channels=3)),
        ({}, clip(count=2)),
        ({}, clip(frames=3)),
        ({"padding": 1}, clip(frames=2)),
        ({}, clip().contiguous()),
        ({}, clip()[..., :8, :8]),
    ],
    ids=["strides", "dilation", "few channels", "two clips", "one frame", "zeros", "other layout", "small"],
)
@torch.no_grad()
def test_what_saves_nothing_is_convolved_plainly(how, x):
    conv = convolution(**how)
    assert not winograd.saves_products(conv, x, conv.weight)


def test_training_convolves_plainly():
    conv = convolution()
    with torch.enable_grad():
        assert not winograd.saves_products(conv, clip(), conv.weight)
    with torch.no_grad():
        assert winograd.saves_products(conv, clip(), conv.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_precisions_are_convolved_plainly(dtype, monkeypatch):
    monkeypatch.setattr(onednn, "convolve_in_pairs", None)
    assert convolution().to(dtype)(clip().to(dtype)).dtype == dtype
