"""What image-to-video and inpainting nodes, ours and stock ones, give the network, and what they refuse."""

import comfy.sample
import comfy.utils
import pytest
import torch

import nodes as host_nodes
from support.pack import part
from support.recorded import relative_error
from support.tiny_networks import DIT, random, tiny_release_vae, tiny_transformer, tiny_vae

conditioning = part("nodes.conditioning")
inpainting = part("easyanimate_models.conditioning.inpainting")
schedules = part("easyanimate_models.sampling.schedules")
ImageToVideo, InpaintVideo = conditioning.EasyAnimateImageToVideo, conditioning.EasyAnimateInpaintVideo
SIZE = (32, 16, 16, 1)  # width, height, length, batch


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


@pytest.fixture(scope="module")
def inp():
    return tiny_transformer(in_channels=12, clip_tokens=True)


def text(tokens: int = 5, seed: int = 1) -> list:
    return [[random(1, tokens, DIT.caption_channels, seed=seed), {"attention_mask": torch.ones(1, tokens)}]]


def images(count: int, height: int = 16, width: int = 32) -> torch.Tensor:
    return random(count, height, width, 3, seed=3).sigmoid()


def concat_latents(out) -> torch.Tensor:
    """The mask and masked-video latents that come with a positive prompt."""
    return out.result[0][0][1]["concat_latent_image"]


def sample(model, positive, negative, latent, steps: int = 2) -> torch.Tensor:
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise, mask = comfy.sample.prepare_noise(samples, 0), latent.get("noise_mask")
    settings = (steps, 3.0, "euler", "normal", positive, negative, samples)
    return comfy.sample.sample(model, noise, *settings, noise_mask=mask, disable_pbar=True, seed=0)


def run(model, node, *arguments, **options) -> torch.Tensor:
    positive, negative, latent, _ = node.execute(text(), text(seed=2), *arguments, **options).result
    return sample(model, positive, negative, latent)


class TestWhatTheModelIsGiven:
    def test_without_images_everything_is_to_be_made(self, vae):
        white, black = torch.ones(16, 16, 32, 3), torch.zeros(16, 16, 32, 3)
        theirs = torch.cat([vae.encode(white), vae.encode(black)], dim=1)
        assert torch.equal(concat_latents(ImageToVideo.execute(text(), text(), vae, *SIZE)), theirs)

    @pytest.mark.parametrize(("start", "end"), [(1, 0), (0, 1), (1, 1), (3, 2)])
    def test_given_frames_are_shown_and_the_rest_is_black(self, vae, start, end):
        first, last = images(3)[:start], images(3)[3 - end :]
        given = {"start_image": first if start else None, "end_image": last if end else None}
        video, made = torch.zeros(16, 16, 32, 3), torch.ones(16, 16, 32, 3)
        video[:start], video[16 - end :] = first, last
        made[:start], made[16 - end :] = 0.5, 0.5
        theirs = torch.cat([vae.encode(made), vae.encode(video)], dim=1)
        assert torch.equal(concat_latents(ImageToVideo.execute(text(), text(), vae, *SIZE, **given)), theirs)

    def test_images_of_another_size_are_scaled_and_cut(self, vae):
        out = ImageToVideo.execute(text(), text(), vae, *SIZE, start_image=images(1, 64, 64))
        assert concat_latents(out).shape == (1, 8, 4, 2, 4)

    @pytest.mark.parametrize(("length", "frames"), [(1, 1), (16, 16), (17, 17), (20, 17), (10, 9)])
    def test_odd_lengths_say_what_comes_out(self, vae, length, frames):
        positive, _, latent, announced = ImageToVideo.execute(text(), text(), vae, 32, 16, length, 2).result
        assert announced == frames == vae.decode(latent["samples"]).shape[1]
        assert latent["samples"].shape[:2] == (2, 4)
        assert positive[0][1]["concat_latent_image"].shape[2:] == latent["samples"].shape[2:]

    @pytest.mark.parametrize("masks", [1, 16])
    def test_a_masked_region_is_to_be_made(self, vae, masks):
        video, mask = images(16), torch.zeros(masks, 16, 32)
        mask[:, :, 16:] = 0.9
        kept_part, generated = video.clone(), torch.full_like(video, 0.5)
        kept_part[:, :, 16:], generated[:, :, 16:] = 0.0, 1.0
        out = InpaintVideo.execute(text(), text(), vae, video, True, mask)
        assert torch.equal(concat_latents(out), torch.cat([vae.encode(generated), vae.encode(kept_part)], dim=1))
        assert torch.equal(out.result[2]["samples"], vae.encode(video))
        assert out.result[2]["noise_mask"].shape == (1, 1, 4, 2, 4)  # of latents, which no host interpolates
        assert "noise_mask" not in InpaintVideo.execute(text(), text(), vae, video, False, mask).result[2]

    def test_without_a_mask_all_of_the_video_is(self, vae):
        out = InpaintVideo.execute(text(), text(), vae, images(16), True)
        assert torch.equal(concat_latents(out), concat_latents(ImageToVideo.execute(text(), text(), vae, *SIZE)))
        assert "noise_mask" not in out.result[2]


