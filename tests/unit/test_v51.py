"""V5.1 as artists wire it: InP, Control and Camera models, stock Wan nodes, context windows, wrong combinations."""

from types import SimpleNamespace

import comfy.sample
import pytest
import torch
from comfy_extras import nodes_camera_trajectory, nodes_model_advanced, nodes_wan

from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part
from support.recorded import relative_error
from support.tiny_networks import random, tiny_hunyuan_dit, tiny_release_vae

conditioning = part("nodes.conditioning")
control = part("nodes.control")
host = part("easyanimate_models.host")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
sampling = part("nodes.sampling")
schedules = part("easyanimate_models.sampling.schedules")

INP, CONTROL, CAMERA = 33, 48, 38  # input channels
SIZE = (32, 32, 9, 1)  # width, height, length, batch
SAME = 1e-3


@pytest.fixture(scope="module")
def vae():
    return tiny_release_vae("V5.1")


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """What the node shows."""
    texts: list[str] = []
    monkeypatch.setattr(host, "show_text", lambda node, text: texts.append(text))
    hidden = SimpleNamespace(unique_id="1")
    for node in (control.EasyAnimateControlToVideo, *conditioning.NODES):
        monkeypatch.setattr(node, "hidden", hidden, raising=False)
    return texts


def text() -> list:
    return [[random(1, 6, 24, seed=1), {}]]


def images(count: int, seed: int = 3) -> torch.Tensor:
    return random(count, 32, 32, 3, seed=seed).sigmoid()


def given(model, out, batch: int = 1) -> torch.Tensor:
    """What the network is given beside the noise."""
    options, latent = out.result[0][0][1], out.result[2]["samples"]
    noise = random(batch, *latent.shape[1:])
    return model.model.concat_cond(noise=noise, device=noise.device, **options)


def controlled(vae, size=SIZE, **inputs):
    return control.EasyAnimateControlToVideo.execute(text(), text(), vae, *size, **inputs)


def camera(length: int = 9):
    return nodes_camera_trajectory.WanCameraEmbedding.execute("Pan Left", 32, 32, length).result[0]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("start", "end"), [(1, 0), (5, 0), (1, 1), (0, 1), (2, 3)])
def test_stock_image_nodes_give_what_ours_gives(vae, start, end, batch):
    model = tiny_mmdit(in_channels=INP)
    first, last = images(5)[:start] if start else None, images(5, 4)[:end] if end else None
    ours = conditioning.EasyAnimateImageToVideo.execute(text(), text(), vae, *SIZE, first, last)
    stock = nodes_wan.WanFirstLastFrameToVideo.execute(text(), text(), vae, *SIZE, start_image=first, end_image=last)
    theirs = given(model, ours, batch)
    assert theirs.shape[:2] == (batch, 17) and theirs.any()
    assert relative_error(given(model, stock, batch), theirs) < SAME
    if not end and start % 4 == 1:
        stock = nodes_wan.WanImageToVideo.execute(text(), text(), vae, *SIZE, start_image=first)
        assert relative_error(given(model, stock, batch), theirs) < SAME


def test_stock_control_nodes_give_what_ours_gives(vae):
    model, video, reference = tiny_mmdit(in_channels=CONTROL), images(9), images(1, 4)
    for size in (SIZE, (32, 32, 17, 1)):
        for image in (None, reference):
            ours = controlled(vae, size, control_video=video, ref_image=image)
            stock = nodes_wan.WanFunControlToVideo.execute(
                text(), text(), vae, *size, start_image=image, control_video=video
            )
            assert relative_error(given(model, stock), given(model, ours)) < SAME


@pytest.mark.parametrize("channels", [CONTROL, CAMERA])
def test_a_reference_latent_is_the_reference_image(vae, channels):
    model, reference = tiny_mmdit(in_channels=channels), images(1)
    video = {"control_video": images(9)} if channels == CONTROL else {}
    ours = controlled(vae, ref_image=reference, **video)
    stock = nodes_wan.Wan22FunControlToVideo.execute(text(), text(), vae, *SIZE, ref_image=reference, **video)
    assert given(model, ours)[:, -16:].any()
    assert relative_error(given(model, stock), given(model, ours)) < SAME
    with pytest.raises(ValueError, match="takes no reference image"):
        given(tiny_mmdit(in_channels=32, **TWO_TEXTS), stock)


def test_the_last_of_several_reference_latents_counts(vae, caplog):
    model, latents = tiny_mmdit(in_channels=CONTROL), random(2, 16, 1, 4, 4)
    out = controlled(vae)
    out.result[0][0][1]["reference_latents"] = [latents[:1], latents[1:]]
    expected = latents[1:] * 0.7125
    assert relative_error(given(model, out)[:, 16:, :1], expected) < SAME
    assert "only the last one is used" in caplog.text
    out.result[0][0][1]["reference_latents"] = [random(1, 4, 1, 4, 4)]
    with pytest.raises(ValueError, match="encode the image with the VAE"):
        given(model, out)


