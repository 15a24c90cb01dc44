"""The releases side by side: their VAEs under the host's nodes, their motion modules, their stamps on latents."""

import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from comfy.ops import disable_weight_init

import nodes as host_nodes
from support.pack import part
from support.tiny_networks import DIT, random, randomise, tiny_release_vae, tiny_transformer

motion_module = part("easyanimate_models.dit.motion_module")
motion_dit = part("easyanimate_models.dit.motion_dit")
latent_formats = part("easyanimate_models.latent_formats")
supported_models = part("easyanimate_models.supported_models")
release_config = part("easyanimate_models.configs.motion_dit")
latents = part("nodes.latents")
decoding = part("nodes.decoding")
sampling = part("nodes.sampling")

LENGTHS = {  # that come back as they went in
    "V1": [1, 2, 7, 24],
    "V2": [1, 9, 18, 27],
    "V3": [1, 8, 9, 24],
    "V4": [1, 8, 12, 24],
    "V5": [1, 5, 9, 25],
    "V5.1": [1, 5, 9, 25],
}
RELEASES = tuple(LENGTHS)
every_release = pytest.mark.parametrize("release", RELEASES)
with_motion_modules = pytest.mark.parametrize("release", ["V1", "V2", "V3"])


@pytest.fixture(scope="module")
def vaes():
    return {release: tiny_release_vae(release) for release in RELEASES}


@pytest.mark.parametrize(("release", "length"), [(r, n) for r, lengths in LENGTHS.items() for n in lengths])
def test_stock_nodes_give_back_as_many_frames_as_they_took(vaes, release, length):
    images, vae = random(length, 32, 48, 3).sigmoid(), vaes[release]
    (latent,) = host_nodes.VAEEncode().encode(vae, images)
    assert latent["samples"].shape == (1, vae.latent_channels, vae.plan.latents_for(length), 4, 6)
    (decoded,) = host_nodes.VAEDecode().decode(vae, latent)
    assert decoded.shape == images.shape and decoded.min() >= 0 and decoded.max() <= 1


@every_release
def test_stock_tiled_nodes_work_and_tiles_that_fit_change_nothing(vaes, release):
    images, vae = random(9, 64, 96, 3).sigmoid(), vaes[release]
    (whole,) = host_nodes.VAEEncode().encode(vae, images)
    (large,) = host_nodes.VAEEncodeTiled().encode(vae, images, 128, 0)
    (small,) = host_nodes.VAEEncodeTiled().encode(vae, images, 64, 16)
    assert torch.equal(large["samples"], whole["samples"]) and not torch.equal(small["samples"], whole["samples"])
    (decoded,) = host_nodes.VAEDecodeTiled().decode(vae, whole, 64, 16)
    assert decoded.shape == (vae.plan.frames_for(whole["samples"].shape[2]), 64, 96, 3)


@every_release
def test_our_nodes_do_what_the_stock_ones_do(vaes, release):
    images, vae = random(9, 32, 32, 3).sigmoid(), vaes[release]
    latent = decoding.EasyAnimateEncode.execute(images, vae, 384).args[0]
    (stock,) = host_nodes.VAEEncode().encode(vae, images)
    assert torch.equal(latent["samples"], stock["samples"]) and latent["easyanimate_release"] == release
    ours = decoding.EasyAnimateDecode.execute(latent, vae, 384).args[0]
    assert torch.equal(ours, host_nodes.VAEDecode().decode(vae, stock)[0])


@every_release
def test_progress_and_interruption_come_after_every_slice(vaes, release, monkeypatch):
    updates = []

    def update(bar, value):
        bar.current += value
        updates.append((bar.current, bar.total))
        mm.interrupt_current_processing(len(updates) == 2)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update", update)
    total, channels = len(vaes[release].plan.decode(7)), vaes[release].latent_channels
    with pytest.raises(mm.InterruptProcessingException):
        vaes[release].decode(random(1, channels, 7, 2, 2))
    assert updates == [(1, total), (2, total)] and total > 2


@every_release
def test_a_latent_changes_the_frames_that_see_it_only(vaes, release):
    network, z = vaes[release].first_stage_model, random(1, vaes[release].latent_channels, 6, 2, 2)
    plain = network.decode(z)
    z[:, :, 4] += 1
    changed = (network.decode(z) != plain).flatten(3).any(dim=3)[0].any(dim=0).nonzero().flatten().tolist()
    expected = {"V1": [4], "V2": range(9, 18), "V3": range(8, 24), "V4": range(16, 24)}
    assert changed == list(expected.get(release, range(13, 21)))


@every_release
def test_every_weight_of_a_vae_lies_in_one_of_the_hosts_operations(vaes, release):
    for name, module in vaes[release].first_stage_model.named_modules():
        assert hasattr(module, "comfy_cast_weights") or not list(module.parameters(recurse=False)), name


# --- sizes and stamps ---------------------------------------------------------------------------------------------


def empty(length: int, vae=None) -> tuple[dict, int]:
    return latents.EasyAnimateEmptyLatent.execute(64, 32, length, 1, vae).args


@every_release
@pytest.mark.parametrize("length", [1, 2, 5, 8, 9, 10, 13, 18, 24])
def test_an_empty_latent_says_what_will_come_out(vaes, release, length):
    vae = vaes[release]
    latent, frames = empty(length, vae)
    assert latent["samples"].shape == (1, vae.latent_channels, vae.plan.latents_for(length), 4, 8)
    assert vae.decode(latent["samples"]).shape[1] == frames
    assert latent["easyanimate_release"] == release
    assert latent["downscale_ratio_temporal"] == vae.latent_format.temporal_downscale_ratio