@pytest.mark.parametrize("given", [0, 1])
@pytest.mark.parametrize("length", [8, 16, 48])
def test_equal_slices_of_the_empty_video_are_encoded_once(vae, monkeypatch, given, length):
    """A slice for the mask, one for the video, and those that a start image is in; none differs by it."""
    size, start = (32, 16, length, 1), images(1) if given else None
    network, encoded = vae.first_stage_model, []
    moments = network.moments
    monkeypatch.setattr(network, "moments", lambda x, cache=None: encoded.append(x) or moments(x, cache))
    latents = concat_latents(ImageToVideo.execute(text(), text(), vae, *size, start))
    assert len(encoded) == 2 * (1 + (given if length > 8 else 0))
    for part_of in latents.split(4, dim=1):
        slices = part_of.split(2, dim=2)[given:]
        assert all(torch.equal(each, slices[0]) for each in slices)


@pytest.mark.parametrize("release", ["V1", "V2", "V3", "V4"])
def test_equal_slices_encoded_once_are_bit_equal_to_all_of_them(release, monkeypatch):
    """Changing frames, then equal ones, then others."""
    network = tiny_release_vae(release).first_stage_model
    x = torch.cat([random(1, 3, 9, 16, 24), torch.zeros(1, 3, 27, 16, 24), random(1, 3, 9, 16, 24)], dim=2)
    once = network.encode(x)
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    every = network.encode(x)
    assert bool((once == every).all())


class TestClipTokens:
    OUTPUT = {"image_embeds": random(1, 768, seed=8)}

    def test_they_count_in_their_part_of_sampling_only(self):
        spans = conditioning.with_clip_vision(text(), self.OUTPUT, 0.25, 0.75)
        found = [(o["start_percent"], o["end_percent"], "clip_vision_output" in o) for _, o in spans]
        assert found == [
            (0.0, 0.25, False),
            (0.25 + conditioning.BORDER, 0.75, True),
            (0.75 + conditioning.BORDER, 1.0, False),
        ]

    def test_a_prompt_that_is_limited_in_time_stays_so(self):
        limited = [[text()[0][0], {"start_percent": 0.5, "end_percent": 0.9}]]
        spans = conditioning.with_clip_vision(limited, self.OUTPUT, 0.6, 1.0)
        found = [(o["start_percent"], o["end_percent"], "clip_vision_output" in o) for _, o in spans]
        assert found == [(0.5, 0.6, False), (0.6 + conditioning.BORDER, 0.9, True)]

    def test_they_change_the_video_and_the_negative_prompt_has_none(self, vae, inp):
        clip_inputs = []
        inp.model.diffusion_model.register_forward_pre_hook(
            lambda _, args, kwargs: clip_inputs.append((kwargs["clip_mask"].clone(), kwargs["clip_embeds"].clone())),
            with_kwargs=True,
        )
        options = {"start_image": images(1), "clip_vision_output": self.OUTPUT, "clip_start_percent": 0.0}
        with_clip = run(inp, ImageToVideo, vae, *SIZE, **options)
        rows = [row for mask, embeds in clip_inputs for row in zip(mask, embeds, strict=True)]
        assert {float(mask.mean()) for mask, _ in rows} == {0.0, 1.0}
        assert all(bool(embeds.any()) == bool(mask.any()) for mask, embeds in rows)
        without = run(inp, ImageToVideo, vae, *SIZE, start_image=images(1))
        assert not torch.equal(with_clip, without)

    def test_by_default_the_original_has_clip_from_step_13_of_25_on(self, vae, inp):
        """Where both spans of a prompt applied, the host would run it twice and average."""
        masks = []
        hook = inp.model.diffusion_model.register_forward_pre_hook(
            lambda _, args, kwargs: masks.append(kwargs["clip_mask"].clone()), with_kwargs=True
        )
        out = ImageToVideo.execute(text(), text(seed=2), vae, *SIZE, images(1), clip_vision_output=self.OUTPUT)
        positive, negative, latent, _ = out.result
        noise, sigmas = random(*latent["samples"].shape), schedules.release_sigmas(inp, "euler", 25)
        settings = (25, 3.0, "euler", "normal", positive, negative, latent["samples"])
        comfy.sample.sample(inp, noise, *settings, sigmas=sigmas, disable_pbar=True, seed=0)
        hook.remove()
        rows = [float(row.mean()) for mask in masks for row in mask]
        steps = [rows[2 * step : 2 * step + 2] for step in range(25)]
        assert len(rows) == 50 and [max(step) for step in steps] == [0.0] * 13 + [1.0] * 12

    def test_another_clip_model_is_named(self, vae, inp):
        other = {"image_embeds": random(1, 1024)}
        with pytest.raises(ValueError, match="1024-dimensional.*ViT-L/14"):
            run(inp, ImageToVideo, vae, *SIZE, clip_vision_output=other)


