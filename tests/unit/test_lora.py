"""LoRA files under every naming, merged by the host: the original's numbers, and what artists do with them."""

import json
import logging

import client
import comfy.cli_args
import pytest
import test_saved_models as saved
import torch
from conftest import GOLDEN, dev, golden, part, relative_error
from safetensors.torch import load_file, save_file
from seeing import read_pictures
from test_server import graph, node

import nodes as host_nodes

lora = part("easyanimate_models.lora")
sd = part("easyanimate_models.sd")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
TINY = part("easyanimate_models.files.model_files").TINY
CPU = torch.device("cpu")
TOLERANCE = 1e-4
BASE, CASE, MULTIPLIER = "v3_transformer/inp_l28_uvit", "f3", 0.7
RECORDED = GOLDEN / "v3_lora" / "lora.safetensors"
RANK, ALPHA = 4, 2.0
NAMINGS = {  # a layer of the tiny transformer as files name it
    "easyanimate": lambda layer: "lora_unet__" + layer.replace(".", "_"),
    "kohya": lambda layer: "lora_unet_" + layer.replace(".", "_"),
    "peft": lambda layer: "base_model.model." + layer,
    "diffusers": lambda layer: "transformer." + layer,
    "host": lambda layer: "diffusion_model." + layer,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The transformer that the recorded LoRA was trained on, as `load` returns it."""
    return sd.load_transformer(_component(tmp_path_factory, golden(BASE), "transformer"), weight_dtype="fp32")


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """The recorded T5 in float32; the host would keep its weights, which float16 holds exactly, as float16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.cli_args.args, "fp32_text_enc", True)
        return sd.load_text_encoder(_component(tmp_path_factory, golden("v3_e2e/t5"), "text_encoder"))


@pytest.fixture
def tiny():
    return sd.load_transformer(TINY, weight_dtype="fp32")


def _component(factory, recorded, name: str):
    path = factory.mktemp(name)
    save_file(recorded.weights, path / "diffusion_pytorch_model.safetensors")
    (path / "config.json").write_text(json.dumps(recorded.config["constructor"]))
    return path


def linears(patcher) -> dict[str, torch.Tensor]:
    """Every linear weight of a transformer, by the name of its layer."""
    weights = patcher.model.diffusion_model.state_dict()
    return {k.removesuffix(".weight"): v for k, v in weights.items() if k.endswith(".weight") and v.ndim == 2}


def written(folder, layers: dict[str, torch.Tensor], naming: str = "easyanimate", seed: int = 0):
    """A LoRA file over `layers`, and the change that it stands for at strength 1."""
    tensors, changes, random = {}, {}, torch.Generator().manual_seed(seed)
    up_name, down_name = ("lora_B", "lora_A") if naming in ("peft", "diffusers") else ("lora_up", "lora_down")
    for layer, weight in layers.items():
        up, down = (
            torch.randn(shape, generator=random) * 0.1 for shape in ((weight.shape[0], RANK), (RANK, weight.shape[1]))
        )
        name = NAMINGS[naming](layer)
        tensors |= {f"{name}.{up_name}.weight": up, f"{name}.{down_name}.weight": down}
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
        changes[layer] = ALPHA / RANK * up @ down
    path = folder / f"{naming}-{seed}.safetensors"
    save_file(tensors, path)
    return path, changes


class Patched:
    """The weights of a MODEL or CLIP's patcher while its patches are in."""

    def __init__(self, patcher, lowvram: int = 0):
        self.patcher, self.lowvram = patcher, lowvram

    def __enter__(self):
        self.patcher.patch_model(CPU, lowvram_model_memory=self.lowvram)
        return self.patcher.model

    def __exit__(self, *_):
        self.patcher.unpatch_model(CPU)


def predict(patcher, lowvram: int = 0) -> torch.Tensor:
    """The tiny transformer's noise for fixed inputs."""
    random = torch.Generator().manual_seed(5)
    x, context = torch.randn(1, 4, 2, 8, 8, generator=random), torch.randn(1, 6, 32, generator=random)
    with Patched(patcher, lowvram) as model:
        return model.diffusion_model(x, torch.tensor([400.0]), context=context)


# --- the original's numbers --------------------------------------------------------------------------------------


