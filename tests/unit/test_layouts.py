"""Layouts beyond one safetensors file: pickles, PixArt and Stable Diffusion names, fp8, files that the host saved."""

import collections
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.ops import disable_weight_init
from safetensors.torch import load_file, save_file

from support.pack import part
from support.recorded import golden
from support.tiny_networks import random, randomise

sd = part("easyanimate_models.sd")
pickles = part("easyanimate_models.files.pickles")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
TINY = part("easyanimate_models.files.model_files").TINY
FILES = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
LOADERS = {"transformer": sd.load_transformer, "vae": sd.load_vae, "text_encoder": sd.load_text_encoder}
NETWORKS = {
    "transformer": lambda loaded: loaded.model.diffusion_model,
    "vae": lambda loaded: loaded.first_stage_model,
    "text_encoder": lambda loaded: loaded.cond_stage_model.t5xxl.transformer,
}
WORDS = {"context": random(2, 5, 32), "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])}


def weights_of(component: str) -> dict[str, torch.Tensor]:
    return load_file(TINY / component / f"{FILES[component]}.safetensors")


def folder_of(tmp_path: Path, component: str) -> Path:
    """A component of the tiny model with its config.json only."""
    folder = Path(shutil.copytree(TINY / component, tmp_path / component))
    (folder / f"{FILES[component]}.safetensors").unlink()
    return folder


def assert_holds(component: str, loaded, tensors: dict[str, torch.Tensor]) -> None:
    weights = NETWORKS[component](loaded).state_dict()
    assert set(weights) == set(tensors)
    assert all(torch.equal(weights[k].float(), v.float()) for k, v in tensors.items())


def predict(patcher) -> torch.Tensor:
    x = random(2, patcher.model.diffusion_model.config.in_channels, 3, 6, 8, seed=3)
    return patcher.model.diffusion_model(x, torch.tensor([300.0, 700.0]), **WORDS)


# --- pickles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", pickles.PICKLE_SUFFIXES)
@pytest.mark.parametrize("component", LOADERS)
def test_pickled_weights(component, suffix, tmp_path):
    folder, tensors = folder_of(tmp_path, component), weights_of(component)
    torch.save(tensors, folder / f"pytorch_model{suffix}")
    assert_holds(component, LOADERS[component](folder), tensors)
    assert_holds(component, LOADERS[component](folder / f"pytorch_model{suffix}"), tensors)


@pytest.mark.parametrize("wrapper", pickles.WRAPPERS)
def test_weights_inside_what_a_trainer_saved(wrapper, tmp_path):
    folder, tensors = folder_of(tmp_path, "transformer"), weights_of("transformer")
    parameters = collections.OrderedDict((k, torch.nn.Parameter(v)) for k, v in tensors.items())
    torch.save({wrapper: parameters, "epoch": 3, "optimizer": {"state": [1.0]}}, folder / "model.pth")
    assert_holds("transformer", sd.load_transformer(folder), tensors)


def test_the_old_format_of_pytorch(tmp_path):
    folder, tensors = folder_of(tmp_path, "vae"), weights_of("vae")
    torch.save(tensors, folder / "model.bin", _use_new_zipfile_serialization=False)
    assert_holds("vae", sd.load_vae(folder), tensors)


def test_pickled_shards_named_by_their_index(tmp_path):
    folder, tensors = folder_of(tmp_path, "text_encoder"), weights_of("text_encoder")
    half = len(tensors) // 2
    shards = {"pytorch_model-00001-of-00002.bin": list(tensors)[:half], "rest.bin": list(tensors)[half:]}
    for name, keys in shards.items():
        torch.save({k: tensors[k] for k in keys}, folder / name)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, keys in shards.items() for key in keys}}))
    assert_holds("text_encoder", sd.load_text_encoder(folder), tensors)
    assert_holds("text_encoder", sd.load_text_encoder(index), tensors)


