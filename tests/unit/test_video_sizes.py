"""Frame and size arithmetic, in plain ints."""

import pytest

from support.pack import part

sizes = part("easyanimate_models.vae.video_sizes")
slicing = part("easyanimate_models.vae.slicing")


@pytest.mark.parametrize(
    ("pixels", "latents"),
    [
        ((672, 384, 72), (18, 48, 84)),
        ((16, 16, 1), (1, 2, 2)),
        ((64, 48, 9), (3, 6, 8)),
        ((79, 50, 8), (2, 6, 8)),  # sides are floored to 16s, as the released pipelines do
    ],
)
def test_latent_size_is_an_eighth_of_the_sides_and_a_quarter_of_the_frames(pixels, latents):
    assert sizes.latent_size(*pixels) == latents


@pytest.mark.parametrize(("length", "decoded"), [(1, 1), (8, 8), (9, 9), (24, 24), (144, 144), (5, 8), (13, 16)])
def test_decoded_length_says_how_many_frames_come_out(length, decoded):
    assert sizes.decoded_length(length) == decoded


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 64, 8), "0 x 64 is too small"),
        ((64, 15, 8), "64 x 15 is too small"),
        ((-16, 64, 8), "-16 x 64 is too small"),
        ((64, 64, 0), "at least 1 frame, not 0"),
        ((64, 64, -3), "at least 1 frame, not -3"),
    ],
)
def test_sizes_that_no_video_has_give_one_clear_sentence(size, message):
    with pytest.raises(ValueError, match=message) as caught:
        sizes.latent_size(*size)
    sentence = str(caught.value)
    assert sentence.endswith(".") and sentence.count(".") == 1 and "\n" not in sentence


@pytest.mark.parametrize(
    ("length", "overlap", "plan", "window"),
    [
        (144, 48, "SLICES", (36, 12)),
        (72, 20, "SLICES", (18, 6)),
        (20, 8, "SLICES", (4, 2)),
        (8, 4, "SLICES", (2, 0)),
        (144, 48, "WINDOWS", (48, 18)),
        (16, 4, "FRAMES", (16, 4)),
        (72, 20, "PAIRS", (18, 6)),
        (49, 12, "CAUSAL", (13, 3)),
        (50, 13, "CAUSAL", (13, 4)),
        (1, 0, "CAUSAL", (2, 0)),
    ],
)
def test_sampling_windows_are_whole_slices(length, overlap, plan, window):
    assert sizes.window_size(length, overlap, getattr(slicing, plan)) == window


@pytest.mark.parametrize(
    ("frames", "plan", "note"),
    [
        (49, "CAUSAL", None),
        (52, "CAUSAL", "This VAE takes 4n + 1 frames: the first 49 of 52 are encoded."),
        (9, "PAIRS", "This VAE does not keep a length of 9 frames: 12 will be decoded."),
        (13, "SLICES", "This VAE does not keep a length of 13 frames: 16 will be decoded."),
        (9, "SLICES", None),
        (7, "FRAMES", None),
    ],
)
def test_a_clip_whose_length_changes_is_told_what_becomes_of_it(frames, plan, note):
    assert sizes.length_note(frames, getattr(slicing, plan)) == note


@pytest.mark.parametrize("plan", ["FRAMES", "WINDOWS", "SLICES", "PAIRS", "CAUSAL"])
def test_the_shortest_video_is_longer_than_an_image(plan):
    plan = getattr(slicing, plan)
    shortest = sizes.shortest_video(plan)
    assert sizes.decoded_length(shortest, plan) > 1 == sizes.decoded_length(shortest - 1, plan)


@pytest.mark.parametrize("overlap", [24, 30, -1])
def test_windows_must_go_forward(overlap):
    with pytest.raises(ValueError, match=r"Windows of 24 frames can't overlap"):
        sizes.window_size(24, overlap)
