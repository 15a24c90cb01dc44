"""Blocks of a frozen base that wait in RAM: what is learnt is the same bit by bit, and few are on the device."""

import gc
import weakref

import comfy.model_management as mm
import pytest
import torch

from support.mmdit import TWO_TEXTS, tiny_mmdit
from support.pack import part
from support.tiny_networks import HUNYUAN_DIT, random, tiny_hunyuan_dit, tiny_transformer

block_swap = part("easyanimate_models.training.denoiser.block_swap")
frozen_base = part("easyanimate_models.training.denoiser.frozen_base")
host = part("easyanimate_models.host")
journal = part("easyanimate_models.training.journal")
load_lora = part("easyanimate_models.lora").load_lora
lora = part("easyanimate_models.training.denoiser.lora")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
objective = part("easyanimate_models.training.denoiser.objective")
sd = part("easyanimate_models.sd")
DenoiserRun = part("easyanimate_models.training.denoiser.run").DenoiserRun
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
TINY = part("easyanimate_models.files.model_files").TINY
PLAN = TrainingPlan(steps=3, learning_rate=3e-3, warmup=1, ema=0.5, clip=1.0, seed=3, schedule="constant")
CPU = torch.device("cpu")
MODELS = {
    "V1": lambda: tiny_transformer(depth=6, skips=None),
    "V3": lambda: tiny_transformer(depth=6),
    "V4": tiny_hunyuan_dit,
    "V5": lambda: tiny_mmdit(**TWO_TEXTS, depth=6, mmdit_layers=3),
    "V5.1": lambda: tiny_mmdit(depth=6, mmdit_layers=3),
}

pytestmark = pytest.mark.usefixtures("gradients")


def batch_for(config):
    texts = {"context": random(2, 5, config.caption_channels), "mask": torch.ones(2, 5)}
    if channels := getattr(config, "caption_channels_2", None):
        texts |= {"context_2": random(2, 7, channels), "mask_2": torch.ones(2, 7)}
    given = config.in_channels - config.latent_channels
    latents = random(2, config.latent_channels, 2, 4, 4)
    return objective.Batch(latents, **texts, given=random(2, given, 2, 4, 4) if given else None)


def trained(folder, model, blocks_to_swap: int) -> tuple[dict[str, torch.Tensor], list[str]]:
    """What the adapters have learnt, and the losses."""
    torch.manual_seed(0)
    batch = batch_for(model.model.diffusion_model.config)
    patcher, adapters = lora.add_adapters(model, lora.LoraSettings(rank=4, alpha=4))
    run = DenoiserRun(folder, PLAN, objective.ObjectiveSettings(blocks_to_swap=blocks_to_swap))
    lora_training.fit_adapters(patcher, adapters, lambda *_: batch, run, {})
    return adapters.state_dict(), [row["loss"] for row in journal.read_log(folder / "log.csv")]


class Residents:
    """Counts the blocks whose copies are alive whenever another one is sent for."""

    def __init__(self, monkeypatch):
        self.copies: dict[int, list] = {}
        self.most = self.sent = 0
        send = block_swap.BlockSwap._sent

        def counted(swap, index: int):
            copies = send(swap, index)
            self.copies.setdefault(index, []).extend(weakref.ref(copy.untyped_storage()) for copy in copies)
            self.sent += 1
            self.most = max(self.most, len(swap.staying) + self.now())
            return copies

        monkeypatch.setattr(block_swap.BlockSwap, "_sent", counted)

    def now(self) -> int:
        return sum(any(copy() is not None for copy in copies) for copies in self.copies.values())


@pytest.mark.parametrize("name", MODELS)
def test_what_is_learnt_is_the_same_bit_by_bit(name, tmp_path, monkeypatch):
    model = MODELS[name]()
    network = model.model.diffusion_model
    expected, losses = trained(tmp_path / "without", model, 0)
    before = {key: (tensor, tensor.clone()) for key, tensor in network.named_parameters()}
    gc.disable()  # memory is given back at once, not when Python gets round to it
    try:
        residents = Residents(monkeypatch)
        for blocks_to_swap in (1, 4):
            residents.most = residents.sent = 0
            found, same = trained(tmp_path / str(blocks_to_swap), model, blocks_to_swap)
            assert same == losses and expected.keys() == found.keys()
            assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
            assert residents.most == network.config.depth - blocks_to_swap
            swapped = blocks_to_swap + block_swap.AT_WORK
            assert residents.sent <= PLAN.steps * 2 * swapped + 1
            assert residents.now() == 0
    finally:
        gc.enable()
    for key, parameter in network.named_parameters():
        assert parameter is before[key][0] and torch.equal(parameter, before[key][1])
    for module in network.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8_e4m3fn"])
