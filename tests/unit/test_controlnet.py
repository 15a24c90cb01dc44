"""PixArt ControlNets over tiny random transformers, against the same arithmetic written out frame by frame."""

from dataclasses import replace

import comfy.context_windows
import comfy.sample
import pytest
import torch
from safetensors.torch import save_file

import nodes as host_nodes
from support import tiny_networks
from support.components import write_component
from support.control_arithmetic import DEPTH, FRAMES, computed, inputs_for, pixart_file
from support.pack import part
from support.recorded import golden, relative_error
from support.tiny_networks import DIT, random, tiny_transformer, tiny_vae

sd = part("easyanimate_models.sd")
controlnet = part("easyanimate_models.conditioning.pixart_control")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
TINY = part("easyanimate_models.files.model_files").TINY
INPAINTING = replace(DIT, in_channels=12, clip_tokens=True)
V1 = replace(DIT, motion=(tiny_networks.motion_module.MotionConfig(("grid", "grid"), 2),), skips=None)


@pytest.fixture
def official(tmp_path):
    """A file, its tensors, and the CONTROL_NET loaded from it."""
    path = tmp_path / "PixArt-XL-2-tiny-ControlNet.safetensors"
    tensors = pixart_file(path)
    return path, tensors, sd.load_controlnet(path)


@pytest.fixture(params=[DIT, INPAINTING, V1], ids=["V3", "V3 InP", "V1"])
def base(request, monkeypatch):
    monkeypatch.setattr(tiny_networks, "DIT", request.param)
    return tiny_transformer()


def hint_frames(count: int = 4 * FRAMES) -> torch.Tensor:
    """Frames `[T, 3, H, W]` in 0..1 as the host hands them over."""
    return random(count, 3, 32, 48, seed=9).sigmoid()


def applied(control, base, frames=None, strength: float = 1.0, percent=(0.0, 1.0), vae=None):
    """A copy of the CONTROL_NET as it is when sampling begins."""
    control = control.copy().set_cond_hint(
        hint_frames() if frames is None else frames, strength, percent, vae=vae or tiny_vae()
    )
    control.pre_run(base.model, base.model.model_sampling.percent_to_sigma)
    return control


def residuals(control, base, options=None) -> list[torch.Tensor]:
    """What a CONTROL_NET outputs for `inputs_for`."""
    x, sigma, cond = inputs_for(base.model.diffusion_model.config)
    return control.get_control(x, sigma, cond, 1, options or {})["output"]


# --- the arithmetic ------------------------------------------------------------------------------------------------


def test_residuals_and_noise_are_those_of_the_written_out_arithmetic(official, base, record_property):
    _, tensors, control = official
    vae = tiny_vae()
    ours = residuals(applied(control, base, vae=vae), base)
    theirs, noise = computed(base, tensors, vae.encode(hint_frames().movedim(1, -1)))
    errors = [relative_error(a, b) for a, b in zip(ours, theirs, strict=True)]
    record_property("residuals", max(errors))
    assert max(errors) < 1e-5
    x, sigma, cond = inputs_for(base.model.diffusion_model.config)
    denoised = base.model.apply_model(x, sigma, control={"output": ours}, **cond)
    error = relative_error((x - denoised) / sigma[0], noise)
    record_property("noise", error)
    assert error < 1e-5
    assert relative_error((x - base.model.apply_model(x, sigma, **cond)) / sigma[0], noise) > 0.1


def texts(base) -> list:
    """Positive and negative conditioning, for one video."""
    _, _, cond = inputs_for(base.model.diffusion_model.config)
    extra = {"attention_mask": cond["attention_mask"][:1]}
    if "c_concat" in cond:
        extra["concat_latent_image"] = cond["c_concat"][:1]
    return [[[cond["c_crossattn"][i : i + 1], dict(extra)]] for i in (0, 1)]


def controlled(base, control, vae) -> list:
    """The same under the stock node."""
    frames = hint_frames().movedim(1, -1)
    return host_nodes.ControlNetApplyAdvanced().apply_controlnet(*texts(base), control, frames, 1.0, 0.0, 1.0, vae)


def test_an_image_vae_gives_every_frame_its_own_hint(official, tmp_path):
    """V1: as many latent frames as frames."""
    recorded = golden("v1_e2e/sd_vae")
    path = write_component(tmp_path / "vae", recorded.weights, recorded.config["constructor"])
    base, vae, frames = tiny_transformer(), sd.load_vae(path), hint_frames(FRAMES)
    ours = residuals(applied(official[2], base, frames, vae=vae), base)
    theirs, _ = computed(base, official[1], vae.encode(frames.movedim(1, -1)))
    assert max(map(relative_error, ours, theirs)) < 1e-5


