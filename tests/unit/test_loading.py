"""Files in every layout that V3 comes in load; files that can't be used give one sentence that says what to do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.pack import part

sd = part("easyanimate_models.sd")
files = part("easyanimate_models.files.model_files")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
TINY = files.TINY
NAMES = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
LOADERS = {"transformer": sd.load_transformer, "vae": sd.load_vae, "text_encoder": sd.load_text_encoder}


def weights_of(component: str) -> dict[str, torch.Tensor]:
    return load_file(TINY / component / f"{NAMES[component]}.safetensors")


def network(loaded) -> torch.nn.Module:
    """The weights behind a MODEL, a VAE or a CLIP."""
    if hasattr(loaded, "first_stage_model"):
        return loaded.first_stage_model
    if hasattr(loaded, "cond_stage_model"):
        return loaded.cond_stage_model.t5xxl.transformer
    return loaded.model.diffusion_model


def assert_holds(loaded, tensors: dict[str, torch.Tensor]) -> None:
    weights = network(loaded).state_dict()
    assert set(weights) == set(tensors)
    assert all(torch.equal(weights[k].float(), v.float()) for k, v in tensors.items())


def component_folder(tmp_path: Path, component: str) -> Path:
    return Path(shutil.copytree(TINY / component, tmp_path / component))


@pytest.mark.parametrize("component", LOADERS)
class TestLayouts:
    def test_release_folder(self, component):
        assert_holds(LOADERS[component](TINY), weights_of(component))

    def test_component_folder(self, component):
        assert_holds(LOADERS[component](TINY / component), weights_of(component))

    def test_file_beside_its_config(self, component):
        path = TINY / component / f"{NAMES[component]}.safetensors"
        assert_holds(LOADERS[component](path), weights_of(component))

    def test_shards_named_by_their_index(self, component, tmp_path):
        folder, tensors = component_folder(tmp_path, component), weights_of(component)
        (folder / f"{NAMES[component]}.safetensors").unlink()
        half = len(tensors) // 2
        shards = {"fp16-00001-of-00002.safetensors": list(tensors)[:half], "b.safetensors": list(tensors)[half:]}
        for name, keys in shards.items():
            save_file({k: tensors[k] for k in keys}, folder / name)
        weight_map = {key: name for name, keys in shards.items() for key in keys}
        index = folder / f"{NAMES[component]}.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))
        assert_holds(LOADERS[component](folder), tensors)
        assert_holds(LOADERS[component](index), tensors)


def test_a_file_saved_by_the_host_loads(tmp_path):
    folder, tensors = component_folder(tmp_path, "transformer"), weights_of("transformer")
    saved = {f"model.diffusion_model.{k}": v for k, v in tensors.items()}
    save_file(saved | {"vae.conv_in.weight": torch.ones(1)}, folder / "diffusion_pytorch_model.safetensors")
    assert_holds(sd.load_transformer(folder), tensors)


def test_position_tables_and_training_leftovers_are_dropped(tmp_path):
    folder, tensors = component_folder(tmp_path, "transformer"), weights_of("transformer")
    motion = "transformer_blocks.0.attn_temporal.temporal_transformer.transformer_blocks.0"
    table = f"{motion}.attention_blocks.0.pos_encoder.pe"
    save_file(tensors | {table: torch.ones(1, 32, 128)}, folder / "diffusion_pytorch_model.safetensors")
    assert_holds(sd.load_transformer(folder), tensors)
    folder, tensors = component_folder(tmp_path, "vae"), weights_of("vae")
    leftover = {"loss.discriminator.main.0.weight": torch.ones(1)}
    save_file(tensors | leftover, folder / "diffusion_pytorch_model.safetensors")
    assert_holds(sd.load_vae(folder), tensors)


@pytest.mark.parametrize("duplicate", ["both names", "old name only"])
def test_t5_word_embeddings_under_either_name(duplicate, tmp_path):
    folder, tensors = component_folder(tmp_path, "text_encoder"), weights_of("text_encoder")
    saved = dict(tensors) | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}
    if duplicate == "old name only":
        del saved["shared.weight"]
    save_file(saved, folder / "model.safetensors")
    assert_holds(sd.load_text_encoder(folder), tensors)


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp16", "fp32", "fp8_e4m3fn"])
def test_weights_are_kept_as_asked(weight_dtype):
    model = sd.load_transformer(TINY, weight_dtype=weight_dtype)
    assert network(model).proj_out.weight.dtype == sd.WEIGHT_DTYPES[weight_dtype]


def test_t5_in_fp8_reads_prompts_alike(tmp_path):
    """As the `t5xxl_fp8_e4m3fn` that other models use: every tensor in fp8, no scales."""
    folder, tensors = component_folder(tmp_path, "text_encoder"), weights_of("text_encoder")
    save_file({k: v.to(torch.float8_e4m3fn) for k, v in tensors.items()}, folder / "model.safetensors")
    small, exact = sd.load_text_encoder(folder), sd.load_text_encoder(TINY)
    assert network(small).shared.weight.dtype == torch.float8_e4m3fn
    prompt = "a red ball moves left"
    a, b = (clip.encode_from_tokens(clip.tokenize(prompt)) for clip in (small, exact))
    assert a.shape == b.shape == (1, 120, 32)
    assert torch.cosine_similarity(a[:, :8].flatten(), b[:, :8].flatten(), dim=0) > 0.98


def test_t5_in_scaled_fp8_reads_prompts_alike(tmp_path):
    """As the `..._scaled` files: linear weights in fp8, each with its scale."""
    folder, tensors = component_folder(tmp_path, "text_encoder"), weights_of("text_encoder")
    saved = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for key, tensor in tensors.items():
        if tensor.ndim == 2 and "SelfAttention." in key and "relative" not in key or "DenseReluDense" in key:
            scale = tensor.float().abs().max() / 448
            saved[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            saved[key.replace(".weight", ".scale_weight")] = scale
        else:
            saved[key] = tensor
    save_file(saved, folder / "model.safetensors")
    small, exact = sd.load_text_encoder(folder), sd.load_text_encoder(TINY)
    a, b = (clip.encode_from_tokens(clip.tokenize("a red ball moves left")) for clip in (small, exact))
    assert torch.cosine_similarity(a[:, :8].flatten(), b[:, :8].flatten(), dim=0) > 0.98


def test_prompts_are_120_tokens_cut_with_their_end():
    clip = sd.load_text_encoder(TINY)
    short, long = (clip.tokenize(text)["t5xxl"] for text in ("a ball", "ball " * 300))
    assert [len(row) for row in (*short, *long)] == [120, 120]
    assert long[0][-1][0] == 1 and short[0][-1][0] == 0
    _, extra = clip.encode_from_tokens_scheduled(clip.tokenize("a ball"))[0]
    assert int(extra["attention_mask"].sum()) == sum(token != 0 for token, *_ in short[0])


def test_the_host_pixart_text_encoder_says_the_same():
    """CLIPLoader (pixart) gives unpadded tokens without a mask: the network must make the same of them."""
    import comfy.text_encoders.pixart_t5 as pixart

    ours = sd.load_text_encoder(TINY)

    class Target:
        params: dict = {}
        clip = pixart.pixart_te(dtype_t5=torch.float16)
        tokenizer = pixart.PixArtTokenizer

    t5 = part("easyanimate_models.model_detection").detect_text_encoder(
        part("easyanimate_models.files.checkpoint").read_checkpoint(TINY, "text_encoder")
    )
    options = {"tokenizer_data": {}, "parameters": 1, "model_options": {"t5xxl_model_config": t5.sizes}}
    host = part("easyanimate_models.host").clip_with_weights(Target, [weights_of("text_encoder")], **options)
    denoiser = network(sd.load_transformer(TINY, weight_dtype="fp32"))
    x, t = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    outputs = []
    for clip in (ours, host):
        context, extra = clip.encode_from_tokens_scheduled(clip.tokenize("a red ball moves left"))[0]
        outputs.append(denoiser(x, t, context=context, attention_mask=extra.get("attention_mask")))
    assert torch.allclose(*outputs, atol=1e-4)


# --- files that can't be used ------------------------------------------------------------------------------------


def refused(load, path: Path) -> str:
    """The one sentence that `load` answers with."""
    with pytest.raises(CheckpointError) as error:
        load(path)
    message = str(error.value)
    assert path.name in message or path.parent.name in message
    assert message.endswith(".") and "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize("component", LOADERS)
def test_missing_file(component, tmp_path):
    assert "does not exist" in refused(LOADERS[component], tmp_path / "gone.safetensors")


@pytest.mark.parametrize("component", LOADERS)
def test_text_renamed_to_safetensors(component, tmp_path):
    path = tmp_path / "notes.safetensors"
    path.write_text("This was a text file once.\n" * 20)
    assert "not a valid safetensors file" in refused(LOADERS[component], path)


@pytest.mark.parametrize("component", LOADERS)
def test_truncated_file(component, tmp_path):
    folder = component_folder(tmp_path, component)
    path = folder / f"{NAMES[component]}.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cut short" in refused(LOADERS[component], path)


@pytest.mark.parametrize(
    ("loader", "given", "message"),
    [
        ("transformer", "vae", "is an EasyAnimate video VAE, not"),
        ("transformer", "text_encoder", "is a T5 text encoder, not"),
        ("vae", "transformer", "is an EasyAnimate V1-V3 transformer, not"),
        ("text_encoder", "transformer", "is an EasyAnimate V1-V3 transformer, not"),
    ],
)
def test_a_file_of_another_kind_is_named(loader, given, message):
    assert message in refused(LOADERS[loader], TINY / given / f"{NAMES[given]}.safetensors")


def test_a_stable_diffusion_checkpoint_is_named(tmp_path):
    path = tmp_path / "v1-5.safetensors"
    key = "model.diffusion_model.input_blocks.0.0.weight"
    save_file({key: torch.zeros(320, 4, 3, 3), "first_stage_model.encoder.conv_in.weight": torch.zeros(1)}, path)
    for load in LOADERS.values():
        assert "is a Stable Diffusion checkpoint, not" in refused(load, path)


@pytest.mark.parametrize(
    ("component", "change"),
    [
        ("transformer", {"num_layers": 28}),
        ("transformer", {"in_channels": 12}),
        ("transformer", {"num_attention_heads": 7}),
        ("transformer", {"uvit_stored": 2}),
        ("vae", {"block_out_channels": [128, 256, 512, 512]}),
        ("vae", {"norm_num_groups": 7}),
        ("text_encoder", {"d_model": 4096}),
    ],
)
def test_a_config_that_contradicts_the_weights(component, change, tmp_path):
    folder = component_folder(tmp_path, component)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert "config.json" in refused(LOADERS[component], folder)


@pytest.mark.parametrize("component", LOADERS)
def test_incomplete_weights(component, tmp_path):
    folder, tensors = component_folder(tmp_path, component), weights_of(component)
    gone = list(tensors)[-1]
    save_file({k: v for k, v in tensors.items() if k != gone}, folder / f"{NAMES[component]}.safetensors")
    assert f"lacks {gone}" in refused(LOADERS[component], folder)
    strange = tensors | {"something.else": torch.zeros(1)}
    save_file(strange, folder / f"{NAMES[component]}.safetensors")
    assert "unexpected something.else" in refused(LOADERS[component], folder)


def test_an_index_can_not_leave_its_folder(tmp_path):
    folder = component_folder(tmp_path, "transformer")
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../vae/diffusion_pytorch_model.safetensors"}}))
    assert "outside its folder" in refused(sd.load_transformer, folder)
    index.write_text(json.dumps({"weight_map": {"a": "part-2.safetensors"}}))
    assert "missing" in refused(sd.load_transformer, folder)


def test_names_lead_nowhere_but_to_what_is_offered():
    for name in ("../../etc/passwd", "/etc/passwd", "..\\x.safetensors", ""):
        with pytest.raises(CheckpointError, match="There is no transformer named"):
            files.resolve("transformer", name)
    assert files.resolve("transformer", files.BUILT_IN) == TINY


def test_release_folders_and_extra_paths_are_offered(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "easyanimate", ([str(tmp_path)], set()))
    shutil.copytree(TINY, tmp_path / "EasyAnimateV3-XL-2")
    (tmp_path / "notes").mkdir()
    offered = files.choices("vae")
    assert offered["easyanimate/EasyAnimateV3-XL-2"] == tmp_path / "EasyAnimateV3-XL-2"
    assert "easyanimate/notes" not in offered
    folder_paths.add_model_folder_path("vae", str(tmp_path / "EasyAnimateV3-XL-2" / "vae"))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    assert "diffusion_pytorch_model.safetensors" in files.choices("vae")
