"""V4's network: conditions and their defaults, masks, the host's hooks, memory policy, saving."""

import json

import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import load_file

from support.components import write_component
from support.pack import part
from support.recorded import GOLDEN
from support.tiny_networks import HUNYUAN_DIT, random, tiny_hunyuan_dit

configs = part("easyanimate_models.configs.hunyuan_dit")
hunyuan_dit = part("easyanimate_models.dit.hunyuan_dit")
layers = part("easyanimate_models.dit.layers")
sd = part("easyanimate_models.sd")
supported_models = part("easyanimate_models.supported_models")
CPU = torch.device("cpu")
BLOCKS = range(HUNYUAN_DIT.depth)
LENGTH, LENGTH_2, QUERIES = HUNYUAN_DIT.text_length, HUNYUAN_DIT.text_length_2, HUNYUAN_DIT.resampler.queries
RAW_TABLES = (  # parameters outside the host's operations; forward moves them to the input's device
    *("text_embedding_padding", "clip_padding", "query", "pos_embed", "positional_embedding"),
    *("in_proj_weight", "in_proj_bias"),
)


@pytest.fixture(scope="module")
def patcher():
    return tiny_hunyuan_dit()


@pytest.fixture
def network(patcher):
    return patcher.model.diffusion_model


def conditions(batch: int = 1, **changed) -> dict:
    """Text of the trained lengths, some of it masked, and a start image; those that are None are left out."""
    given = {
        "context": random(batch, LENGTH, HUNYUAN_DIT.caption_channels, seed=1),
        "context_t5": random(batch, LENGTH_2, HUNYUAN_DIT.caption_channels_2, seed=2),
        "attention_mask": (torch.arange(LENGTH) < torch.arange(2, 2 + batch)[:, None]).long(),
        "attention_mask_t5": (torch.arange(LENGTH_2) < torch.arange(3, 3 + batch)[:, None]).float(),
        "clip_embeds": random(batch, 9, HUNYUAN_DIT.resampler.channels, seed=3),
        "clip_mask": torch.ones(batch, QUERIES),
    }
    return {k: v for k, v in (given | changed).items() if v is not None}


def noise(batch: int = 1, frames: int = 2, height: int = 4, width: int = 6, channels: int = 12) -> torch.Tensor:
    return random(batch, channels, frames, height, width)


def predict(network, x: torch.Tensor, options: dict | None = None, **changed) -> torch.Tensor:
    given = conditions(len(x), **changed)
    return network(x, torch.linspace(100, 900, len(x)), transformer_options=options or {}, **given)


def assert_changes(ours: torch.Tensor, other: torch.Tensor) -> None:
    assert (ours - other).norm() > 1e-3 * other.norm()


def patches(**by_block) -> dict:
    return {"patches_replace": {"dit": {("double_block", int(i[1:])): patch for i, patch in by_block.items()}}}


def test_every_weight_lies_in_one_of_the_hosts_operations(network):
    for name, module in network.named_modules():
        own = {n for n, _ in module.named_parameters(recurse=False)}
        assert hasattr(module, "comfy_cast_weights") or own <= set(RAW_TABLES), f"{name} holds {own}"


@pytest.mark.parametrize("frames", [1, 2, 5, 18])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (1, 1)])
def test_any_size_and_length_can_be_denoised(network, frames, height, width):
    velocity = predict(network, noise(1, frames, height, width))
    assert velocity.shape == (1, 4, frames, height, width) and velocity.isfinite().all()


def test_a_batch_equals_each_of_it_alone(network):
    x, timesteps, given = noise(2), torch.tensor([100.0, 900.0]), conditions(2)
    given |= {"clip_mask": torch.tensor([[1.0], [0.0]]).expand(2, QUERIES)}
    together = network(x, timesteps, **given)
    for i in range(2):
        alone = {k: v[i : i + 1] for k, v in given.items()}
        torch.testing.assert_close(
            together[i : i + 1], network(x[i : i + 1], timesteps[i : i + 1], **alone), rtol=1e-5, atol=1e-5
        )


def test_what_the_mask_leaves_out_is_learned_padding(network):
    x, given = noise(), conditions()
    before = network(x, torch.tensor([500.0]), **given)
    context = given["context"].clone()
    context[:, 2:] = 7.0  # masked
    assert torch.equal(network(x, torch.tensor([500.0]), **given | {"context": context}), before)
    context[:, 1] = 7.0
    assert_changes(network(x, torch.tensor([500.0]), **given | {"context": context}), before)
    with torch.no_grad():
        padding = network.text_embedding_padding
        learned = padding.clone()
        padding[:2] += 1.0  # of tokens that are there
        assert torch.equal(network(x, torch.tensor([500.0]), **given), before)
        padding[2:3] += 1.0
        assert_changes(network(x, torch.tensor([500.0]), **given), before)
        padding.copy_(learned)


