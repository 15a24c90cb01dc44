"""Pixel masks as latent masks: whatever is marked is made anew, whatever is unmarked is kept."""

import comfy.sample
import pytest
import torch

from support.pack import part
from support.tiny_networks import DIT, random, tiny_transformer, tiny_vae

masks = part("easyanimate_models.vae.masks")
slicing = part("easyanimate_models.vae.slicing")
slice_vae = part("easyanimate_models.vae.slice_vae")
image_vae = part("easyanimate_models.vae.image_vae")
cached_vae = part("easyanimate_models.vae.cached_vae")
conditioning = part("nodes.conditioning")
sampling = part("nodes.sampling")
PLANS = {
    "V1": image_vae.ImageVAE.plan,
    "V2": slice_vae.WindowVAE.plan,
    "V3": slice_vae.SliceVAE.plan,
    "V4": cached_vae.CachedDecoderVAE.plan,
    "V5": cached_vae.CachedVAE.plan,
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))


def latents_of(plan, frames: int) -> int:
    return len(plan.frames_of(frames))


@every_plan
@pytest.mark.parametrize("frames", [1, 8, 9, 16, 17, 18, 24])
def test_every_frame_belongs_to_one_latent_of_its_slice(plan, frames):
    spans = plan.frames_of(frames)
    assert [frame for span in spans for frame in span] == list(range(plan.crop(frames)))
    for s in plan.encode(plan.crop(frames)):
        inside = spans[s.latent_start : s.latent_stop]
        assert (inside[0].start, inside[-1].stop) == (s.start, s.stop)


@every_plan
def test_any_frame_that_is_marked_marks_its_latent_alone(plan):
    frames = 18
    spans = plan.frames_of(frames)
    for frame in range(frames):
        mask = torch.zeros(frames, 16, 32)
        mask[frame] = 1
        found = masks.latent_mask(mask, plan, torch.Size((1, 4, len(spans), 2, 4)))
        marked = found.amax((0, 1, 3, 4)).nonzero().flatten().tolist()
        assert marked == [i for i, span in enumerate(spans) if frame in span]


@pytest.mark.parametrize("column", range(0, 32, 5))
def test_any_column_that_is_marked_marks_its_latents(column):
    mask = torch.zeros(1, 16, 32)
    mask[..., column] = 1
    found = masks.latent_mask(mask, PLANS["V3"], torch.Size((1, 4, 4, 2, 4)))
    assert found.amax((0, 1, 2, 3)).nonzero().flatten().tolist() == [column // 8]
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_masks_of_latents_and_of_a_batch_hold_as_they_are():
    of_latents = random(4, 1, 2, 4).sigmoid()
    assert torch.equal(masks.latent_mask(of_latents, PLANS["V3"], torch.Size((1, 4, 4, 2, 4)))[0, 0], of_latents[:, 0])
    of_videos = random(3, 2, 4).sigmoid()
    found = masks.latent_mask(of_videos, PLANS["V3"], torch.Size((3, 4, 4, 2, 4)))
    assert all(torch.equal(found[i, 0, frame], of_videos[i]) for i in range(3) for frame in range(4))


def test_masks_of_another_length_are_refused():
    with pytest.raises(ValueError, match="The mask has 3 frames but the video has 16; use a single mask"):
        masks.latent_mask(torch.ones(3, 16, 32), PLANS["V3"], torch.Size((1, 4, 4, 2, 4)))


@pytest.mark.parametrize("length", [16, 17, 33])
@pytest.mark.parametrize(("start", "end"), [(1, 0), (0, 1), (1, 1), (5, 4)])
def test_grouped_masks_of_stock_nodes_say_which_frames_are_given(length, start, end):
    """WanFirstLastFrameToVideo: four frames a latent, and frame 0 four times in the first."""
    mask = torch.ones(1, 1, ((length - 1) // 4 + 1) * 4, 2, 4)
    if start:
        mask[:, :, : start + 3] = 0
    if end:
        mask[:, :, -end:] = 0
    grouped = mask.view(1, mask.shape[2] // 4, 4, 2, 4).transpose(1, 2)
    found = masks.pixel_mask(grouped, length, 16, 32)
    given = [frame for frame in range(length) if not found[frame].any()]
    assert given == [*range(start), *range(length - end, length)]


def test_masks_of_latents_of_stock_nodes_give_the_first_frame_alone():
    """WanImageToVideo marks latents: the first is one frame, not four."""
    mask = torch.ones(1, 1, 4, 2, 4)
    mask[:, :, 0] = 0
    found = masks.pixel_mask(mask, 16, 16, 32)
    assert not found[0].any() and found[1:].all()


@pytest.mark.parametrize("frames", [[0], [3], [7, 8], [15]])
def test_marked_frames_of_a_video_are_made_anew_and_others_stay(frames):
    model, vae = tiny_transformer(), tiny_vae()
    video, mask = random(16, 16, 32, 3, seed=3).sigmoid(), torch.zeros(16, 16, 32)
    mask[frames] = 1
    text = [[random(1, 5, DIT.caption_channels), {}]]
    positive, negative, latent, _ = conditioning.EasyAnimateInpaintVideo.execute(
        text, text, vae, video, True, mask
    ).result
    noise = comfy.sample.prepare_noise(latent["samples"], 0)
    stock = comfy.sample.sample(
        *(model, noise, 2, 3.0, "euler", "normal", positive, negative, latent["samples"]),
        noise_mask=latent["noise_mask"],
        disable_pbar=True,
        seed=0,
    )
    ours = sampling.EasyAnimateSampler.execute(
        *(model, positive, negative, {**latent, "noise_mask": mask[:, None]}),  # as SetLatentNoiseMask has it
        *(0, 2, 3.0, "euler", "normal", 1.0),
    ).result[0]["samples"]
    for samples in (stock, ours):
        changed = (samples - latent["samples"]).abs().amax((0, 1, 3, 4)) > 1e-3
        assert changed.nonzero().flatten().tolist() == sorted({frame // 4 for frame in frames})