@pytest.mark.parametrize(
    ("network", "key", "word"),
    [
        (tiny_mmdit, "clip_vision_output", "clip_vision_output"),
        (tiny_mmdit, "reference_latents", "reference image"),
        (tiny_mmdit, "vace_frames", "WanVaceToVideo"),
        (tiny_hunyuan_dit, "reference_latents", "reference image"),
    ],
)
def test_conditioning_that_changes_nothing_is_named(network, key, word, caplog):
    model = network().model
    noise = random(1, model.latent_format.latent_channels, 3, 4, 4)
    conds = {"noise": noise, "device": noise.device, key: [random(1, 16, 1, 4, 4)]}
    model.extra_conds(**conds, prompt_type="negative")
    assert not caplog.text
    model.extra_conds(**conds, prompt_type="positive")
    assert "does not use" in caplog.text and word in caplog.text


def test_stock_camera_nodes_give_what_ours_gives(vae):
    model, reference = tiny_mmdit(in_channels=CAMERA), images(1)
    for image in (None, reference):
        ours = controlled(vae, camera_conditions=camera(), ref_image=image)
        stock = nodes_wan.WanCameraImageToVideo.execute(
            text(), text(), vae, *SIZE, start_image=image, camera_conditions=camera()
        )
        assert given(model, ours)[:, :6].any() and bool(given(model, ours)[:, 6:].any()) == (image is not None)
        assert relative_error(given(model, stock), given(model, ours)) < SAME


def test_only_the_first_latent_frame_shows_the_reference(vae):
    latents = given(tiny_mmdit(in_channels=CONTROL), controlled(vae, ref_image=images(1)))
    assert latents[:, 16:, :1].any() and not latents[:, 16:, 1:].any() and not latents[:, :16].any()


def test_image_nodes_say_which_inputs_the_release_does_not_use(vae, shown):
    view, clip = {"image_embeds": random(1, 768)}, images(9)
    outs = [
        conditioning.EasyAnimateImageToVideo.execute(text(), text(), vae, *SIZE, clip, clip_vision_output=view),
        conditioning.EasyAnimateInpaintVideo.execute(text(), text(), vae, clip, True, clip_vision_output=view),
    ]
    sentence = "clip_vision_output is left out: V5.1 sees the images themselves, and none through CLIP."
    assert shown == [sentence] * 2
    assert all(len(out.result[0]) == 1 and "clip_vision_output" not in out.result[0][0][1] for out in outs)
    size, of_v4 = (32, 32, 8, 1), tiny_release_vae("V4")
    conditioning.EasyAnimateImageToVideo.execute(text(), text(), of_v4, *size, clip[:1], noise_augmentation=0.2)
    assert shown[2:] == ["noise_augmentation is left out: V4 was trained without noise on the images given."]


def test_the_node_says_what_it_leaves_out(vae, shown):
    controlled(vae, control_video=images(12))
    controlled(vae, control_video=images(5), ref_image=images(2))
    controlled(vae, (32, 32, 1, 1), ref_image=images(1))
    assert "The last 3 frames of the control video are left out" in shown[0]
    assert "is not controlled" in shown[1] and "Only the first image of ref_image" in shown[1]
    assert "ref_image is left out" in shown[2]


@pytest.mark.parametrize(
    ("channels", "inputs", "message"),
    [
        (CONTROL, {"camera_conditions": camera()}, "can't follow a camera embedding; load a Camera"),
        (CAMERA, {"control_video": images(9)}, "takes a camera embedding instead of a control video"),
        (INP, {"control_video": images(9)}, "its conditioning is a control video; load a Control"),
        (INP, {"camera_conditions": camera()}, "can't follow a camera; load a Camera"),
        (16, {"control_video": images(9)}, "only makes video from text and can't use images"),
    ],
)
def test_a_model_of_another_kind_is_named(vae, channels, inputs, message):
    with pytest.raises(ValueError, match=message):
        given(tiny_mmdit(in_channels=channels), controlled(vae, **inputs))


def test_image_to_video_on_a_control_model_is_named(vae):
    out = conditioning.EasyAnimateImageToVideo.execute(text(), text(), vae, *SIZE, images(1))
    with pytest.raises(ValueError, match="its conditioning is that of image to video"):
        given(tiny_mmdit(in_channels=CONTROL), out)