def test_merged_weights_and_output_are_those_of_the_original(base, record_property):
    """The output is recorded; of the weights the record kept those after unmerging, so the formula stands for them."""
    recorded, inputs, tensors = golden("v3_lora/lora_expected"), golden(BASE).inputs(CASE), load_file(RECORDED)
    model, _ = lora.load_lora(RECORDED, base, strength_model=MULTIPLIER)
    x = torch.cat([inputs["hidden_states"], inputs["inpaint_latents"]], dim=1)
    with Patched(model) as patched:
        weights = {k: v.clone() for k, v in patched.diffusion_model.state_dict().items()}
        ours = patched.diffusion_model(
            x,
            inputs["timestep"],
            context=inputs["encoder_hidden_states"],
            attention_mask=inputs["text_embedding_mask"],
            clip_embeds=inputs["clip_encoder_hidden_states"],
            clip_mask=inputs["clip_attention_mask"],
        )
    error = relative_error(ours, recorded.tensors[f"outputs.{CASE}.sample_after_merge"][:, :4])
    record_property("output", error)
    assert error <= TOLERANCE
    original = golden(BASE).weights
    changed = {k for k, v in weights.items() if not torch.equal(v, original[k])}
    assert changed == {k for k in recorded.config["changed_weights"] if k in weights}
    assert len(changed) == sum(key.startswith("lora_unet") and key.endswith(".alpha") for key in tensors)
    for key in changed:
        name = NAMINGS["easyanimate"](key.removesuffix(".weight"))
        up, down, alpha = (
            tensors[f"{name}.{part}"].float() for part in ("lora_up.weight", "lora_down.weight", "alpha")
        )
        assert relative_error(weights[key], original[key] + MULTIPLIER * alpha / 2 * up @ down) <= TOLERANCE, key


def test_the_text_encoder_changes_as_recorded(base, t5, record_property):
    recorded = golden("v3_e2e/t5")
    _, clip = lora.load_lora(RECORDED, base, t5, strength_clip=MULTIPLIER)
    mask = recorded.tensors["inputs.attention_mask"].bool()
    theirs = golden("v3_lora/lora_expected").tensors["outputs.t5_last_hidden_state_after_merge"]
    for row in (0, 1):
        tokens = {"t5xxl": [[(int(i), 1.0) for i in recorded.tensors["inputs.input_ids"][row]]]}
        before, after = (each.encode_from_tokens(tokens)[0] for each in (t5, clip))
        error = relative_error(after[mask[row]], theirs[row][mask[row]])
        record_property(f"row {row}", error)
        assert error <= TOLERANCE
        assert relative_error(before[mask[row]], theirs[row][mask[row]]) > 0.01


# --- names, several at once, strengths, unloading -----------------------------------------------------------------


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_reaches_every_linear_layer(tiny, tmp_path, naming, caplog):
    path, changes = written(tmp_path, linears(tiny), naming)
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
    path, _ = written(tmp_path, linears(tiny), "host")
    monkeypatch.setattr("folder_paths.get_full_path_or_raise", lambda folder, name: str(path))
    stock = host_nodes.LoraLoaderModelOnly().load_lora_model_only(tiny, path.name, 0.7)[0]
    ours, _ = lora.load_lora(path, tiny, strength_model=0.7)
    assert torch.equal(predict(stock), predict(ours))


def test_two_in_a_row_add_up(tiny, tmp_path):
    (first, a), (second, b) = (written(tmp_path, linears(tiny), seed=seed) for seed in (1, 2))
    before = {k: v.clone() for k, v in linears(tiny).items()}
    model, _ = lora.load_lora(first, tiny, strength_model=0.5)
    model, _ = lora.load_lora(second, model, strength_model=0.25)
    with Patched(model):
        for layer, weight in linears(model).items():
            assert torch.allclose(weight, before[layer] + 0.5 * a[layer] + 0.25 * b[layer], atol=1e-6), layer


def test_a_negative_strength_undoes_the_positive_one(tiny, tmp_path):
    path, _ = written(tmp_path, linears(tiny))
    plain = predict(tiny)
    there, _ = lora.load_lora(path, tiny, strength_model=0.8)
    back, _ = lora.load_lora(path, there, strength_model=-0.8)
    assert relative_error(predict(there), plain) > 0.01
    assert relative_error(predict(back), plain) < 1e-5


@pytest.mark.parametrize("lowvram", [0, 300_000], ids=["fully loaded", "partly loaded"])
def test_unloading_leaves_every_weight_as_it_was(tiny, tmp_path, lowvram):
    path, _ = written(tmp_path, linears(tiny))
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
    path, _ = written(tmp_path, linears(exact))
    exact, small = (lora.load_lora(path, model)[0] for model in (exact, small))
    with Patched(small) as model:
        assert model.diffusion_model.proj_out.weight.dtype == torch.float8_e4m3fn
        weights = {k: v.float() for k, v in linears(small).items()}
    with Patched(exact):
        wanted = linears(exact)
        assert max(relative_error(weights[k], wanted[k]) for k in wanted) < 0.1  # three bits of mantissa


