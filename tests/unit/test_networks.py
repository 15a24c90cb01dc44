"""Rules that every network keeps: causality, slices, memory, progress, cancelling."""

import comfy.model_management as mm
import comfy.ops
import comfy.sd
import comfy.utils
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from support.pack import part
from support.tiny_networks import DIT, random, tiny_release_vae, tiny_slice_vae, tiny_transformer, tiny_vae

LiveBytes = part("benchmarks.live_bytes").LiveBytes
slicing = part("easyanimate_models.vae.slicing")
supported_models = part("easyanimate_models.supported_models")
CPU = torch.device("cpu")
MOTION_RELEASES = supported_models.EasyAnimateV1, supported_models.EasyAnimateV2, supported_models.EasyAnimateV3
RAW_TABLES = ("scale_shift_table",)  # parameters of the blocks themselves; forward moves them to the input's device


def predict(patcher, x: torch.Tensor, context: torch.Tensor, **kwargs) -> torch.Tensor:
    timesteps = torch.linspace(100, 900, x.shape[0])
    return patcher.model.diffusion_model(x, timesteps, context=context, **kwargs)


@pytest.mark.parametrize("network", [tiny_transformer().model.diffusion_model, tiny_slice_vae()], ids=["dit", "vae"])
def test_every_weight_lies_in_one_of_the_hosts_operations(network):
    for name, module in network.named_modules():
        own = {n for n, _ in module.named_parameters(recurse=False)}
        assert hasattr(module, "comfy_cast_weights") or own <= set(RAW_TABLES), f"{name} holds {own}"