def from_stock_node(positive: list, mask_scale: int = 1) -> torch.Tensor:
    """What an inpainting model is given for the prompt of a stock node; its mask can come that much larger."""
    options = positive[0][1]
    mask = options["concat_mask"].repeat_interleave(mask_scale, -1).repeat_interleave(mask_scale, -2)
    return inpainting.EncodedMask().from_stock_nodes(options["concat_latent_image"], mask)


class TestStockNodes:
    """They show grey where our nodes show black, beside the given frames too; the model is given the same."""

    @pytest.mark.parametrize("length", [1, 13, 16, 20, 21, 33])
    def test_wan_image_to_video_is_our_node(self, vae, inp, length):
        from comfy_extras.nodes_wan import WanImageToVideo

        start, size = images(1), (32, 16, length, 1)
        positive, negative, latent = WanImageToVideo.execute(text(), text(seed=2), vae, *size, start_image=start).result
        ours = ImageToVideo.execute(text(), text(seed=2), vae, *size, start_image=start)
        assert relative_error(from_stock_node(positive), concat_latents(ours)) < 1e-3
        samples = sample(inp, positive, negative, latent)
        assert relative_error(samples, sample(inp, *ours.result[:3])) < 1e-3

    @pytest.mark.parametrize("node", ["WanFirstLastFrameToVideo", "WanFunInpaintToVideo"])
    @pytest.mark.parametrize("size", [(32, 16, 16), (16, 48, 17), (48, 32, 13), (32, 16, 20)])
    @pytest.mark.parametrize(("start", "end"), [(1, 0), (0, 1), (1, 1), (5, 3)])
    def test_first_and_last_frames_are_those_of_our_node(self, vae, node, size, start, end):
        import comfy_extras.nodes_wan

        width, height, _ = size
        given = {"start_image": images(start, height, width) if start else None}
        given |= {"end_image": images(9, height, width)[-end:] if end else None}
        stock = getattr(comfy_extras.nodes_wan, node).execute(text(), text(), vae, *size, 1, **given).result
        ours = ImageToVideo.execute(text(), text(), vae, *size, 1, **given)
        assert stock[2]["samples"].shape == ours.result[2]["samples"].shape
        for mask_scale in (1, 2, 8):  # of latents, of pixels, and between
            assert relative_error(from_stock_node(stock[0], mask_scale), concat_latents(ours)) < 1e-3

    @pytest.mark.parametrize("mask_size", [(16, 32), (8, 16), (32, 64)])
    @pytest.mark.parametrize("masks", [1, 16])
    def test_inpaint_model_conditioning_is_our_node(self, vae, inp, masks, mask_size):
        video, mask = images(16), torch.zeros(masks, *mask_size)
        mask[masks // 3 :, :, mask_size[1] // 2 :] = 1.0
        node = host_nodes.InpaintModelConditioning()
        positive, negative, latent = node.encode(text(), text(seed=2), video, vae, mask, noise_mask=False)
        ours = InpaintVideo.execute(text(), text(seed=2), vae, video, False, mask)
        assert relative_error(from_stock_node(positive), concat_latents(ours)) < 1e-3
        assert relative_error(sample(inp, positive, negative, latent), sample(inp, *ours.result[:3])) < 1e-3

    def test_latents_of_unknown_origin_are_refused(self, vae, inp):
        values = {"concat_latent_image": random(1, 4, 4, 2, 4), "concat_mask": torch.ones(1, 1, 4, 2, 4)}
        positive, negative = ([[tokens, {**o, **values}]] for tokens, o in (*text(), *text(seed=2)))
        with pytest.raises(ValueError, match="unknown which VAE"):
            sample(inp, positive, negative, {"samples": torch.zeros(1, 4, 4, 2, 4)})


class TestSampling:
    def test_a_second_pass_after_an_upscale_keeps_its_images(self, vae, inp):
        positive, negative, _, _ = ImageToVideo.execute(text(), text(), vae, *SIZE, start_image=images(1)).result
        larger = {"samples": random(1, 4, 4, 4, 8)}
        assert sample(inp, positive, negative, larger).shape == (1, 4, 4, 4, 8)

    def test_several_videos_at_once(self, vae, inp):
        assert run(inp, ImageToVideo, vae, 32, 16, 16, 2, start_image=images(1)).shape == (2, 4, 4, 2, 4)

    def test_a_plain_model_is_held_to_the_original_outside_of_the_mask(self, vae):
        video, mask = images(16), torch.zeros(1, 16, 32)
        mask[:, :, 16:] = 1
        samples = run(tiny_transformer(), InpaintVideo, vae, video, True, mask)
        original = vae.encode(video)
        assert torch.allclose(samples[..., :2], original[..., :2], atol=1e-4)
        assert not torch.allclose(samples[..., 2:], original[..., 2:], atol=1e-1)


class TestErrors:
    @pytest.mark.parametrize("length", [1, 2])
    def test_an_end_image_needs_a_video(self, vae, length):
        with pytest.raises(ValueError, match=f"a length of {length} is one frame; set length to at least 3"):
            ImageToVideo.execute(text(), text(), vae, 32, 16, length, 1, end_image=images(1))

    def test_more_images_than_frames(self, vae):
        with pytest.raises(ValueError, match="20 start and end images don't fit into 16 frames"):
            ImageToVideo.execute(text(), text(), vae, *SIZE, start_image=images(20))

    def test_masks_for_another_length(self, vae):
        with pytest.raises(ValueError, match="The mask has 3 frames but the video has 16"):
            InpaintVideo.execute(text(), text(), vae, images(16), True, torch.ones(3, 16, 32))

    def test_a_plain_model_given_images(self, vae):
        with pytest.raises(ValueError, match=r"can't use images; load an inpainting \(InP\) transformer"):
            run(tiny_transformer(), ImageToVideo, vae, *SIZE, start_image=images(1))

    def test_an_inpainting_model_given_nothing(self, inp):
        with pytest.raises(ValueError, match="connect EasyAnimate Image to Video"):
            sample(inp, text(), text(seed=2), {"samples": torch.zeros(1, 4, 2, 2, 4)})

    @pytest.mark.parametrize("shape", [(1, 4, 2, 2, 4), (1, 4, 4, 4, 4)])
    def test_a_latent_that_does_not_fit_the_images(self, vae, inp, shape):
        positive, negative, _, _ = ImageToVideo.execute(text(), text(), vae, *SIZE, start_image=images(1)).result
        with pytest.raises(ValueError, match="connect the latent output of the same node"):
            sample(inp, positive, negative, {"samples": torch.zeros(shape)})

    def test_another_vae(self):
        with pytest.raises(ValueError, match="not an EasyAnimate VAE"):
            ImageToVideo.execute(text(), text(), object(), *SIZE)