def test_a_base_in_low_precision_is_swapped_too(weight_dtype, tmp_path):
    results = []
    for blocks_to_swap in (0, 2):
        model = sd.load_transformer(TINY, weight_dtype=weight_dtype)
        results.append(trained(tmp_path / str(blocks_to_swap), model, blocks_to_swap))
    (expected, losses), (found, same) = results
    assert same == losses and all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_what_is_put_on_the_device_is_all_but_the_streamed_blocks():
    """On a stand-in for a device: a copy there is a tensor without numbers."""
    network = tiny_hunyuan_dit().model.diffusion_model
    swap = block_swap.BlockSwap(network.blocks_in_order, 2, torch.device("meta"))
    block_swap.move_all_but(network, swap.streamed, swap.device)
    streamed = {f"blocks.{i}." for i in range(4)}
    assert len(swap.streamed) == 4 and len(swap.staying) == HUNYUAN_DIT.depth - 4
    for name, tensor in network.state_dict().items():
        assert (tensor.device.type == "cpu") == name.startswith(tuple(streamed)), name


def test_blocks_come_in_both_directions_one_ahead(monkeypatch):
    network = tiny_mmdit(depth=6, mmdit_layers=3).model.diffusion_model
    swap, order = block_swap.BlockSwap(network.blocks_in_order, 3, CPU), []
    send = swap._sent
    monkeypatch.setattr(swap, "_sent", lambda index: (order.append(index), send(index))[1])
    swap.open()
    x, context = random(1, 16, 1, 4, 4).requires_grad_(), random(1, 3, network.config.caption_channels)
    options = objective.checkpointed_blocks(6)
    with host.training():
        network(x, torch.tensor([3.0]), context, transformer_options=options).sum().backward()
    swap.close()
    assert order == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 1]  # the last is for the next step
    assert x.grad.any()


def test_the_host_may_sample_meanwhile(monkeypatch):
    """A MODEL with a LoRA on it, loaded and unloaded by the host as for a preview; afterwards it is as before."""
    base = tiny_mmdit(depth=6, mmdit_layers=3)
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    key = "diffusion_model.transformer_blocks.0.ff.net.2.weight"
    model = base.clone()
    model.add_patches({key: ("diff", (random(*before[key].shape),))}, 0.5)
    network = model.model.diffusion_model
    x, context = random(1, 16, 1, 4, 4), random(1, 3, network.config.caption_channels)

    def predicted() -> torch.Tensor:
        with torch.no_grad():
            return network(x, torch.tensor([3.0]), context)

    plain = predicted()
    frozen_base.load_frozen(model)
    expected, residents = predicted(), Residents(monkeypatch)
    with frozen_base.frozen_models(model, blocks_to_swap=3) as load:
        load()
        mm.load_models_gpu([model])
        assert torch.equal(predicted(), expected) and residents.sent == 5
        mm.unload_all_models()
        load()
        assert torch.equal(predicted(), expected) and residents.sent == 10
    assert torch.equal(predicted(), plain) and not torch.equal(plain, expected)
    assert all(torch.equal(tensor, before[key]) for key, tensor in base.model.state_dict().items())


@pytest.mark.parametrize("blocks_to_swap", [5, 100])
def test_two_blocks_at_least_have_to_be_on_the_device(blocks_to_swap):
    message = f"blocks_to_swap is {blocks_to_swap}, but this transformer has 6 blocks, 2 of .* to 4 or less"
    with pytest.raises(ValueError, match=message):
        block_swap.BlockSwap(tiny_hunyuan_dit().model.diffusion_model.blocks_in_order, blocks_to_swap, CPU)


def test_swapping_needs_blocks_to_be_recomputed():
    with pytest.raises(ValueError, match="blocks_to_swap needs checkpointing; set checkpointing to true"):
        objective.ObjectiveSettings(checkpointing=False, blocks_to_swap=3)
    with pytest.raises(ValueError, match="blocks_to_swap is -1; it must be 0 or more"):
        objective.ObjectiveSettings(blocks_to_swap=-1)