def test_all_of_the_second_text_is_pooled_masked_or_not(network):
    changed = conditions()["context_t5"].clone()
    changed[:, -1] = 7.0
    assert_changes(predict(network, noise(), context_t5=changed), predict(network, noise()))


def test_a_text_that_ends_early_is_padded_and_one_without_a_mask_counts_whole(network):
    given = conditions()
    short = {"context": given["context"][:, :2], "attention_mask": None}
    torch.testing.assert_close(predict(network, noise(), **short), predict(network, noise()))
    whole = predict(network, noise(), attention_mask=torch.ones(1, LENGTH), attention_mask_t5=torch.ones(1, LENGTH_2))
    assert torch.equal(predict(network, noise(), attention_mask=None, attention_mask_t5=None), whole)


def test_texts_that_were_joined_are_padded_each(network):
    given, mask = conditions(), conditions()["attention_mask"]
    twice = {"context": given["context"].repeat(1, 2, 1), "attention_mask": mask.repeat(1, 2)}
    filled = torch.where(mask[..., None] > 0, given["context"], network.text_embedding_padding[:LENGTH])
    expected = predict(network, noise(), context=filled.repeat(1, 2, 1), attention_mask=None)
    torch.testing.assert_close(predict(network, noise(), **twice), expected)


def test_no_start_image_is_one_that_is_masked(network):
    without = predict(network, noise(), clip_embeds=None, clip_mask=None)
    assert torch.equal(predict(network, noise(), clip_mask=torch.zeros(1, QUERIES)), without)
    assert torch.equal(predict(network, noise(), clip_mask=None), predict(network, noise()))
    assert_changes(predict(network, noise()), without)


def test_a_network_that_sees_no_start_image_leaves_it_out():
    network = tiny_hunyuan_dit(in_channels=4, resampler=None).model.diffusion_model
    x = noise(channels=4)
    assert torch.equal(predict(network, x), predict(network, x, clip_embeds=None, clip_mask=None))


def test_size_and_style_have_defaults(network):
    sizes, style = torch.tensor([[1024, 1024, 32, 48, 0, 0]]), torch.zeros(1, dtype=torch.long)
    explicit = predict(network, noise(), image_meta_size=sizes, style=style)
    assert torch.equal(predict(network, noise()), explicit)
    assert_changes(predict(network, noise(), image_meta_size=sizes.flip(1)), explicit)


def test_every_block_can_be_hooked(network):
    hooked = []

    def watch(args, extra):
        hooked.append({name: args[name].shape for name in ("img", "txt", "vec", "pe")})
        out = extra["original_block"](args)
        assert torch.equal(out["txt"], args["txt"])
        return out

    ours = predict(network, noise(), patches(**{f"b{i}": watch for i in BLOCKS}))
    assert torch.equal(ours, predict(network, noise()))
    shapes = {"img": (1, 12, 32), "txt": (1, LENGTH + LENGTH_2, 16), "vec": (1, 32), "pe": (1, 12, 1, 8, 2, 2)}
    assert hooked == [shapes for _ in BLOCKS]


@pytest.mark.parametrize("index", BLOCKS)
@pytest.mark.parametrize("name", ["img", "txt", "vec", "pe"])
def test_what_a_hook_changes_reaches_its_block(network, index, name):
    def change(args, extra):
        return extra["original_block"]({**args, name: args[name].flip(-1)})

    assert_changes(predict(network, noise(), patches(**{f"b{index}": change})), predict(network, noise()))


@pytest.mark.parametrize("index", BLOCKS)
def test_any_block_can_be_skipped(network, index):
    ours = predict(network, noise(), patches(**{f"b{index}": lambda args, extra: args}))
    assert_changes(ours, predict(network, noise()))


def test_long_skips_come_back_last_in_first_out(network):
    given, expected = [], []
    stored = network.blocks[: HUNYUAN_DIT.stored_skips]
    hooks = [b.register_forward_hook(lambda module, args, out: expected.insert(0, out)) for b in stored]
    hooks += [b.register_forward_hook(lambda module, args, out: given.append(args[1])) for b in network.blocks]
    predict(network, noise())
    for hook in hooks:
        hook.remove()
    assert len(expected) == 2 and all(skip is None for skip in given[:4])
    assert [id(x) for x in given[4:]] == [id(x) for x in expected]


def test_a_wrapper_stands_around_the_network(network):
    def twice(executor, *args, **kwargs):
        return 2 * executor(*args, **kwargs)

    options = {"wrappers": {WrappersMP.DIFFUSION_MODEL: {"test": [twice]}}}
    assert torch.equal(predict(network, noise(), options), 2 * predict(network, noise()))


