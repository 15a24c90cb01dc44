"""What `EasyAnimateDecode` does about the borders of slices."""

import pytest
import torch

from support.pack import part
from support.tiny_networks import random, tiny_release_vae

decoding = part("nodes.decoding")
host_vae = part("easyanimate_models.vae.host_vae")


@pytest.fixture(scope="module")
def vaes():
    return {release: tiny_release_vae(release) for release in ("V1", "V2", "V3", "V4", "V5")}


def decoded(vae, latents: torch.Tensor, seams: str) -> torch.Tensor:
    return decoding.EasyAnimateDecode.execute({"samples": latents}, vae, 0, seams).args[0]


def test_overlapping_slices_are_decoded_apart_and_mixed_by_distance(vaes):
    network, z = vaes["V3"].first_stage_model, random(1, 4, 4, 3, 4)
    first, second, third = (
        network.decode_slice(z[:, :, before:after], first, 2)
        for before, after, first in ((0, 4, 0), (0, 4, 1), (0, 4, 2))
    )
    rise = torch.tensor([0.125, 0.375, 0.625, 0.875]).view(-1, 1, 1)
    mixed = [first[:, :, :4]]
    for before, after in ((first, second), (second, third)):
        mixed.append(before[:, :, 4:] * (1 - rise) + after[:, :, :4] * rise)
    mixed.append(third[:, :, 4:])
    expected = (torch.cat(mixed, dim=2)[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded(vaes["V3"], z, "overlap"), expected)


def test_smoothing_mixes_all_but_the_ends_with_a_copy_encoded_and_decoded_once_more(vaes):
    for release, frames, ends in (("V3", 24, (4, 4)), ("V2", 18, (4, 5))):
        vae = vaes[release]
        z = random(1, 4, vae.plan.latents_for(frames), 3, 4)
        plain, smooth = decoded(vae, z, "original"), decoded(vae, z, "smooth")
        middle = slice(ends[0], frames - ends[1])
        network = vae.first_stage_model
        again = network.decode(network.encode(plain[None, middle].movedim(-1, 1) * 2 - 1))[0].movedim(0, -1) / 2 + 0.5
        expected = ((plain[middle] + again) / 2).clamp(0, 1)
        torch.testing.assert_close(smooth[middle], expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(smooth[: ends[0]], plain[: ends[0]]) and torch.equal(smooth[-ends[1] :], plain[-ends[1] :])


@pytest.mark.parametrize("seams", host_vae.SEAMS)
@pytest.mark.parametrize(("release", "latents"), [("V1", 5), ("V2", 3), ("V3", 1), ("V3", 2), ("V4", 5), ("V5", 4)])
def test_where_there_is_no_seam_all_do_the_same(vaes, release, latents, seams):
    if (release, seams) == ("V2", "overlap"):
        pytest.skip("windows can't overlap")
    z = random(1, vaes[release].latent_channels, latents, 3, 4)
    assert torch.equal(decoded(vaes[release], z, seams), decoded(vaes[release], z, "original"))


def test_windows_cant_overlap_and_the_error_says_what_can(vaes):
    with pytest.raises(ValueError, match="V2.*set seams to original or smooth"):
        decoded(vaes["V2"], random(1, 4, 6, 3, 4), "overlap")


@pytest.mark.parametrize("seams", host_vae.SEAMS)
def test_the_bar_moves_once_for_each_slice_decoded_or_encoded(vaes, seams, monkeypatch):
    totals = []
    monkeypatch.setattr("comfy.utils.ProgressBar.update", lambda bar, value: totals.append(bar.total))
    decoded(vaes["V3"], random(1, 4, 6, 3, 4), seams)
    expected = {"original": 3, "overlap": 5, "smooth": 3 + 2 + 2}[seams]
    assert totals == [expected] * expected


@pytest.mark.parametrize("seams", host_vae.SEAMS)
def test_seams_are_mended_in_tiles_too(vaes, seams):
    z = random(1, 4, 4, 9, 9)
    small = decoding.EasyAnimateDecode.execute({"samples": z}, vaes["V3"], 64, seams).args[0]
    assert small.shape == (16, 72, 72, 3) and small.isfinite().all()
