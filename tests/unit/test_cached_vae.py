"""The VAEs of V4, V5 and V5.1: what is kept from slice to slice, memory, tiles, lengths, and files of other kinds."""

import json
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management as mm
import pytest
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from support.components import write_component
from support.pack import part
from support.recorded import golden
from support.tiny_networks import VAE_CONFIGS, random, tiny_release_vae

LiveBytes = part("benchmarks.live_bytes").LiveBytes
checkpoint = part("easyanimate_models.files.checkpoint")
conditioning = part("nodes.conditioning")
decoding = part("nodes.decoding")
host_vae = part("easyanimate_models.vae.host_vae")
latents = part("nodes.latents")
sd = part("easyanimate_models.sd")
supported_models = part("easyanimate_models.supported_models")
tiling = part("easyanimate_models.vae.tiling")

V5, V51, V4 = "v5_vae/spatial_attn_vae", "v5_mag_vae/cache_mag_vae_spatial_gn", "v4_cache_vae/cache_compression_vae"
CACHED = ("V4", "V5", "V5.1")
RELEASES = ("V1", "V2", "V3", *CACHED)
every_cached = pytest.mark.parametrize("release", CACHED)
WIDTHS = (128, 256, 512, 512)  # of the releases


@pytest.fixture(scope="module")
def vaes():
    return {release: tiny_release_vae(release) for release in (*CACHED, "V3")}


# --- what is kept -------------------------------------------------------------------------------------------------


@every_cached
def test_decodes_that_interleave_keep_apart_and_leave_nothing_behind(vaes, release):
    network, channels = vaes[release].first_stage_model, vaes[release].latent_channels
    a, b = random(1, channels, 6, 2, 3), random(1, channels, 3, 3, 2, seed=1)
    alone_a, alone_b = network.decode(a), network.decode(b)
    between = []
    mixed = network.decode(a, on_slice=lambda: between.append(network.decode(b)))
    assert torch.equal(mixed, alone_a) and all(torch.equal(each, alone_b) for each in between)
    assert torch.equal(network.decode(a), alone_a)


@pytest.mark.parametrize("release", ["V5", "V5.1"])
def test_a_clip_begins_as_its_first_frames_alone_do(vaes, release):
    network, x = vaes[release].first_stage_model, random(1, 3, 13, 16, 24)
    z = network.encode(x)
    torch.testing.assert_close(z[:, :, :2], network.encode(x[:, :, :5]))
    torch.testing.assert_close(network.decode(z)[:, :, :5], network.decode(z[:, :, :2]))


@every_cached
def test_tiles_of_a_video_know_nothing_of_each_other(vaes, release):
    """Two tiles side by side, without overlap: each is what its part of the frame gives alone."""
    network, z = vaes[release].first_stage_model, random(1, vaes[release].latent_channels, 4, 4, 8)
    tiles = tiling.Tiling(4, 0)
    whole = network.decode(z, tiling=tiles)
    for half, columns in ((z[..., :4], slice(0, 32)), (z[..., 4:], slice(32, 64))):
        torch.testing.assert_close(whole[..., columns], network.decode(half))


# --- memory -------------------------------------------------------------------------------------------------------


def released_network(release: str):
    """The network at full size, without weights."""
    cls = getattr(supported_models, f"EasyAnimate{release.replace('.', '')}")
    config = replace(VAE_CONFIGS[release], channels=WIDTHS, norm_groups=32)
    return cls.vae(config, dtype=torch.bfloat16, device="meta")


