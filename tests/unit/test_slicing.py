"""How a video is cut into slices, in plain ints."""

import pytest

from support.pack import part

slicing = part("easyanimate_models.vae.slicing")
SOME_LENGTHS = range(1, 150)


@pytest.mark.parametrize("frames", [1, 8, 9, 16, 17, 72, 73, 144, 145])
def test_lengths_of_1_8n_and_8n_plus_1_round_trip(frames):
    assert slicing.frames_for(slicing.latents_for(frames)) == frames


@pytest.mark.parametrize(("frames", "latents", "decoded"), [(5, 2, 8), (13, 4, 16)])
def test_other_odd_lengths_change_as_the_original_does(frames, latents, decoded):
    assert slicing.latents_for(frames) == latents
    assert slicing.frames_for(latents) == decoded


def test_nine_frames_are_an_image_and_a_slice():
    assert slicing.plan_encode(9) == [slicing.EncodeSlice(0, 1, 0, 1), slicing.EncodeSlice(1, 9, 1, 3)]


@pytest.mark.parametrize("frames", SOME_LENGTHS)
def test_every_frame_is_encoded_once_and_in_order(frames):
    plan = slicing.plan_encode(frames)
    assert [i for s in plan for i in range(s.start, s.stop)] == list(range(frames))
    assert [i for s in plan for i in range(s.latent_start, s.latent_stop)] == list(range(slicing.latents_for(frames)))


def test_an_even_decode_plan_sees_one_pair_on_either_side():
    assert slicing.plan_decode(8) == [
        slicing.DecodeSlice(start=0, stop=2, before=0, after=4, frame_start=0, frame_stop=8),
        slicing.DecodeSlice(start=2, stop=4, before=0, after=6, frame_start=8, frame_stop=16),
        slicing.DecodeSlice(start=4, stop=6, before=2, after=8, frame_start=16, frame_stop=24),
        slicing.DecodeSlice(start=6, stop=8, before=4, after=8, frame_start=24, frame_stop=32),
    ]


def test_a_lone_first_latent_neither_sees_nor_is_seen():
    assert slicing.plan_decode(5) == [
        slicing.DecodeSlice(start=0, stop=1, before=0, after=1, frame_start=0, frame_stop=1),
        slicing.DecodeSlice(start=1, stop=3, before=1, after=5, frame_start=1, frame_stop=9),
        slicing.DecodeSlice(start=3, stop=5, before=1, after=5, frame_start=9, frame_stop=17),
    ]


@pytest.mark.parametrize("latents", SOME_LENGTHS)
def test_every_latent_is_decoded_once_and_in_order(latents):
    plan = slicing.plan_decode(latents)
    assert [i for s in plan for i in range(s.start, s.stop)] == list(range(latents))
    assert [i for s in plan for i in range(s.frame_start, s.frame_stop)] == list(range(slicing.frames_for(latents)))


@pytest.mark.parametrize("latents", SOME_LENGTHS)
def test_a_slice_sees_at_most_six_latents_whatever_the_length(latents):
    assert max(s.after - s.before for s in slicing.plan_decode(latents)) <= 6


PLANS = {
    "V1": slicing.FRAMES,
    "V2": slicing.WINDOWS,
    "V3": slicing.SLICES,
    "V4": slicing.PAIRS,
    "V5": slicing.CAUSAL,
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))


@every_plan
@pytest.mark.parametrize("count", SOME_LENGTHS)
def test_every_plan_takes_everything_once_in_order_and_in_bounded_pieces(plan, count):
    encode, decode = plan.encode(plan.crop(count)), plan.decode(count)
    assert [i for s in encode for i in range(s.start, s.stop)] == list(range(plan.crop(count)))
    assert [i for s in encode for i in range(s.latent_start, s.latent_stop)] == list(range(plan.latents_for(count)))
    assert [i for s in decode for i in range(s.start, s.stop)] == list(range(count))
    assert [i for s in decode for i in range(s.frame_start, s.frame_stop)] == list(range(plan.frames_for(count)))
    assert max(s.stop - s.start for s in encode) <= plan.frames_per_slice
    assert max(s.frame_stop - s.frame_start for s in decode) <= plan.frames_per_slice


@pytest.mark.parametrize(
    ("frames", "latents", "decoded"), [(1, 1, 1), (5, 2, 5), (9, 3, 9), (10, 4, 10), (18, 6, 18), (7, 2, 5), (2, 1, 1)]
)
def test_windows_of_nine_frames_are_three_latents(frames, latents, decoded):
    assert slicing.WINDOWS.latents_for(frames) == latents
    assert slicing.WINDOWS.frames_for(latents) == decoded


def test_windows_never_see_each_other():
    assert all((s.before, s.after) == (s.start, s.stop) for s in slicing.WINDOWS.decode(20))


@pytest.mark.parametrize("frames", SOME_LENGTHS)
def test_v5_takes_one_frame_and_then_fours(frames):
    plan, kept = slicing.CAUSAL, 4 * ((frames - 1) // 4) + 1
    assert plan.crop(frames) == kept
    assert plan.latents_for(frames) == (frames - 1) // 4 + 1
    assert plan.frames_for(plan.latents_for(frames)) == kept
    assert plan.frames_of(frames) == [range(1), *(range(i, i + 4) for i in range(1, kept, 4))]


@pytest.mark.parametrize(("frames", "latents", "decoded"), [(1, 1, 1), (8, 2, 8), (9, 3, 12), (12, 3, 12), (24, 6, 24)])
def test_v4_decodes_four_frames_of_each_latent_but_one_of_a_single_one(frames, latents, decoded):
    assert slicing.PAIRS.latents_for(frames) == latents
    assert slicing.PAIRS.frames_for(latents) == decoded


@every_plan
def test_nothing_needs_no_slices_of_any_plan(plan):
    assert plan.crop(0) == plan.latents_for(0) == plan.frames_for(0) == 0


def test_nothing_needs_no_slices():
    assert slicing.plan_encode(0) == slicing.plan_decode(0) == []
    assert slicing.latents_for(0) == slicing.frames_for(0) == 0
    assert slicing.WINDOWS.encode(0) == slicing.WINDOWS.decode(0) == slicing.FRAMES.encode(0) == []


@pytest.mark.parametrize("latents", SOME_LENGTHS)
@pytest.mark.parametrize("length", [2, 3])
def test_overlapping_slices_fade_into_each_other(latents, length):
    plan = slicing.plan_overlapping_decode(latents, length)
    totals = [0.0] * slicing.frames_for(latents)
    for s in plan:
        shares = s.shares()
        assert len(shares) == s.frame_stop - s.frame_start and shares == sorted(shares)
        for frame, share in zip(range(s.frame_start, s.frame_stop), shares, strict=True):
            totals[frame] = totals[frame] * (1 - share) + share
    assert totals == pytest.approx([1.0] * len(totals))
    lone = latents % 2
    for before, after in zip(plan[lone:], plan[lone + 1 :], strict=False):
        assert after.frame_start + after.fade == before.frame_stop
        assert after.start == before.stop - 1


def test_overlapping_slices_of_two_take_two_decodes_at_most():
    assert len(slicing.plan_overlapping_decode(36)) == 2 * len(slicing.plan_decode(36)) - 1
