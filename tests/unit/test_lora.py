"""LoRA files under every naming, merged by the host, and what artists do with them."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import nodes as host_nodes
from support.components import Patched, predict, scaled_fp8, tiny_weights, write_component, write_tiny
from support.loras import NAMINGS, linears, write_lora
from support.pack import part
from support.recorded import GOLDEN, golden, relative_error

lora = part("easyanimate_models.lora")
sd = part("easyanimate_models.sd")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
TINY = part("easyanimate_models.files.model_files").TINY
BASE = "v3_transformer/inp_l28_uvit"
RECORDED = GOLDEN / "v3_lora" / "lora.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The transformer that the recorded LoRA was trained on, as `load` returns it."""
    return _load(sd.load_transformer, tmp_path_factory, BASE, weight_dtype="fp32")


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """The T5 that the recorded LoRA was trained on."""
    return _load(sd.load_text_encoder, tmp_path_factory, "v3_e2e/t5")


def _load(load, factory, name: str, **options):
    recorded = golden(name)
    return load(
        write_component(factory.mktemp("component"), recorded.weights, recorded.config["constructor"]), **options
    )


@pytest.fixture
def tiny():
    return sd.load_transformer(TINY, weight_dtype="fp32")


# --- names, several at once, strengths, unloading -----------------------------------------------------------------


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_reaches_every_linear_layer(tiny, tmp_path, naming, caplog):
    path, changes = write_lora(tmp_path, linears(tiny), naming)
    before = {k: v.clone() for k, v in linears(tiny).items()}
    with caplog.at_level(logging.WARNING):
        model, clip = lora.load_lora(path, tiny, strength_model=0.7)
    assert clip is None and not caplog.records
    with Patched(model):
        for layer, weight in linears(model).items():
            assert torch.allclose(weight, before[layer] + 0.7 * changes[layer], atol=1e-6), layer
    assert {"proj_out", "caption_projection.linear_1", "adaln_single.linear", "long_connect_fc.0"} <= set(changes)
    assert any("attn_temporal" in layer for layer in changes)


def test_the_stock_loader_takes_the_host_naming(tiny, tmp_path, monkeypatch):
    path, _ = write_lora(tmp_path, linears(tiny), "host")
    monkeypatch.setattr("folder_paths.get_full_path_or_raise", lambda folder, name: str(path))
    stock = host_nodes.LoraLoaderModelOnly().load_lora_model_only(tiny, path.name, 0.7)[0]
    ours, _ = lora.load_lora(path, tiny, strength_model=0.7)
    assert torch.equal(predict(stock), predict(ours))


def test_two_in_a_row_add_up(tiny, tmp_path):
    (first, a), (second, b) = (write_lora(tmp_path, linears(tiny), seed=seed) for seed in (1, 2))
    before = {k: v.clone() for k, v in linears(tiny).items()}
    model, _ = lora.load_lora(first, tiny, strength_model=0.5)
    model, _ = lora.load_lora(second, model, strength_model=0.25)
    with Patched(model):
        for layer, weight in linears(model).items():
            assert torch.allclose(weight, before[layer] + 0.5 * a[layer] + 0.25 * b[layer], atol=1e-6), layer


def test_a_negative_strength_undoes_the_positive_one(tiny, tmp_path):
    path, _ = write_lora(tmp_path, linears(tiny))
    plain = predict(tiny)
    there, _ = lora.load_lora(path, tiny, strength_model=0.8)
    back, _ = lora.load_lora(path, there, strength_model=-0.8)
    assert relative_error(predict(there), plain) > 0.01
    assert relative_error(predict(back), plain) < 1e-5


@pytest.mark.parametrize("lowvram", [0, 300_000], ids=["fully loaded", "partly loaded"])
def test_unloading_leaves_every_weight_as_it_was(tiny, tmp_path, lowvram):
    path, _ = write_lora(tmp_path, linears(tiny))
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    plain, (model, _) = predict(tiny), lora.load_lora(path, tiny)
    changed = predict(model, lowvram)
    assert not torch.allclose(changed, plain, atol=1e-3)
    assert torch.allclose(changed, predict(model), atol=1e-5)
    after = model.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert torch.allclose(predict(tiny), plain, atol=1e-5)


