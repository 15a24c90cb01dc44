"""Convolutions by oneDNN on a CPU: small single clips are given to it too, and what it would misread is not."""

import comfy.ops
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support.pack import part
from support.recorded import relative_error

single_clips = part("easyanimate_models.vae.onednn_conv")
layers = part("easyanimate_models.vae.layers")
STOCK = comfy.ops.disable_weight_init
OURS = single_clips.for_single_clips(STOCK)
SMALL, LARGE = (1, 16, 8, 24, 24), (1, 16, 8, 161, 8)  # frames x rows x channels on either side of torch's limit


def convolutions(of: type, **how):
    """The host's and ours with the same weights; `of` makes the kind under test."""
    torch.manual_seed(0)
    made = [of(operations.Conv3d)(16, 24, 3, **how) for operations in (STOCK, OURS)]
    for parameter in made[0].parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    made[1].load_state_dict(made[0].state_dict())
    return made


def plain(conv3d: type) -> type:
    return conv3d


def gradients_of(conv, x, copies=1):
    """What comes out, and all gradients; of so many `copies` of the frames of `x`."""
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        y = conv.requires_grad_(True)(x.repeat(1, 1, copies, 1, 1))
        y.square().mean().backward()
    gradients = x.grad, conv.weight.grad, conv.bias.grad
    conv.zero_grad()
    return y, *gradients


@pytest.mark.parametrize("shape", [SMALL, LARGE, (2, *SMALL[1:])])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    ("of", "how"),
    [
        (plain, {"padding": (0, 1, 1)}),
        (plain, {"stride": (1, 2, 2)}),
        (layers.doubling_conv3d, {"padding": (1, 0, 0)}),
    ],
)
def test_results_and_gradients_are_the_hosts(of, how, layout, shape):
    x = torch.randn(shape).contiguous(memory_format=layout)
    stock, ours = (conv.to(memory_format=layout) for conv in convolutions(of, **how))
    for expected, found in zip(gradients_of(stock, x), gradients_of(ours, x), strict=True):
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize(
    ("x", "overlooked"),
    [
        (torch.empty(SMALL), True),
        (torch.empty(LARGE), False),
        (torch.empty(1, 16, 8, 15, 24), False),
        (torch.empty(2, *SMALL[1:]), False),
        (torch.empty(SMALL, dtype=torch.bfloat16), False),
        (torch.empty(SMALL, device="meta"), False),
    ],
)
def test_only_what_torch_overlooks_is_asked_for_by_name(x, overlooked):
    assert single_clips.is_overlooked(x) == overlooked
    with torch.backends.mkldnn.flags(enabled=False):
        assert not single_clips.is_overlooked(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not single_clips.is_overlooked(x)


def test_weights_that_the_host_casts_and_patches_are_cast_and_patched():
    _, ours = convolutions(plain)
    x, before = torch.randn(SMALL), ours(torch.ones(SMALL))
    ours.weight_function = [lambda weight: 2 * weight]
    ours.bias_function = [lambda bias: 2 * bias]
    assert relative_error(ours(torch.ones(SMALL)), 2 * before) < 1e-5
    half = single_clips.for_single_clips(comfy.ops.manual_cast).Conv3d(16, 24, 3, dtype=torch.float16)
    half.load_state_dict(ours.state_dict())
    assert half(x).dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 3, 4, 32])
@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("autocast", [False, True])
def test_nothing_behind_a_short_clip_gets_into_bfloat16(channels, frames, autocast):
    """oneDNN reads whatever lies there, often enough infinite or nan numbers."""
    torch.manual_seed(0)
    exact = OURS.Conv3d(channels, 16, 3, padding=1)
    torch.nn.init.normal_(exact.weight, std=0.2)
    torch.nn.init.zeros_(exact.bias)
    dtype = torch.float32 if autocast else torch.bfloat16
    rounded = OURS.Conv3d(channels, 16, 3, padding=1, dtype=dtype)
    rounded.load_state_dict(exact.state_dict())
    for _ in range(4):
        x = torch.randn(1, channels, frames, 16, 16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = gradients_of(rounded, x.to(dtype))
        for gradient, expected in zip(found, gradients_of(exact, x), strict=True):
            assert relative_error(gradient.float(), expected) < 0.02


@pytest.mark.parametrize(
    ("of", "how"), [(plain, {"padding": (0, 1, 1)}), (plain, {"stride": (2, 2, 2)}), (layers.doubling_conv3d, {})]
)
def test_a_still_is_worked_on_once_and_gives_what_three_copies_give(of, how):
    _, conv = convolutions(lambda conv3d: of(layers.still_conv3d(conv3d)), **how)
    x = torch.randn(2, 16, 1, 12, 8)
    (found, *gradients), work = counted(conv, x)
    (copies, *expected), threefold = counted(conv, x, copies=3)
    assert relative_error(found, copies) < 1e-6 and threefold == 3 * work
    for gradient, each in zip(gradients, expected, strict=True):
        assert relative_error(gradient, each) < 1e-5


def counted(conv, x, copies=1):
    """`gradients_of` frames that stand still, and the operations that they take."""
    with FlopCounterMode(display=False) as counter:
        return gradients_of(conv, x, copies), counter.get_total_flops()