def sampled(base, conditioning) -> torch.Tensor:
    """Three steps of euler with guidance."""
    noise = inputs_for(base.model.diffusion_model.config)[0][:1]
    how = {"disable_pbar": True, "seed": 0}
    return comfy.sample.sample(base, noise, 3, 4.0, "euler", "normal", *conditioning, torch.zeros_like(noise), **how)


def test_a_new_control_net_changes_nothing_at_all(official, base):
    """Training starts from zero projections."""
    control = official[2]
    for block in control.patcher.model.controlnet:
        block.after_proj.weight.data.zero_()
        block.after_proj.bias.data.zero_()
    assert torch.equal(sampled(base, controlled(base, control, tiny_vae())), sampled(base, texts(base)))


def test_the_host_samples_with_it_and_it_lets_go_of_the_model(official, base):
    conditioning = controlled(base, official[2], tiny_vae())
    assert relative_error(sampled(base, conditioning), sampled(base, texts(base))) > 0.01
    control = conditioning[0][0][1]["control"]
    assert control is conditioning[1][0][1]["control"]
    assert control.base is None and control.cond_hint is None


def test_context_windows_of_the_host_take_it(official, base):
    windows = comfy.context_windows
    handler = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule("standard_static"),
        fuse_method=windows.get_matching_fuse_method("pyramid"),
        context_length=2,
        context_overlap=1,
        dim=2,
    )
    base = base.clone()
    base.model_options["context_handler"] = handler
    windows.create_prepare_sampling_wrapper(base)
    steered = sampled(base, controlled(base, official[2], tiny_vae()))
    assert relative_error(steered, sampled(base, texts(base))) > 0.01


# --- strength, range, chains, lengths, windows ---------------------------------------------------------------------


def test_residuals_are_proportional_to_strength(official):
    base, control = tiny_transformer(), official[2]
    full, half = (residuals(applied(control, base, strength=strength), base) for strength in (1.0, 0.5))
    assert all(torch.equal(a * 0.5, b) for a, b in zip(full, half, strict=True))


def test_two_in_a_chain_add_up(official, tmp_path):
    base, first = tiny_transformer(), official[2]
    pixart_file(tmp_path / "second.safetensors", depth=2, seed=7)
    second = sd.load_controlnet(tmp_path / "second.safetensors")
    alone = [residuals(applied(control, base), base) for control in (first, second)]
    chained = applied(second, base).set_previous_controlnet(applied(first, base))
    together = residuals(chained, base)
    assert [len(each) for each in (*alone, together)] == [3, 2, 3]
    assert all(torch.allclose(c, a + b) for c, a, b in zip(together, *alone, strict=False))
    assert torch.equal(together[2], alone[0][2])
    assert chained.get_models() == [first.patcher, second.patcher]


def test_outside_its_range_it_says_nothing(official):
    base, control = tiny_transformer(), official[2]
    x, sigma, cond = inputs_for(DIT)
    late = applied(control, base, percent=(0.9, 1.0))
    assert late.get_control(x, sigma * 20, cond, 1, {}) is None
    assert late.get_control(x, sigma * 0.01, cond, 1, {}) is not None
    chained = late.set_previous_controlnet(applied(control, base))
    assert len(chained.get_control(x, sigma * 20, cond, 1, {})["output"]) == DEPTH


def test_a_short_hint_goes_on_with_its_last_frame_and_a_long_one_is_cut(official):
    base, control = tiny_transformer(), official[2]
    still = hint_frames(1)
    expected = residuals(applied(control, base, still.expand(16, -1, -1, -1)), base)
    assert all(map(torch.equal, residuals(applied(control, base, still), base), expected))
    expected = residuals(applied(control, base), base)
    longer = torch.cat([hint_frames(), hint_frames(9)])
    assert all(map(torch.equal, residuals(applied(control, base, longer), base), expected))
    shorter = hint_frames()[:11]
    padded = torch.cat([shorter, shorter[-1:].expand(5, -1, -1, -1)])
    assert all(map(torch.equal, *(residuals(applied(control, base, each), base) for each in (shorter, padded))))


def test_a_hint_of_another_size_is_resized(official):
    base, control = tiny_transformer(), official[2]
    large = hint_frames().repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    expected = residuals(applied(control, base), base)
    assert all(map(torch.equal, residuals(applied(control, base, large), base), expected))


class Window:
    """A context window as 0.3.75 knows it: without the length of the video."""

    def __init__(self, index_list: list[int]):
        self.index_list = index_list

    def get_tensor(self, full: torch.Tensor, device=None, dim: int = 0) -> torch.Tensor:
        return full.index_select(dim, torch.tensor(self.index_list)).to(device)


