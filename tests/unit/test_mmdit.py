"""The transformer of V5 and V5.1: hooks of the host, positions, parts of tokens, memory, patches on its weights."""

import comfy.patcher_extension
import comfy.sd
import pytest
import torch
import torch.nn.functional as F

from support.mmdit import CPU, MMDIT, TWO_TEXTS, inputs_of, mmdit, tiny_mmdit
from support.pack import part
from support.tiny_networks import random

LiveBytes = part("benchmarks.live_bytes").LiveBytes
rotary = part("easyanimate_models.dit.rotary")
host = part("easyanimate_models.host")
step_plan = part("easyanimate_models.dit.step_plan")
V5, V51 = TWO_TEXTS, {}
both = pytest.mark.parametrize("changed", [V5, V51], ids=["V5", "V5.1"])


def network_of(**changed):
    return tiny_mmdit(**changed).model.diffusion_model


@both
def test_every_weight_lies_in_one_of_the_hosts_operations(changed):
    for name, module in network_of(**changed).named_modules():
        assert hasattr(module, "comfy_cast_weights") or not list(module.parameters(recurse=False)), name


@both
def test_nothing_stays_on_the_modules(changed):
    network = network_of(**changed)

    def state():
        own = ("_parameters", "_buffers", "_modules")
        return [(list(m._buffers), {k: repr(v) for k, v in vars(m).items() if k not in own}) for m in network.modules()]

    before = state()
    network(**inputs_of(network, 2, 3, 4, 6))
    assert state() == before


@both
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3, 5, 7), (1, 2, 1, 6)])
def test_odd_latents_are_padded_around_and_cropped_back(changed, shape):
    network = network_of(**changed)
    given = inputs_of(network, *shape)
    even = F.pad(given["x"], (0, shape[3] % 2, 0, shape[2] % 2, 0, 0), mode="circular")
    ours = network(**given)
    assert ours.shape == given["x"].shape
    torch.testing.assert_close(ours, network(**given | {"x": even})[..., : shape[2], : shape[3]])