def test_without_a_vae_an_empty_latent_is_for_v3(vaes):
    (ours, frames), (theirs, same) = empty(13), empty(13, vaes["V3"])
    assert ours["samples"].shape == theirs["samples"].shape and frames == same == 16
    assert ours["easyanimate_release"] == "V3"


def test_an_empty_latent_wants_a_vae_of_ours():
    with pytest.raises(ValueError, match="not an EasyAnimate VAE"):
        empty(8, object())


def assert_one_sentence(error) -> None:
    assert str(error.value).endswith(".") and "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(("given", "other"), [(a, b) for a in RELEASES for b in RELEASES if a != b])
def test_a_latent_of_another_release_is_not_decoded(vaes, given, other):
    latent = empty(9, vaes[given])[0]
    with pytest.raises(ValueError, match=f"latent is for EasyAnimate {given}, but the VAE is for {other}") as error:
        decoding.EasyAnimateDecode.execute(latent, vaes[other], 384)
    assert_one_sentence(error)


def sample(patcher, latent: dict) -> dict:
    text = [[random(1, 5, 16), {}]]
    return sampling.EasyAnimateSampler.execute(
        patcher, text, text, latent, 0, 2, 1.0, "euler", "easyanimate", 1.0
    ).args[0]


def test_a_latent_of_another_release_is_not_sampled(vaes):
    with pytest.raises(ValueError, match="latent is for EasyAnimate V1, but the transformer is for V3") as error:
        sample(tiny_transformer(), empty(9, vaes["V1"])[0])
    assert_one_sentence(error)


def test_what_was_sampled_is_stamped(vaes):
    unmarked = {"samples": torch.zeros(1, 4, 2, 4, 4)}
    assert sample(tiny_transformer(), unmarked)["easyanimate_release"] == "V3"
    decoding.EasyAnimateDecode.execute(unmarked, vaes["V1"], 384)  # latents without a stamp are anyone's


def test_marks_leave_the_latent_as_it_was():
    latent = {"samples": None, "easyanimate_release": "V1"}
    assert latent_formats.mark(latent, object()) == {"samples": None}
    assert latent_formats.mark(latent, latent_formats.SliceLatents())["easyanimate_release"] == "V3"
    assert latent["easyanimate_release"] == "V1"


# --- networks -----------------------------------------------------------------------------------------------------


def grid_attention(grid: tuple[int, int, int]) -> tuple[torch.nn.Module, torch.Tensor]:
    attention = motion_module.GridAttention(32, 2, False, torch.float32, None, disable_weight_init)
    randomise(attention)
    return attention, random(grid[0], grid[1] * grid[2], 32)


def with_attention(attention, x: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """`x` and what attention makes of it, without a norm."""
    return attention.add_to(x.clone(), torch.nn.Identity(), grid)


@pytest.mark.parametrize("grid", [(3, 4, 6), (3, 5, 6), (3, 4, 7), (2, 5, 3), (2, 1, 1), (1, 1, 4)])
def test_grid_attention_stays_inside_cells_of_two_by_two_over_all_frames(grid):
    attention, x = grid_attention(grid)
    plain = with_attention(attention, x, grid)
    row, column = grid[1] - 1, grid[2] - 1
    x[0, row * grid[2] + column] += 1
    changed = (with_attention(attention, x, grid) != plain).any(dim=2).view(grid)
    cell = torch.zeros(grid, dtype=torch.bool)
    cell[:, row // 2 * 2 :, column // 2 * 2 :] = True
    assert torch.equal(changed, cell)


@pytest.mark.parametrize("grid", [(1, 5, 7), (3, 6, 5)])
def test_grid_attention_beside_an_odd_edge_is_that_of_the_even_part(grid):
    attention, x = grid_attention(grid)
    rows, columns = grid[1] // 2 * 2, grid[2] // 2 * 2
    even = x.view(*grid, 32)[:, :rows, :columns].reshape(grid[0], rows * columns, 32)
    whole = with_attention(attention, x, grid).view(*grid, 32)[:, :rows, :columns].flatten(1, 2)
    torch.testing.assert_close(whole, with_attention(attention, even, (grid[0], rows, columns)))


@with_motion_modules
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 2, 4), (3, 5, 7), (13, 6, 4)])
def test_any_size_can_be_denoised(release, frames, height, width):
    kinds = getattr(supported_models, f"EasyAnimate{release}").motion
    config = motion_dit.MotionDiTConfig(**{**vars(DIT), "motion": kinds, "heads": 2})
    network = motion_dit.MotionDiT(config, dtype=torch.float32, operations=disable_weight_init)
    randomise(network)
    x = random(1, 4, frames, height, width)
    noise = network(x, torch.tensor([500.0]), context=random(1, 5, 16))
    assert noise.shape == x.shape and noise.isfinite().all()


@with_motion_modules
def test_a_config_in_the_originals_words_says_the_same(release):
    kinds = getattr(supported_models, f"EasyAnimate{release}").motion
    config = motion_dit.MotionDiTConfig(**{**vars(DIT), "motion": kinds})
    written = release_config.transformer_config(config)
    assert release_config.motion_of(written, "a file") == kinds
    assert release_config.motion_of({}, "a file") is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"basic_block_type": "selfattentiontemporal"},
            "has 'selfattentiontemporal' blocks according to its config.json",
        ),
        (
            {
                "basic_block_type": "motionmodule",
                "motion_module_type": "VanillaGrid",
                "motion_module_kwargs": {"block_size": 4},
            },
            "block_size of the motion modules to 4, but V1 uses 2",
        ),
    ],
)
def test_motion_modules_of_no_release_are_refused(config, message):
    with pytest.raises(ValueError, match=message) as error:
        release_config.motion_of(config, "model.safetensors")
    assert_one_sentence(error)