def test_rotary_positions_are_those_of_the_original():
    tables = load_file(GOLDEN / "rope_tables" / "rope.safetensors")
    cases = json.loads((GOLDEN / "rope_tables" / "rope.json").read_text())["cases"]
    flat = {name: case for name, case in cases.items() if name.startswith("2d")}
    assert flat
    for name, case in flat.items():
        rows, columns = (case[f"pixel_{side}"] // 8 // case["patch_size"] for side in ("height", "width"))
        ours = hunyuan_dit.rotary_positions(rows, columns, case["head_dim"], CPU, {})
        ours = ours[0, tables[f"inputs.{name}.token_index"], 0].repeat_interleave(2, dim=1)
        torch.testing.assert_close(ours[..., 0, 0], tables[f"outputs.{name}.cos"], rtol=0, atol=1e-5)
        torch.testing.assert_close(ours[..., 1, 0], tables[f"outputs.{name}.sin"], rtol=0, atol=1e-5)


def test_the_host_scales_and_shifts_rotary_positions(network):
    plain, same = predict(network, noise()), {"scale_x": 1.0, "shift_x": 0.0, "scale_y": 1.0, "shift_y": 0.0}
    assert torch.equal(predict(network, noise(), {"rope_options": same}), plain)
    for name in same:
        assert_changes(predict(network, noise(), {"rope_options": same | {name: 3.0}}), plain)


def test_block_0_rotates_by_default():
    rotating, still = (tiny_hunyuan_dit(**given).model.diffusion_model for given in ({}, {"rotary_in_block_0": False}))
    assert_changes(predict(rotating, noise()), predict(still, noise()))


def test_a_controlnet_is_refused(network):
    with pytest.raises(ValueError, match="no ControlNets for EasyAnimate V4; remove Apply ControlNet"):
        predict(network, noise(), control={"output": [random(1, 12, 32)]})
    assert torch.equal(predict(network, noise(), control=None), predict(network, noise()))


def test_tokens_in_parts_are_tokens_at_once(network, monkeypatch):
    at_once = predict(network, noise(2))
    monkeypatch.setattr(layers, "TOKENS_AT_ONCE", 5)
    torch.testing.assert_close(predict(network, noise(2)), at_once, rtol=1e-5, atol=1e-5)


def test_nothing_is_left_on_the_modules(network):
    def state():
        own = ("_parameters", "_buffers", "_modules")
        modules = network.named_modules()
        return {name: {k: repr(v) for k, v in vars(module).items() if k not in own} for name, module in modules}

    before = state()
    predict(network, noise())
    assert state() == before


def test_partial_load_with_a_lora_equals_full_load_and_unpatching_restores_every_bit():
    patcher, lora = tiny_hunyuan_dit(), {}
    network = patcher.model.diffusion_model
    before, plain = {k: v.clone() for k, v in patcher.model.state_dict().items()}, predict(network, noise())
    for name, module in network.blocks.named_modules():
        if isinstance(module, torch.nn.Linear):
            out, inner = module.weight.shape
            lora[f"diffusion_model.blocks.{name}.lora_up.weight"] = random(out, 2, seed=len(lora)) / 8
            lora[f"diffusion_model.blocks.{name}.lora_down.weight"] = random(2, inner, seed=len(lora)) / 8
    patched, found = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0)[0], []
    for lowvram in (0, patcher.model_size() // 2):
        patched.patch_model(CPU, lowvram_model_memory=lowvram)
        found.append(predict(patched.model.diffusion_model, noise()))
        patched.unpatch_model(CPU)
    full, partial = found
    assert_changes(full, plain)
    torch.testing.assert_close(partial, full, rtol=1e-5, atol=1e-5)
    after = patcher.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("changed", [{}, {"rotary_in_block_0": False}, {"in_channels": 4, "resampler": None}])
def test_a_model_saved_by_the_host_comes_back_without_any_config(tmp_path, changed):
    network = tiny_hunyuan_dit(**changed).model.diffusion_model
    folder = write_component(tmp_path / "t", network.state_dict(), configs.hunyuan_dit_config(network.config))
    before, saved = sd.load_transformer(folder, weight_dtype="fp32"), tmp_path / "saved.safetensors"
    assert before.model.diffusion_model.config == network.config
    comfy.sd.save_checkpoint(str(saved), before, metadata={})
    after = sd.load_transformer(saved, weight_dtype="fp32")
    assert type(after.model.model_config).__name__ == "EasyAnimateV4"
    assert after.model.diffusion_model.config == network.config
    x = noise(channels=network.config.in_channels)
    assert torch.equal(predict(after.model.diffusion_model, x), predict(before.model.diffusion_model, x))


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8_e4m3fn"])
def test_small_weights_are_read_as_they_are_stored(tmp_path, weight_dtype):
    network = tiny_hunyuan_dit().model.diffusion_model
    folder = write_component(tmp_path / "t", network.state_dict(), configs.hunyuan_dit_config(network.config))
    given = {k: v for k, v in conditions().items() if k != "context"}
    wide, small = (
        sd.load_transformer(folder, weight_dtype=dtype).model.apply_model(
            noise(channels=4), torch.tensor([3.0]), noise(channels=8), conditions()["context"], **given
        )
        for dtype in ("fp32", weight_dtype)
    )
    assert (small - wide).norm() < 0.2 * wide.norm()