def test_a_camera_and_a_control_video_do_not_go_together(vae):
    with pytest.raises(ValueError, match="belong to different transformers"):
        controlled(vae, camera_conditions=camera(), control_video=images(9))


def test_v5_takes_no_reference():
    with pytest.raises(ValueError, match="V5 takes no reference image"):
        controlled(tiny_release_vae("V5"), ref_image=images(1))


def test_a_camera_path_of_another_length_is_named(vae):
    with pytest.raises(ValueError, match="The camera path is for a video of 32x32 with 17 frames"):
        given(tiny_mmdit(in_channels=CAMERA), controlled(vae, camera_conditions=camera(17)))


def test_the_text_encoder_of_another_release_is_named():
    model, noise = tiny_mmdit().model, random(1, 16, 3, 4, 4)
    with pytest.raises(ValueError, match="needs 24; load the text encoder that belongs to it, Qwen2-VL"):
        model.extra_conds(noise=noise, device=noise.device, cross_attn=random(1, 6, 16))


def sampled(model, noise, positive=None) -> torch.Tensor:
    positive = positive or text()
    settings = (2, 2.0, "euler", "simple", positive, text(), torch.zeros_like(noise))
    return comfy.sample.sample(model, noise, *settings, disable_pbar=True, seed=1)


class TestContextWindows:
    def windows(self, model, length: int = 17, overlap: int = 5):
        return sampling.EasyAnimateContextWindows.execute(model, length, overlap).args[0]

    def test_the_network_sees_a_window_and_the_frame_before_it(self):
        patcher, lengths = tiny_mmdit(), []
        network = patcher.model.diffusion_model
        network.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[2]))
        assert sampled(self.windows(patcher), random(1, 16, 14, 4, 4)).isfinite().all()
        whole = min(lengths)
        assert set(lengths) == {whole, whole + 1} and whole < 6

    def test_a_video_within_one_window_is_sampled_as_without(self):
        patcher, noise = tiny_mmdit(), random(1, 16, 3, 4, 4)
        assert torch.equal(sampled(self.windows(patcher), noise), sampled(patcher, noise))

    def test_the_first_frame_that_a_window_sees_is_the_one_before_it(self):
        patcher, seen = tiny_mmdit(), []
        network = patcher.model.diffusion_model
        network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        sampled(self.windows(patcher), random(1, 16, 8, 4, 4))
        first, second = seen[:2]  # five latents, of which neighbours share two: 0 to 4, and 2 before 3 to 7
        assert first.shape[2] == 5 and torch.equal(second[:, :, :3], first[:, :, 2:])
        assert relative_error(second[:, :, 3:4], first[:, :, 4:]) > SAME

    def test_as_many_frames_as_were_trained_are_thirteen_latents(self):
        patcher, lengths = tiny_mmdit(), []
        patcher.model.diffusion_model.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[2]))
        sampled(self.windows(patcher, 49, 16), random(1, 16, 25, 4, 4))
        assert lengths == [13, 14, 14] * 2  # frames 0 to 12, 9 to 21 and 12 to 24

    @pytest.mark.parametrize("channels", [CONTROL, CAMERA])
    def test_what_comes_with_the_noise_is_cut_with_it(self, vae, channels):
        inputs = {"camera_conditions": camera(33)} if channels == CAMERA else {"control_video": images(33)}
        out = controlled(vae, (32, 32, 33, 1), **inputs)
        positive, latent = out.result[0], out.result[2]["samples"]
        windows = self.windows(tiny_mmdit(in_channels=channels))
        assert sampled(windows, random(*latent.shape), positive).isfinite().all()


def test_a_stock_shift_changes_the_schedule():
    model = tiny_mmdit()
    shifted = nodes_model_advanced.ModelSamplingSD3().patch(model, 7.0)[0]
    before, after = (schedules.release_sigmas(m, "euler", 4) for m in (model, shifted))
    assert before[0] == after[0] == 1 and (after[1:-1] > before[1:-1]).all()
    assert relative_error(sampled(shifted, random(1, 16, 3, 4, 4)), sampled(model, random(1, 16, 3, 4, 4))) > SAME


def test_one_low_vram_step_is_the_loaded_one():
    patcher, x = tiny_mmdit(), random(1, 16, 3, 4, 4)
    timestep, context = torch.tensor([500.0]), text()[0][0]
    loaded = patcher.model.apply_model(x, timestep, c_crossattn=context, transformer_options={})
    patcher.patch_model(torch.device("cpu"), lowvram_model_memory=1)
    streamed = patcher.model.apply_model(x, timestep, c_crossattn=context, transformer_options={})
    patcher.unpatch_model(torch.device("cpu"))
    assert relative_error(streamed, loaded) < 1e-6