class LiveBytesOfGPU(LiveBytes):
    """The same on a GPU, which copies the input of a convolution."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten.convolution.default:
            self.peak = max(self.peak, self.now + args[0].nbytes)
        return result


def peak(network, what: str, side: int, frames: int, counting: type[LiveBytes]) -> int:
    """Bytes above the weights, counted without computing."""
    plan, cache = network.plan, {}
    if what == "encode":
        x, slices = torch.empty(1, 3, frames, side, side, dtype=torch.bfloat16, device="meta"), plan.encode(frames)
    else:
        shape = (1, network.config.latent_channels, plan.latents_for(frames), side // 8, side // 8)
        x = torch.empty(shape, dtype=torch.bfloat16, device="meta")
        slices = plan.decode(shape[2])
    with torch.no_grad(), counting(x, *network.parameters()) as live:
        for s in slices:
            if what == "encode":
                network.moments(x[:, :, s.start : s.stop], cache)
            else:
                network.decode_slice(x[:, :, s.before : s.after], s.start - s.before, s.stop - s.start, cache)
    return live.peak


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("side", "slices"), [(192, 3), (384, 6)])
@pytest.mark.parametrize("release", ["V1", "V2", "V3", *CACHED])
def test_the_host_is_told_what_a_tile_takes(release, side, slices, device, what):
    network = released_network(release)
    vae = SimpleNamespace(first_stage_model=network, device=torch.device(device))
    kind, frames = host_vae.HostVAE, network.plan.lone + slices * network.plan.frames_per_slice
    if what == "encode":
        estimate = kind._encode_memory(vae, (1, 3, frames, side, side), torch.bfloat16)
    else:
        estimate = kind._decode_memory(vae, (1, 4, frames // 4, side // 8, side // 8), torch.bfloat16)
    found = peak(network, what, side, frames, LiveBytes if device == "cpu" else LiveBytesOfGPU)
    assert estimate == pytest.approx(found, rel=0.05)
    assert estimate <= host_vae.TILE_MEMORY or (release, what) == ("V4", "decode")  # which gets smaller tiles


@pytest.fixture
def tiles_used(monkeypatch):
    """The sides of tiles, in latents, that work begins with; None for whole frames."""
    used = []
    network = part("easyanimate_models.vae.video_vae").VideoVAE
    for name in ("encode", "decode"):
        work = getattr(network, name)

        def noted(self, x, out=None, tiling=None, *args, _work=work, **kwargs):
            used.append(None if tiling is None else tiling.side)
            return _work(self, x, out, tiling, *args, **kwargs)

        monkeypatch.setattr(network, name, noted)
    return used


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("node", ["VAEDecode", "EasyAnimateDecode", "VAEEncode", "EasyAnimateEncode"])
@pytest.mark.parametrize(("share", "side"), [(2.0, None), (0.9, 16), (0.5, 8)])
def test_tiles_are_chosen_before_the_first_try_where_frames_do_not_fit(
    tiles_used, monkeypatch, release, node, share, side
):
    """Of what a frame of 20 x 20 latents takes, so much is free; a tile of 16 takes 0.64 of it, one of 8 0.16."""
    monkeypatch.setattr(host_vae, "RELEASE_TILING", tiling.Tiling(16, 4))
    vae = tiny_release_vae(release)
    z, pixels = random(1, vae.latent_channels, 2, 20, 20), random(5, 160, 160, 3).sigmoid()
    memory = vae._decode_memory if "Decode" in node else vae._encode_memory
    whole = memory(z.shape if "Decode" in node else (1, 3, 5, 160, 160), vae.vae_dtype)
    monkeypatch.setattr(mm, "get_free_memory", lambda *_, **__: share * whole)
    work = {
        "VAEDecode": lambda: host_nodes.VAEDecode().decode(vae, {"samples": z}),
        "VAEEncode": lambda: host_nodes.VAEEncode().encode(vae, pixels),
        "EasyAnimateDecode": lambda: decoding.EasyAnimateDecode.execute({"samples": z}, vae, 0),
        "EasyAnimateEncode": lambda: decoding.EasyAnimateEncode.execute(pixels, vae, 0),
    }
    work[node]()
    assert tiles_used == [side]


@pytest.mark.parametrize(("asked", "used"), [(None, None), (48, 40), (56, 56)])
def test_tiles_take_no_more_than_is_meant_for_them(monkeypatch, asked, used):
    """A tile of 48 takes 1.2 times that; whole frames, and tiles that are larger on purpose, may take what is free."""
    vae = tiny_release_vae("V4")
    shape = (1, 4, 8, 96, 96)
    monkeypatch.setattr(host_vae, "TILE_MEMORY", vae._decode_memory((1, 4, 8, 48, 48), vae.vae_dtype) / 1.2)
    given = None if asked is None else tiling.Tiling(asked, asked // 4)
    chosen = vae._fitting(vae._decode_memory, shape, given, 1)
    assert chosen == (None if used is None else tiling.Tiling(used, used // 4))


def test_no_model_is_unloaded_for_frames_that_can_never_fit(monkeypatch):
    vae, loads = tiny_release_vae("V3"), []
    tile = vae._decode_memory((1, 4, 8, 48, 48), vae.vae_dtype)
    monkeypatch.setattr(mm, "get_total_memory", lambda *_, **__: vae.patcher.model_size() + 1.1 * tile)
    monkeypatch.setattr(vae, "_load", loads.append)
    assert vae._fitting(vae._decode_memory, (1, 4, 8, 96, 96), None, 1) == host_vae.RELEASE_TILING
    assert loads == [tile]


# --- lengths ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """What nodes say below themselves."""
    lines = []
    for module in (decoding, conditioning):
        if hasattr(module, "show_text"):
            monkeypatch.setattr(module, "show_text", lambda node, text: lines.append((node, text)))
    for node in (decoding.EasyAnimateEncode, conditioning.EasyAnimateInpaintVideo):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="7"))
    return lines


def test_frames_beyond_4n_plus_1_are_left_out_and_the_node_says_so(vaes, shown, caplog):
    images = random(12, 16, 16, 3).sigmoid()
    latent = decoding.EasyAnimateEncode.execute(images, vaes["V5.1"], 384).args[0]
    note = "This VAE takes 4n + 1 frames: the first 9 of 12 are encoded."
    assert shown == [("7", note)] and note in caplog.text
    assert torch.equal(latent["samples"], host_nodes.VAEEncode().encode(vaes["V5.1"], images[:9])[0]["samples"])


@pytest.mark.parametrize(("release", "frames"), [("V5.1", 9), ("V4", 8), ("V3", 9)])
def test_lengths_that_stay_need_no_words(vaes, shown, caplog, release, frames):
    decoding.EasyAnimateEncode.execute(random(frames, 16, 16, 3).sigmoid(), vaes[release], 384)
    assert not shown and "frames" not in caplog.text


@pytest.mark.parametrize(
    ("release", "length", "size", "frames"),
    [("V5", 49, 13, 49), ("V5.1", 50, 13, 49), ("V5.1", 1, 1, 1), ("V5", 4, 1, 1), ("V4", 8, 2, 8), ("V4", 1, 1, 1)],
)
def test_an_empty_latent_is_as_long_as_what_comes_out(vaes, release, length, size, frames):
    latent, said = latents.EasyAnimateEmptyLatent.execute(64, 32, length, 1, vaes[release]).args
    assert latent["samples"].shape == (1, vaes[release].latent_channels, size, 4, 8) and said == frames


@pytest.mark.parametrize("seams", ["overlap", "smooth"])
def test_seams_are_not_looked_for_where_there_are_none(vaes, seams, caplog):
    caplog.set_level("INFO")
    decoding.EasyAnimateDecode.execute({"samples": random(1, 16, 3, 2, 2)}, vaes["V5"], 0, seams)
    assert "This VAE leaves no seams between slices" in caplog.text


# --- files --------------------------------------------------------------------------------------------------------


def test_a_diffusers_folder_of_v51_loads(tmp_path):
    """diffusers' AutoencoderKLMagvit has the original's names, and a config.json without its flags."""
    recorded = golden(V51)
    left_out = ("cache_", "slice_", "mini_batch_", "mid_block_", "ch", "tile_", "use_")
    config = {k: v for k, v in recorded.config["constructor"].items() if not k.startswith(left_out)}
    twin = {**config, "_class_name": "AutoencoderKLMagvit", "_diffusers_version": "0.33.0"}
    vae = sd.load_vae(write_component(tmp_path / "vae", recorded.weights, twin))
    assert vae.latent_format.release == "V5.1" and vae.scale == 1
    z = recorded.inputs("dec_n2")["latents"]
    torch.testing.assert_close(vae.first_stage_model.decode(z), recorded.outputs("dec_n2")["pixels"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "release"), [(V5, "V5"), (V51, "V5.1")])
def test_weights_tell_v5_from_v51_whatever_the_config_says(name, release, tmp_path):
    recorded = golden(name)
    for claim in (True, False):
        config = {**recorded.config["constructor"], "mid_block_use_attention": claim}
        vae = sd.load_vae(write_component(tmp_path / str(claim), recorded.weights, config))
        assert vae.latent_format.release == release


def test_half_of_an_attention_is_an_incomplete_file(tmp_path):
    recorded = golden(V5)
    weights = {k: v for k, v in recorded.weights.items() if not k.startswith("decoder.mid_block.attentions.")}
    with pytest.raises(checkpoint.CheckpointError, match=r"decoder\.mid_block\.attentions\.0"):
        sd.load_vae(write_component(tmp_path, weights, recorded.config["constructor"]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (V51, {"spatial_group_norm": False}, "says spatial_group_norm False, but V5.1 has True; replace"),
        (V5, {"mini_batch_encoder": 8}, "says mini_batch_encoder 8, but V5 has 4; replace"),
        (V51, {"cache_mag_vae": False, "slice_compression_vae": True}, "16 latent channels, but the VAE of V3 has 4"),
        (V4, {"cache_compression_vae": False, "cache_mag_vae": True}, "4 latent channels, but the VAE of V5 has 16"),
        (V4, {"slice_compression_vae": True}, "says both slice_compression_vae and cache_compression_vae"),
        (V51, {"block_out_channels": [8, 8, 8, 8]}, "they belong to different models"),
    ],
)
def test_a_config_of_another_release_is_told_in_a_sentence(name, change, message, tmp_path):
    recorded = golden(name)
    folder = write_component(tmp_path, recorded.weights, {**recorded.config["constructor"], **change})
    with pytest.raises(checkpoint.CheckpointError, match=message) as error:
        sd.load_vae(folder)
    sentence = str(error.value)
    assert sentence.endswith(".") and "\n" not in sentence


def test_a_written_config_reads_back(tmp_path):
    for release in CACHED:
        vae = tiny_release_vae(release)
        config = vae.first_stage_model.config
        cls = getattr(supported_models, f"EasyAnimate{release.replace('.', '')}")
        folder = tmp_path / release
        folder.mkdir()
        save_file(vae.get_sd(), folder / "diffusion_pytorch_model.safetensors")
        (folder / "config.json").write_text(json.dumps(cls.vae_config_json(config)))
        again = sd.load_vae(folder)
        assert again.latent_format.release == release and again.first_stage_model.config == config


def test_sixteen_channels_are_not_those_of_v3(vaes):
    with pytest.raises(ValueError, match=r"has 16 channels, but EasyAnimate V3 needs 4; .* use"):
        decoding.EasyAnimateDecode.execute({"samples": random(1, 16, 3, 2, 2)}, vaes["V3"], 0)
    with pytest.raises(ValueError, match=r"has 4 channels, but EasyAnimate V5\.1 needs 16; .* use"):
        decoding.EasyAnimateDecode.execute({"samples": random(1, 4, 3, 2, 2)}, vaes["V5.1"], 0)


def test_latents_without_known_colours_have_no_preview():
    import latent_preview
    from comfy.cli_args import args

    assert args.preview_method is not None
    for release in ("V4", "V5", "V5.1"):
        latent_format = tiny_release_vae(release).latent_format
        method = latent_preview.LatentPreviewMethod.Latent2RGB
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(args, "preview_method", method)
            assert latent_preview.get_previewer(torch.device("cpu"), latent_format) is None