def test_a_context_window_sees_its_part_of_the_hint(official):
    base, tensors, control = tiny_transformer(), *official[1:]
    latents = tiny_vae().encode(hint_frames(32).movedim(1, -1))
    for indices, hints in (([2, 3, 6, 7], [2, 3, 6, 7]), ([7, 8, 9, 10], [7, 7, 7, 7])):
        theirs, _ = computed(base, tensors, latents[:, :, hints])
        ours = residuals(applied(control, base, hint_frames(32)), base, {"context_window": Window(indices)})
        assert max(map(relative_error, ours, theirs)) < 1e-5


def test_a_window_that_knows_the_length_of_the_video_has_the_hint_made_as_long(official):
    base, tensors, control = tiny_transformer(), *official[1:]
    window = Window([2, 3, 8, 9])
    window.total_frames = 10  # 0.33
    frames = torch.cat([hint_frames(32), hint_frames(32)[-1:].expand(8, -1, -1, -1)])
    theirs, _ = computed(base, tensors, tiny_vae().encode(frames.movedim(1, -1))[:, :, window.index_list])
    ours = residuals(applied(control, base, hint_frames(32)), base, {"context_window": window})
    assert max(map(relative_error, ours, theirs)) < 1e-5


# --- files ---------------------------------------------------------------------------------------------------------


def test_every_layout_gives_the_same_weights(official, tmp_path):
    _, tensors, control = official
    expected = control.patcher.model.state_dict()
    whole = {"state_dict": {**tensors, "base_model.blocks.0.attn.qkv.weight": torch.ones(3)}}
    torch.save(whole, tmp_path / "official.pth")
    inside = ("copied_block", "transformer_block")
    diffusers = {k.replace("controlnet.", "controlnet_blocks.", 1).replace(*inside): v for k, v in expected.items()}
    save_file(diffusers, tmp_path / "diffusers.safetensors", metadata={"num_attention_heads": "2"})
    for name in ("official.pth", "diffusers.safetensors"):
        loaded = sd.load_controlnet(tmp_path / name).patcher.model.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[k], v) for k, v in expected.items())


def refused(path) -> str:
    with pytest.raises(CheckpointError) as error:
        sd.load_controlnet(path)
    message = str(error.value)
    assert path.name in message and message.endswith(".") and "\n" not in message
    return message


def test_other_files_are_named(official, tmp_path):
    path, tensors, _ = official
    assert "is an EasyAnimate V1-V3 transformer, not a PixArt ControlNet" in refused(
        TINY / "transformer" / "diffusion_pytorch_model.safetensors"
    )
    for key in ("control_model.zero_convs.0.0.weight", "controlnet_cond_embedding.conv_in.weight"):
        save_file({key: torch.zeros(1)}, tmp_path / "sd15.safetensors")
        assert "is a Stable Diffusion ControlNet" in refused(tmp_path / "sd15.safetensors")
    incomplete = {k: v for k, v in tensors.items() if k != "controlnet.1.after_proj.bias"}
    save_file(incomplete, path)
    assert "lacks controlnet.1.after_proj.bias" in refused(path)
    save_file(tensors | {"controlnet.1.what": torch.zeros(1)}, path)
    assert "unexpected controlnet.1.what" in refused(path)


def test_other_loaders_name_it(official):
    for load in (sd.load_transformer, sd.load_vae, sd.load_text_encoder):
        with pytest.raises(CheckpointError, match="is a PixArt ControlNet, not"):
            load(official[0])


def test_without_a_vae_it_says_what_to_connect(official):
    base = tiny_transformer()
    with pytest.raises(ValueError, match="connect the model's VAE"):
        controlled(base, official[2], None)


def test_a_model_that_it_was_not_made_for(official, tmp_path):
    pixart_file(tmp_path / "wide.safetensors", width=64)
    pixart_file(tmp_path / "deep.safetensors", depth=4)
    base = tiny_transformer()
    for name, message in (("wide", "3 blocks, width 64"), ("deep", "4 blocks, width 32")):
        control = sd.load_controlnet(tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=f"{message}.*does not fit this transformer .4 blocks, width 32"):
            applied(control, base)

    class Other:
        diffusion_model = torch.nn.Linear(1, 1)
        model_sampling = base.model.model_sampling

    with pytest.raises(ValueError, match="only works with EasyAnimate V1 to V3"):
        official[2].pre_run(Other(), lambda percent: percent)


def test_the_vae_of_another_model(official):
    class Other:
        upscale_ratio = 8
        spacial_compression_encode = staticmethod(lambda: 8)
        encode = staticmethod(lambda pixels: torch.zeros(len(pixels), 16, *(n // 8 for n in pixels.shape[1:3])))

    base = tiny_transformer()
    with pytest.raises(ValueError, match="16-channel latents .* the model needs 4 channels"):
        residuals(applied(official[2], base, vae=Other()), base)