class BatchedProducts(TorchDispatchMode):
    """Counts them: of a linear layer there are some where its weight is repeated for each matrix of a batch."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.bmm.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("motion", [release.motion for release in MOTION_RELEASES], ids=["V1", "V2", "V3"])
def test_a_linear_layer_of_a_motion_module_is_one_product(motion):
    """Of weights that are cast or streamed, too; repeated, they would take hundreds of MB, and three times as long."""
    patcher = tiny_transformer(motion=motion)
    patcher.model.requires_grad_(False)
    options = {"optimized_attention_override": lambda function, q, *_, **__: q}
    with BatchedProducts() as products:
        predict(patcher, random(1, 4, 3, 6, 8), random(1, 5, 16), transformer_options=options)
    assert products.count == 0


def with_lora(patcher):
    """A clone under a LoRA that touches every linear layer of the first two blocks."""
    lora = {}
    for name, module in patcher.model.diffusion_model.transformer_blocks[:2].named_modules():
        if isinstance(module, torch.nn.Linear):
            out, inner = module.weight.shape
            key = f"diffusion_model.transformer_blocks.{name}"
            lora[f"{key}.lora_up.weight"] = random(out, 2, seed=len(lora)) / 4
            lora[f"{key}.lora_down.weight"] = random(2, inner, seed=len(lora)) / 4
    return comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0)[0]


def test_partial_load_with_a_lora_equals_full_load_and_unpatching_restores_every_bit():
    patcher = tiny_transformer()
    before = {k: v.clone() for k, v in patcher.model.state_dict().items()}
    x, context = random(1, 4, 3, 6, 8), random(1, 5, 16, seed=1)
    plain, patched = predict(patcher, x, context), with_lora(patcher)

    patched.patch_model(CPU)
    full = predict(patched, x, context)
    patched.unpatch_model(CPU)
    patched.patch_model(CPU, lowvram_model_memory=patcher.model_size() // 2)
    assert patched.model.model_lowvram and patched.lowvram_patch_counter() > 0
    partial = predict(patched, x, context)
    patched.unpatch_model(CPU)

    assert (full - plain).norm() > 0.1 * plain.norm()
    torch.testing.assert_close(partial, full, rtol=1e-5, atol=1e-5)
    after = patcher.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def state(network: torch.nn.Module) -> dict:
    """Everything that hangs on the modules, tables of children aside."""
    own = ("_parameters", "_buffers", "_modules")
    return {
        name: [sorted(module._buffers), {k: repr(v) for k, v in vars(module).items() if k not in own}]
        for name, module in network.named_modules()
    }


def test_interleaved_decodes_leave_nothing_behind_and_equal_separate_ones():
    network, a, b = tiny_slice_vae(), random(1, 4, 6, 2, 3), random(1, 4, 7, 3, 2, seed=1)
    before = state(network)
    alone_a, alone_b = network.decode(a), network.decode(b)
    between = []
    mixed_a = network.decode(a, on_slice=lambda: between.append(network.decode(b)))
    assert torch.equal(mixed_a, alone_a)
    assert len(between) == 3 and all(torch.equal(mixed, alone_b) for mixed in between)
    assert state(network) == before


def test_encoding_and_predicting_leave_nothing_behind():
    vae, patcher = tiny_slice_vae(), tiny_transformer()
    before = state(vae), state(patcher.model.diffusion_model)
    vae.encode(random(1, 3, 17, 16, 16))
    predict(patcher, random(1, 4, 3, 6, 8), random(1, 5, 16))
    assert (state(vae), state(patcher.model.diffusion_model)) == before


def decode_peak(frames: int, release: str = "V3") -> int:
    network = tiny_release_vae(release).first_stage_model
    z = random(1, network.config.latent_channels, network.plan.latents_for(frames), 3, 4)
    out = torch.empty(network.pixel_shape(z.shape))
    with LiveBytes(z, out, *network.parameters()) as live:
        network.decode(z, out)
    return live.peak


def test_decoding_takes_the_memory_of_one_slice_however_long_the_video():
    shortest = decode_peak(24)  # the middle one of its three slices sees both neighbours
    assert decode_peak(144) == shortest
    assert decode_peak(16) <= shortest
    assert shortest < 2 * decode_peak(8)


@pytest.mark.parametrize(("release", "frames"), [("V1", 2), ("V2", 18)])
def test_v1_takes_the_memory_of_a_frame_and_v2_of_a_window(release, frames):
    assert decode_peak(27, release) == decode_peak(frames, release)
    assert encode_peak(27, release) == encode_peak(frames, release)


def encode_peak(frames: int, release: str = "V3") -> int:
    network, x = tiny_release_vae(release).first_stage_model, random(1, 3, frames, 24, 32)
    out = torch.empty(network.latent_shape(x.shape))
    with LiveBytes(x, out, *network.parameters()) as live:
        network.encode(x, out)
    return live.peak


def test_encoding_takes_the_memory_of_one_slice_however_long_the_video():
    assert encode_peak(144) == encode_peak(16)


@pytest.mark.parametrize("release", ["V4", "V5", "V5.1"])
def test_features_kept_from_slice_to_slice_do_not_grow_with_the_video(release):
    assert decode_peak(145, release) == decode_peak(49, release)
    assert encode_peak(145, release) == encode_peak(49, release)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (6, 7), (5, 6), (1, 1)])
def test_odd_latents_are_padded_around_and_cropped_back(height, width):
    patcher, x, context = tiny_transformer(), random(1, 4, 2, height, width), random(1, 5, 16, seed=1)
    even = F.pad(x, (0, width % 2, 0, height % 2, 0, 0), mode="circular")
    ours = predict(patcher, x, context)
    assert ours.shape == x.shape
    torch.testing.assert_close(ours, predict(patcher, even, context)[..., :height, :width])


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 33, 50])
def test_any_number_of_latent_frames_can_be_denoised(frames):
    x = random(1, 4, frames, 4, 6)
    noise = predict(tiny_transformer(), x, random(1, 5, 16))
    assert noise.shape == x.shape and noise.isfinite().all()


@pytest.mark.parametrize("frames", [*range(1, 11), 16, 18])
def test_v2_encodes_whatever_its_windows_are_cut_to(frames):
    vae = tiny_release_vae("V2")
    z = vae.encode(torch.rand(frames, 16, 16, 3))
    assert vae.decode(z).shape[1] == vae.plan.frames_for(z.shape[2]) <= frames


@pytest.mark.parametrize("frames", [*range(1, 18), 25])
def test_any_number_of_frames_can_be_encoded_and_decoded(frames):
    network = tiny_slice_vae()
    latents = network.encode(random(1, 3, frames, 16, 24))
    assert latents.shape == (1, 4, slicing.latents_for(frames), 2, 3) and latents.isfinite().all()
    pixels = network.decode(latents)
    assert pixels.shape == (1, 3, slicing.frames_for(latents.shape[2]), 16, 24) and pixels.isfinite().all()


def test_every_frame_of_a_slice_matters_to_its_neighbour_and_to_no_other():
    network, z = tiny_slice_vae(), random(1, 4, 9, 2, 2)
    plain = network.decode(z)
    z[:, :, 1:3] += 1  # frames 1 to 8
    changed = (network.decode(z) != plain).flatten(3).any(dim=3)[0].any(dim=0)
    assert changed.nonzero().flatten().tolist() == list(range(1, 17))


def test_a_batch_under_a_mask_equals_each_prompt_trimmed_and_alone():
    patcher, x, context = tiny_transformer(), random(2, 4, 3, 4, 6), random(2, 9, 16, seed=1)
    lengths, timesteps = (9, 4), torch.tensor([100.0, 900.0])
    mask = torch.tensor([[i < length for i in range(9)] for length in lengths]).long()
    network = patcher.model.diffusion_model
    together = network(x, timesteps, context=context, attention_mask=mask)
    for i, length in enumerate(lengths):
        alone = network(x[i : i + 1], timesteps[i : i + 1], context=context[i : i + 1, :length])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


def test_long_skips_come_back_last_in_first_out():
    patcher = tiny_transformer()
    network, inputs, expected = patcher.model.diffusion_model, [], []
    for block in network.transformer_blocks[: DIT.skips.stored]:
        block.register_forward_hook(lambda module, given, out: expected.insert(0, out))
    for linear in network.long_connect_fc:
        linear.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    predict(patcher, random(1, 4, 2, 4, 4), random(1, 5, 16))
    assert len(inputs) == len(expected) > 1
    assert all(map(torch.equal, inputs, expected))


def test_the_vae_has_every_attribute_of_the_hosts_own():
    assert set(vars(comfy.sd.VAE(sd={}))) - set(vars(tiny_vae())) == set()


class Progress(list):
    """Updates of the host's progress bar, as (done, total). Interrupts when `interrupt_at` is done."""

    interrupt_at = None

    def update(self, bar, value):
        bar.current += value
        self.append((bar.current, bar.total))
        if bar.current == self.interrupt_at:
            mm.interrupt_current_processing(True)


@pytest.fixture
def progress(monkeypatch):
    progress = Progress()
    monkeypatch.setattr(comfy.utils.ProgressBar, "update", lambda bar, value: progress.update(bar, value))
    return progress


def test_decoding_reports_each_slice_of_each_clip(progress):
    images = tiny_vae().decode(random(2, 4, 5, 2, 2))
    assert images.shape == (2, 17, 16, 16, 3)
    assert progress == [(i, 6) for i in range(1, 7)]


def test_encoding_reports_each_slice(progress):
    latents = tiny_vae().encode(random(17, 16, 16, 3))
    assert latents.shape == (1, 4, 5, 2, 2)
    assert progress == [(i, 3) for i in range(1, 4)]


@pytest.mark.parametrize("work", ["decode", "encode"])
def test_an_interruption_stops_after_the_slice_at_hand(progress, work):
    given = random(1, 4, 6, 2, 2) if work == "decode" else random(24, 16, 16, 3)
    progress.interrupt_at = 2
    with pytest.raises(mm.InterruptProcessingException):
        getattr(tiny_vae(), work)(given)
    assert progress == [(1, 3), (2, 3)]
    assert not mm.processing_interrupted()