def test_safetensors_are_preferred_to_pickles_beside_them(tmp_path):
    folder, tensors = folder_of(tmp_path, "vae"), weights_of("vae")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"never opened")
    (folder / "pytorch_model.bin.index.json").write_text("never opened")
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    assert_holds("vae", sd.load_vae(folder), tensors)


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("how", ["raw pickle", "torch.save", "old torch.save"])
@pytest.mark.parametrize("component", LOADERS)
def test_a_pickle_that_would_run_code_runs_nothing(component, how, tmp_path):
    path, target = tmp_path / "model.bin", tmp_path / "pwned"
    content = {"weight": torch.zeros(1), "more": Attack(target)}
    if how == "raw pickle":
        path.write_bytes(pickle.dumps(content["more"], protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch.save")
    message = refused(LOADERS[component], path)
    assert "it could run code" in message and not target.exists()


def test_pickles_need_a_pytorch_that_reads_them_safely(monkeypatch, tmp_path):
    path = tmp_path / "model.bin"
    torch.save(weights_of("vae"), path)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    monkeypatch.setattr(torch, "load", None)
    assert "can't be read safely by PyTorch 2.5.1" in refused(sd.load_vae, path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "contains no named weights"),
        ([torch.zeros(1)], "contains no named weights"),
        (None, "not a readable PyTorch file"),
    ],
)
def test_pickles_without_weights(content, message, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    if content is None:
        path.write_bytes(path.read_bytes()[:100])
    assert message in refused(sd.load_vae, path)


def refused(load, *paths: Path) -> str:
    """The one sentence that `load` answers with."""
    with pytest.raises(CheckpointError) as error:
        load(*paths)
    message = str(error.value)
    assert paths[-1].name in message
    assert message.endswith(".") and "\n" not in message and len(message) < 400
    return message


# --- names of others ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[64, 128], ids=["512 pixels", "1024 pixels"])
def pixart(request, tmp_path_factory):
    """The host's own PixArt, and a file of it as PixArt releases it: nested in a .pth, with its leftovers."""
    side = request.param
    sizes = {"hidden_size": 96, "depth": 2, "num_heads": 16, "caption_channels": 32, "micro_condition": side == 128}
    network = PixArtMS(**sizes, dtype=torch.float32, operations=disable_weight_init).eval()
    randomise(network)
    leftovers = {"pos_embed": torch.zeros(1, (side // 2) ** 2, 96), "y_embedder.y_embedding": torch.zeros(120, 32)}
    path = tmp_path_factory.mktemp("pixart") / "PixArt-XL-2.pth"
    torch.save({"state_dict": {**network.state_dict(), **leftovers}, "epoch": 1}, path)
    return side, network, path


def test_pixart_in_its_original_names_equals_the_hosts_own(pixart):
    side, network, path = pixart
    ours = sd.load_transformer(path, weight_dtype="fp32")
    assert ours.model.diffusion_model.config.sample_size == side and ours.model.diffusion_model.config.motion == ()
    x, timesteps = random(1, 4, 1, side - 8, side + 8), torch.tensor([431.0])
    context = random(1, 7, 32, seed=1)
    theirs = network(x[:, :, 0], timesteps, context)
    assert torch.allclose(ours.model.diffusion_model(x, timesteps, context=context)[:, :, 0], theirs, atol=1e-4)


def test_fused_layers_are_split_with_their_scales():
    table = part("easyanimate_models.names.pixart").PIXART
    theirs = {"weight": torch.arange(12.0).view(6, 2), "scale_weight": torch.tensor(3.0), "bias": torch.arange(6.0)}
    ours = table.ours({f"blocks.12.attn.qkv.{k}": v for k, v in theirs.items()})
    assert len(ours) == 9
    for i, name in enumerate("qkv"):
        layer = f"transformer_blocks.12.attn1.to_{name}"
        assert torch.equal(ours[f"{layer}.weight"], theirs["weight"][2 * i : 2 * i + 2])
        assert torch.equal(ours[f"{layer}.bias"], theirs["bias"][2 * i : 2 * i + 2])
        assert ours[f"{layer}.scale_weight"] == 3


@pytest.mark.parametrize("name", ["y_embedder.y_embedding", "caption_projection.y_embedding"])
def test_pixart_sigma_is_refused(name, tmp_path):
    tensors = {name: torch.zeros(300, 32)}
    assert "is a PixArt-Sigma model" in refused(sd.load_transformer, saved(tensors, tmp_path / "sigma.safetensors"))


@pytest.fixture(scope="module")
def motion_module():
    """Tensors of a V1 motion module of any size."""
    kind = part("easyanimate_models.supported_models").EasyAnimateV1.motion[0]
    module = part("easyanimate_models.dit.motion_module").MotionModule

    def make(width: int, depth: int) -> dict[str, torch.Tensor]:
        motion = module(width, kind, torch.float32, None, disable_weight_init)
        randomise(motion)
        prefixes = [f"transformer_blocks.{i}.attn_temporal." for i in range(depth)]
        return {prefix + k: v for prefix in prefixes for k, v in motion.state_dict().items()}

    return make


def saved(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    save_file({k: v.clone() for k, v in tensors.items()}, path)
    return path


def test_a_motion_module_goes_into_a_base_in_its_original_names(pixart, motion_module, tmp_path):
    _, network, base = pixart
    motion = motion_module(96, 2)
    both = sd.load_transformer(base, saved(motion, tmp_path / "easyanimate_v1_mm.safetensors"), weight_dtype="fp32")
    weights, theirs = both.model.diffusion_model.state_dict(), network.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in motion.items())
    for i, name in enumerate("qkv"):
        rows = theirs["blocks.1.attn.qkv.weight"][96 * i : 96 * (i + 1)]
        assert torch.equal(weights[f"transformer_blocks.1.attn1.to_{name}.weight"], rows)
    still, moving = (sd.load_transformer(base, weight_dtype="fp32"), both)
    assert not torch.allclose(predict(still), predict(moving), atol=1e-2)


def test_the_host_rebuilds_a_model_with_its_motion_module(pixart, motion_module, tmp_path):
    path = saved(motion_module(96, 2), tmp_path / "easyanimate_v1_mm.safetensors")
    patcher = sd.load_transformer(pixart[2], path, weight_dtype="fp32")
    if not hasattr(patcher, "cached_patcher_init"):
        pytest.skip("this host does not rebuild models")
    factory, given = patcher.cached_patcher_init
    again = factory(*given, disable_dynamic=True)
    assert torch.equal(predict(again), predict(patcher))


@pytest.mark.parametrize(
    ("width", "depth", "message"), [(64, 2, "for 2 blocks of width 64"), (96, 3, "for 3 blocks of width 96")]
)
def test_a_motion_module_of_another_size(pixart, motion_module, width, depth, message, tmp_path):
    path = saved(motion_module(width, depth), tmp_path / "motion.safetensors")
    assert message in refused(sd.load_transformer, pixart[2], path)


def test_files_in_the_wrong_place(pixart, motion_module, tmp_path):
    path = saved(motion_module(96, 2), tmp_path / "motion.safetensors")
    assert "choose the PixArt base as transformer and this file as motion_module" in refused(sd.load_transformer, path)
    whole = TINY / "transformer" / "diffusion_pytorch_model.safetensors"
    assert "not a motion module file" in refused(sd.load_transformer, pixart[2], whole)
    with pytest.raises(CheckpointError, match="already has motion modules"):
        sd.load_transformer(whole, path)
    with pytest.raises(CheckpointError, match="not a PixArt transformer"):
        sd.load_transformer(TINY / "vae", path)


def test_stable_diffusions_vae_equals_the_hosts_own(tmp_path):
    sizes = {"ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 2, "resolution": 256, "attn_resolutions": []}
    channels = {"in_channels": 3, "out_ch": 3, "z_channels": 4, "double_z": True, "dropout": 0.0}
    network = AutoencoderKL(embed_dim=4, ddconfig=sizes | channels).eval()
    randomise(network)
    leftovers = {"loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}
    torch.save({"state_dict": network.state_dict() | leftovers}, tmp_path / "vae-ft-mse-840000.ckpt")
    ours = sd.load_vae(tmp_path / "vae-ft-mse-840000.ckpt")
    assert ours.latent_format.release == "V1"
    pixels, latents = random(2, 3, 32, 48), random(2, 4, 4, 6)
    encoded = ours.first_stage_model.encode(pixels.movedim(0, 1)[None])[0].movedim(1, 0)
    mean = network.quant_conv(network.encoder(pixels)).chunk(2, dim=1)[0]
    assert torch.allclose(encoded, mean, atol=1e-4)
    decoded = ours.first_stage_model.decode(latents.movedim(0, 1)[None])[0].movedim(1, 0)
    assert torch.allclose(decoded, network.decode(latents), atol=1e-4)


def test_an_image_vae_with_the_attention_names_of_old(tmp_path):
    recorded = golden("v1_e2e/sd_vae")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = dict(recorded.weights)
    for new, name in old.items():
        renamed = {k.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): v for k, v in renamed.items()}
    assert set(renamed) != set(recorded.weights)
    save_file(renamed, tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(recorded.config["constructor"]))
    assert_holds("vae", sd.load_vae(tmp_path / "vae.safetensors"), recorded.weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaling_factor": 0.13025}, "scales its latents by 0.13025, but V1 needs 0.18215"),  # SDXL
        ({"norm_num_groups": 7}, "not divisible by 7 norm groups"),
        ({"block_out_channels": [128, 256, 512, 512]}, "they belong to different models"),
    ],
)
def test_image_vaes_that_v1_can_not_use(change, message, tmp_path):
    recorded = golden("v1_e2e/sd_vae")
    path = saved(recorded.weights, tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(recorded.config["constructor"] | change))
    assert message in refused(sd.load_vae, path)


def test_an_image_vae_of_more_channels(tmp_path):
    tensors = golden("v1_e2e/sd_vae").weights | {"decoder.conv_in.weight": torch.zeros(16, 16, 3, 3)}
    assert "an image VAE with 16 latent channels" in refused(sd.load_vae, saved(tensors, tmp_path / "flux.safetensors"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mini_batch_encoder": 8}, "says mini_batch_encoder 8, but V2 has 9; replace"),
        ({"cache_compression_vae": True}, "says both slice_mag_vae and cache_compression_vae"),
        ({"slice_mag_vae": False, "cache_mag_vae": True}, "has 4 latent channels, but the VAE of V5 has 16; choose"),
    ],
)
def test_video_vaes_of_no_release_that_we_know(change, message, tmp_path):
    recorded = golden("v2_mag_vae/mag_vae")
    leftover = {"loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1)}
    path = saved(recorded.weights | leftover, tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(recorded.config["constructor"]))
    assert sd.load_vae(path).latent_format.release == "V2"
    (tmp_path / "config.json").write_text(json.dumps(recorded.config["constructor"] | change))
    assert message in refused(sd.load_vae, path)


def test_the_loader_node_offers_motion_modules_and_takes_them(pixart, motion_module, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    loaders, files = part("nodes.loaders"), part("easyanimate_models.files.model_files")
    saved(motion_module(96, 2), tmp_path / "easyanimate_v1_mm.safetensors")
    shutil.copy(pixart[2], tmp_path / "PixArt-XL-2.pth")
    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path))
    motion_input = loaders.EasyAnimateLoadTransformer.define_schema().inputs[-1]
    assert motion_input.optional and motion_input.options[0] == motion_input.default == "none"
    assert "easyanimate_v1_mm.safetensors" in motion_input.options and files.BUILT_IN not in motion_input.options
    execute = loaders.EasyAnimateLoadTransformer.execute
    (still,) = execute("PixArt-XL-2.pth", "fp32").args
    (moving,) = execute("PixArt-XL-2.pth", "fp32", "easyanimate_v1_mm.safetensors").args
    assert still.model.diffusion_model.config.motion == () and len(moving.model.diffusion_model.config.motion) == 1
    with pytest.raises(CheckpointError, match="There is no motion module named"):
        execute("PixArt-XL-2.pth", "fp32", "../secret.safetensors")