@both
def test_a_batch_equals_each_alone(changed):
    network = network_of(**changed)
    given = inputs_of(network, 3, 2, 4, 6)
    alone = [network(**{name: tensor[i : i + 1] for name, tensor in given.items()}) for i in range(3)]
    torch.testing.assert_close(network(**given), torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_masks_of_the_text_change_nothing():
    network = network_of()
    given = inputs_of(network, 1, 2, 4, 4)
    assert torch.equal(network(**given, attention_mask=torch.tensor([[1, 1, 0, 0, 0]])), network(**given))


@both
def test_every_row_of_every_text_counts(changed):
    network = network_of(**changed)
    given = inputs_of(network, 1, 2, 4, 4)
    plain = network(**given)
    for name in [name for name in given if name.startswith("context")]:
        for row in range(given[name].shape[1]):
            other = given[name].clone()
            other[:, row] += 1
            assert not torch.allclose(network(**given | {name: other}), plain, atol=1e-4), (name, row)


def test_a_missing_second_text_and_a_controlnet_are_told():
    network = network_of(**V5)
    given = inputs_of(network, 1, 1, 2, 2)
    with pytest.raises(ValueError, match="needs the prompt from two text encoders, BERT and mT5; load both"):
        network(**{k: v for k, v in given.items() if k != "context_t5"})
    with pytest.raises(ValueError, match="can't use a ControlNet; remove Apply ControlNet"):
        network(**given, control={"output": [None]})


# --- hooks of the host --------------------------------------------------------------------------------------------


def with_patches(replace: dict) -> dict:
    return {"patches_replace": {"dit": replace}}


@both
def test_every_block_can_be_replaced_and_gives_video_and_text(changed):
    network, hooked = network_of(**changed), []
    given = inputs_of(network, 2, 3, 4, 6)

    def patch(args, extra):
        options = args["transformer_options"]
        hooked.append((options["block_index"], options["total_blocks"], options["block_type"]))
        assert args["img"].shape == (2, 18, 32) and args["txt"].shape[::2] == (2, 32)
        assert args["vec"].shape == (2, 12) and args["pe"].shape == (1, 18, 1, 8, 2, 2)
        out = extra["original_block"](args)
        assert set(out) == {"img", "txt"}
        return out

    options = with_patches({("double_block", i): patch for i in range(MMDIT.depth)})
    before = dict(options)
    assert torch.equal(network(**given, transformer_options=options), network(**given))
    assert hooked == [(i, MMDIT.depth, "double") for i in range(MMDIT.depth)]
    assert options == before  # the host's own options stay as they are


@pytest.mark.parametrize("key", ["img", "txt"])
@pytest.mark.parametrize("block", range(MMDIT.depth - 1))
def test_what_a_patch_gives_is_what_the_next_block_takes(block, key):
    network = network_of()
    given = inputs_of(network, 1, 2, 4, 4)

    def patch(args, extra):
        out = extra["original_block"](args)
        return {**out, key: out[key].flip(-1)}

    changed = network(**given, transformer_options=with_patches({("double_block", block): patch}))
    assert not torch.allclose(changed, network(**given), atol=1e-3)


def test_a_skipped_block_is_a_network_without_it():
    network = network_of()
    given = inputs_of(network, 1, 2, 4, 4)
    skipped = network(**given, transformer_options=with_patches({("double_block", 1): lambda args, _: args}))
    del network.transformer_blocks[1]
    torch.testing.assert_close(skipped, network(**given))


def test_wrappers_and_attention_of_the_host_are_used():
    network, calls = network_of(), []
    given = inputs_of(network, 1, 2, 4, 4)

    def wrapper(executor, x, timesteps, *args, **kwargs):
        return 2 * executor(x, timesteps, *args, **kwargs)

    def attention(original, q, k, v, *args, **kwargs):
        calls.append((q.shape, kwargs["transformer_options"]["block_index"]))
        return original(q, k, v, *args, **kwargs)

    options: dict = {"optimized_attention_override": attention}
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    comfy.patcher_extension.add_wrapper_with_key(kind, "test", wrapper, options)
    assert torch.equal(network(**given, transformer_options=options), 2 * network(**given))
    assert calls == [((1, length, 32), i) for i in range(MMDIT.depth) for length in (5, 8)]  # text, video


# --- positions ----------------------------------------------------------------------------------------------------


def angles(network, options: dict) -> torch.Tensor:
    """What the first pair of channels of each axis is turned by, in radians: the positions [F, rows, columns, 3]."""
    time, row, _ = network.config.rotary_channels
    pe = network.positions(2, 3, 4, options, CPU)[0, :, 0, :, :, 0]
    first = pe[:, [0, time // 2, (time + row) // 2]]
    return torch.atan2(first[..., 1], first[..., 0]).view(2, 3, 4, 3)


def test_positions_are_scaled_and_shifted_as_the_host_asks():
    network = network_of()
    plain = angles(network, {})
    spans = (rotary.Span(0, 1, 2), *rotary.fitted(3, 4, mmdit.BASE_ROWS, mmdit.BASE_COLUMNS))
    index = torch.stack(torch.meshgrid(*map(torch.arange, (2, 3, 4)), indexing="ij"), dim=-1)
    assert torch.equal(angles(network, {f"scale_{axis}": 1.0 for axis in "tyx"}), plain)
    for i, (axis, span) in enumerate(zip("tyx", spans, strict=True)):
        moved, scaled = torch.zeros_like(plain), torch.zeros_like(plain)
        moved[..., i], scaled[..., i] = 0.25, index[..., i] * span.step * -0.5
        assert_same(angles(network, {f"shift_{axis}": 0.25}) - plain, moved)
        assert_same(angles(network, {f"scale_{axis}": 0.5}) - plain, scaled)


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Angles are compared by cosine and sine, which do not jump."""
    for part_of in (torch.cos, torch.sin):
        torch.testing.assert_close(part_of(ours), part_of(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "columns", "row", "column"),
    [
        (30, 45, (0, 1), (0, 1)),
        (15, 15, (0, 2), (8, 2)),  # 30 of 45 columns, centred: 7.5 rounds to the even 8
        (60, 30, (0, 0.5), (15, 0.5)),
        (1, 100, (15, 0), (0, 0.45)),
    ],
)
def test_a_grid_lies_centred_in_the_trained_one(rows, columns, row, column):
    found = rotary.fitted(rows, columns, 30, 45)
    assert found == (rotary.Span(*row, rows), rotary.Span(*column, columns))


def test_only_the_video_has_positions():
    network = network_of()
    given = inputs_of(network, 1, 2, 4, 4)
    moved = given | {"context": given["context"].flip(1)}
    torch.testing.assert_close(network(**moved), network(**given), rtol=1e-4, atol=1e-4)


# --- memory, and patches on weights -------------------------------------------------------------------------------


def test_attention_takes_three_tensors_as_long_as_the_video():
    network = network_of(width=256, heads=16)
    given = inputs_of(network, 1, 8, 32, 32)
    state = 8 * 16 * 16 * network.config.width * 4
    with torch.no_grad(), LiveBytes(*given.values(), *network.parameters()) as live:
        network(**given, transformer_options={step_plan.OPTION: step_plan.StepPlan(state // 128)})
    assert 3 * state < live.peak < 3.7 * state  # video, keys, values; and positions


def with_lora(patcher):
    """A clone under a LoRA that touches every linear layer."""
    lora = {}
    for name, module in patcher.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear):
            out, inner = module.weight.shape
            lora[f"diffusion_model.{name}.lora_up.weight"] = random(out, 2, seed=len(lora)) / 8
            lora[f"diffusion_model.{name}.lora_down.weight"] = random(2, inner, seed=len(lora)) / 8
    return comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0)[0]


@both
def test_partial_load_with_a_lora_equals_full_load_and_unpatching_restores_every_bit(changed):
    patcher = tiny_mmdit(**changed)
    network = patcher.model.diffusion_model
    before = {k: v.clone() for k, v in network.state_dict().items()}
    given = inputs_of(network, 1, 3, 4, 6)
    plain, patched = network(**given), with_lora(patcher)
    patched.patch_model(CPU)
    full = network(**given)
    patched.unpatch_model(CPU)
    patched.patch_model(CPU, lowvram_model_memory=patcher.model_size() // 2)
    assert patched.model.model_lowvram and patched.lowvram_patch_counter() > 0
    partial = network(**given)
    patched.unpatch_model(CPU)
    assert (full - plain).norm() > 0.1 * plain.norm()
    torch.testing.assert_close(partial, full, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@both
def test_gradients_reach_every_weight_and_both_texts(changed):
    network = network_of(**changed)
    given = {name: tensor.requires_grad_() for name, tensor in inputs_of(network, 1, 2, 4, 4).items()}
    with torch.enable_grad(), host.training():
        network.requires_grad_(True)(**given).square().sum().backward()
    last = f"transformer_blocks.{MMDIT.depth - 1}."  # its text goes nowhere
    assert [n for n, p in network.named_parameters() if p.grad is None and not n.startswith(last)] == []
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in given.values())