def test_weights_in_scaled_fp8_take_it_too(tmp_path):
    tensors = saved.scaled(saved.weights(), "scale_weight")
    small = sd.load_transformer(
        saved.tiny(tmp_path / "fp8", tensors | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)})
    )
    exact = sd.load_transformer(TINY, weight_dtype="fp32")
    path, _ = written(tmp_path, linears(exact))
    patched, ours = (saved.predict(lora.load_lora(path, model)[0]) for model in (exact, small))
    exact.unpatch_model(CPU)
    assert relative_error(ours, patched) < 0.15 < relative_error(saved.predict(exact), patched)


# --- files that don't fit -----------------------------------------------------------------------------------------


def refused(path, *args) -> str:
    with pytest.raises(CheckpointError) as error:
        lora.load_lora(path, *args)
    message = str(error.value)
    assert path.name in message and message.endswith(".") and "\n" not in message
    return message


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "Flux or HunyuanVideo"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "Stable Diffusion"),
        ("lora_unet__transformer_blocks_0_norm1_linear", "EasyAnimate V5"),
        ("diffusion_model.blocks.0.self_attn.q", "Wan"),
        ("something_else", "an unknown model"),
    ],
)
def test_a_lora_of_another_model_is_named(tiny, tmp_path, layer, said):
    path = tmp_path / "other.safetensors"
    save_file({f"{layer}.lora_up.weight": torch.ones(8, 2), f"{layer}.lora_down.weight": torch.ones(2, 8)}, path)
    message = refused(path, tiny)
    assert f"looks like a LoRA for {said}" in message and "none of its 1 layers" in message


def test_a_lora_of_another_size_is_an_error(tiny):
    assert "none of its" in refused(RECORDED, tiny)


def test_layers_that_do_not_fit_are_counted(tiny, tmp_path, caplog):
    layers = linears(tiny)
    strange = {"new_block.to_q": layers["proj_out"], "proj_out": torch.ones(3, 5)}
    path, _ = written(tmp_path, layers | strange)
    with caplog.at_level(logging.WARNING):
        lora.load_lora(path, tiny)
    assert f"2 of {len(layers) + 1} layers do not fit" in caplog.text
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


# --- on a server --------------------------------------------------------------------------------------------------


def test_a_server_samples_with_it_and_from_a_video(server, tiny):
    """Text to video, then that video again at denoise 0.6, both through the LoRA; after it the model is as before."""
    folder = dev.BASE / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    path, _ = written(folder, linears(tiny))
    try:
        load = node("EasyAnimateLoadLora", model=["model", 0], lora=path.name, strength_model=0.0)
        plain, none = made(server), made(server, load)
        load["inputs"]["strength_model"] = 0.5
        some, again = made(server, load), made(server, load, **second_pass())
    finally:
        path.unlink()
    assert torch.equal(plain, none)
    assert (some - plain).abs().mean() > 0.005
    assert again.shape == plain.shape and (again - some).abs().mean() > 0.001
    prompt = graph()["prompt"]
    prompt["inputs"]["positive"] += " "  # means the same, but the server must sample anew
    assert torch.equal(made(server, prompt=prompt), plain)


def made(server, load: dict | None = None, **changed) -> torch.Tensor:
    """The frames of a few steps, every sampler through the LoRA that `load` loads; as pictures, since H.264 varies."""
    nodes = graph(**changed)
    source = nodes.pop("video")["inputs"]["images"]
    nodes["save"] = node("SaveImage", images=source, filename_prefix="tests/lora")
    for each in [each for each in nodes.values() if each["class_type"] == "EasyAnimateSampler"]:
        each["inputs"] = {**each["inputs"], "steps": 5, "model": ["lora" if load else "model", 0]}
    return read_pictures(client.run(server, {**nodes, "lora": load} if load else nodes))


def second_pass() -> dict:
    inputs = {**graph()["sampler"]["inputs"], "latent": ["encode", 0], "denoise": 0.6, "seed": 2}
    return {
        "encode": node("EasyAnimateEncode", images=["decode", 0], vae=["vae", 0], tile_size=0),
        "second": node("EasyAnimateSampler", **inputs),
        "again": node("EasyAnimateDecode", latent=["second", 0], vae=["vae", 0], tile_size=0),
        "video": node("CreateVideo", images=["again", 0], fps=24),
    }