def test_weights_in_fp8_take_it_too(tmp_path):
    exact, small = (sd.load_transformer(TINY, weight_dtype=dtype) for dtype in ("fp32", "fp8_e4m3fn"))
    path, _ = write_lora(tmp_path, linears(exact))
    exact, small = (lora.load_lora(path, model)[0] for model in (exact, small))
    with Patched(small) as model:
        assert model.diffusion_model.proj_out.weight.dtype == torch.float8_e4m3fn
        weights = {k: v.float() for k, v in linears(small).items()}
    with Patched(exact):
        expected = linears(exact)
        assert max(relative_error(weights[k], expected[k]) for k in expected) < 0.1  # three bits of mantissa


def test_weights_in_scaled_fp8_take_it_too(tmp_path):
    tensors = scaled_fp8(tiny_weights(), "scale_weight") | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    small = sd.load_transformer(write_tiny(tmp_path / "fp8", tensors))
    exact = sd.load_transformer(TINY, weight_dtype="fp32")
    path, _ = write_lora(tmp_path, linears(exact))
    patched, ours = (predict(lora.load_lora(path, model)[0]) for model in (exact, small))
    assert relative_error(ours, patched) < 0.15 < relative_error(predict(exact), patched)


# --- files that don't fit -----------------------------------------------------------------------------------------


def refused(path, *args) -> str:
    with pytest.raises(CheckpointError) as error:
        lora.load_lora(path, *args)
    message = str(error.value)
    assert path.name in message and message.endswith(".") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "Flux or HunyuanVideo"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "Stable Diffusion"),
        ("lora_unet__transformer_blocks_0_norm1_linear", "EasyAnimate V5"),
        ("diffusion_model.blocks.0.self_attn.q", "Wan"),
        ("something_else", "an unknown model"),
    ],
)
def test_a_lora_of_another_model_is_named(tiny, tmp_path, layer, message):
    path = tmp_path / "other.safetensors"
    save_file({f"{layer}.lora_up.weight": torch.ones(8, 2), f"{layer}.lora_down.weight": torch.ones(2, 8)}, path)
    error = refused(path, tiny)
    assert f"looks like a LoRA for {message}" in error and "none of its 1 layers" in error


def test_a_lora_of_another_size_is_an_error(tiny):
    assert "none of its" in refused(RECORDED, tiny)


def test_layers_that_do_not_fit_are_counted(tiny, tmp_path, caplog):
    layers = linears(tiny)
    strange = {"new_block.to_q": layers["proj_out"], "proj_out": torch.ones(3, 5)}
    path, _ = write_lora(tmp_path, layers | strange)
    with caplog.at_level(logging.WARNING):
        lora.load_lora(path, tiny)
    assert f"2 of {len(layers) + 1} layers do not match" in caplog.text
    assert "lora_unet__new_block_to_q" in caplog.text and "lora_unet__proj_out" in caplog.text


def test_without_a_clip_the_text_part_is_announced(base, caplog):
    with caplog.at_level(logging.INFO):
        lora.load_lora(RECORDED, base)
    assert "also changes the text encoder (14 layers); connect clip" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_lora_for_the_text_encoder_only_needs_one(tiny, t5, tmp_path):
    path = tmp_path / "words.safetensors"
    save_file({k: v for k, v in load_file(RECORDED).items() if k.startswith("lora_te")}, path)
    assert "connect the text encoder" in refused(path, tiny)
    _, clip = lora.load_lora(path, tiny, t5)
    assert clip.patcher.patches


def test_other_files_are_no_loras(tiny, tmp_path):
    path = TINY / "transformer" / "diffusion_pytorch_model.safetensors"
    assert "is an EasyAnimate V1-V3 transformer, not a LoRA" in refused(path, tiny)
    path = tmp_path / "notes.safetensors"
    path.write_text("no weights here\n" * 40)
    assert "not a valid safetensors file" in refused(path, tiny)
