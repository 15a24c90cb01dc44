"""Steps in small parts, with long skips in RAM, are steps at once; and models plan what fits."""

import comfy.model_management as mm
import comfy.samplers
import pytest
import torch

from support.mmdit import TWO_TEXTS, inputs_of, tiny_mmdit
from support.pack import part
from support.tiny_networks import HUNYUAN_DIT, motion_dit, motion_module, random, tiny_hunyuan_dit, tiny_transformer

LiveBytes = part("benchmarks.live_bytes").LiveBytes
host = part("easyanimate_models.host")
skip_store = part("easyanimate_models.dit.skip_store")
step_plan = part("easyanimate_models.dit.step_plan")
StepPlan = step_plan.StepPlan
AT_ONCE = StepPlan()
NOISE = random(1, 4, 2, 4, 4)
PLANS = [StepPlan(part_bytes, in_ram) for part_bytes in (1, 1000, 5000) for in_ram in (False, True)]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=str)


def motion_dit_step(**changed):
    network = tiny_transformer(**changed).model.diffusion_model
    given = {"x": random(2, 4, 3, 6, 10), "timesteps": torch.tensor([100.0, 900.0]), "context": random(2, 5, 16)}
    return network, given


def v1_step():
    return motion_dit_step(motion=(motion_module.MotionConfig(("grid", "grid"), 2),), skips=None)


def v4_step(**changed):
    network, config = tiny_hunyuan_dit(**changed).model.diffusion_model, HUNYUAN_DIT
    given = {
        "x": random(2, config.in_channels, 3, 6, 10),
        "timesteps": torch.tensor([100.0, 900.0]),
        "context": random(2, config.text_length, config.caption_channels, seed=1),
        "context_t5": random(2, config.text_length_2, config.caption_channels_2, seed=2),
    }
    return network, given


def mmdit_step(**changed):
    network = tiny_mmdit(**changed).model.diffusion_model
    return network, inputs_of(network, 2, 3, 6, 10)


STEPS = {
    "V1": v1_step,
    "V3": motion_dit_step,
    "V4": v4_step,
    "V5": lambda: mmdit_step(**TWO_TEXTS),
    "V5.1": mmdit_step,
}
every_step = pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))


def predicted(network, given: dict, plan) -> torch.Tensor:
    return network(**given, transformer_options={step_plan.OPTION: plan})


@every_step
@every_plan
@pytest.mark.parametrize("gradients", [False, True])
def test_a_step_in_parts_is_a_step_at_once(step, plan, gradients):
    network, given = step()
    before = {name: tensor.clone() for name, tensor in given.items()}
    with torch.set_grad_enabled(gradients):
        whole, found = (predicted(network, given, chosen) for chosen in (AT_ONCE, plan))
    assert (found - whole).norm() <= 1e-6 * whole.norm()
    assert all(torch.equal(given[name], tensor) for name, tensor in before.items())


@every_step
def test_gradients_in_parts_are_gradients_at_once(step):
    network, given = step()
    found = []
    for plan in (AT_ONCE, StepPlan(1000, skips_in_ram=True)):
        network.requires_grad_(True).zero_grad()
        with torch.enable_grad(), host.training():
            predicted(network, given, plan).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    whole, parts = found
    assert (parts - whole).norm() <= 1e-5 * whole.norm()


@pytest.mark.parametrize(("length", "unit", "part_bytes"), [(7, 1, 64), (12, 4, 150), (10, 4, 1), (3, 1, 10**9)])
def test_parts_cover_all_and_are_small_enough(length, unit, part_bytes):
    x = torch.empty(2, length, 8)
    spans = StepPlan(part_bytes).spans(x, 1, unit)
    assert [at for start, size in spans for at in range(start, start + size)] == list(range(length))
    assert all(size <= unit or size * 2 * 8 * 4 <= part_bytes for _, size in spans)
    assert all(size % unit == 0 for _, size in spans[:-1])


@pytest.mark.parametrize("in_ram", [False, True])
def test_skips_come_back_as_they_were_kept(in_ram):
    skips = skip_store.SkipStore(StepPlan(skips_in_ram=in_ram), torch.device("cpu"))
    x, kept = torch.zeros(3), []
    with torch.no_grad():
        for value in range(4):
            skips.push(x.fill_(value))
        while len(skips):
            kept.append(skips.pop()[0].item())
    assert kept == [3, 2, 1, 0]


# --- what a step takes, and what the model makes of it ------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 8])
@pytest.mark.parametrize("release", ["V3", "V4", "V5.1"])
def test_a_step_takes_what_the_network_says(release, parts):
    network, given = wide_step(release, torch.device("meta"))
    plan = StepPlan(token_bytes(network, given) // parts)
    assert abs(network.step_bytes(given["x"].shape, 2, plan) / peak(network, given, plan) - 1) < 0.15


@pytest.mark.parametrize("release", ["V3", "V4"])
def test_a_step_with_skips_in_ram_takes_what_the_network_says(release):
    """Here all is in RAM, so that those skips count that a GPU would not see."""
    network, given = wide_step(release, torch.device("cpu"))
    plan = StepPlan(token_bytes(network, given) // 8, skips_in_ram=True)
    away = (network.footprint.skips - network.footprint.returning) * token_bytes(network, given)
    estimate = network.step_bytes(given["x"].shape, 2, plan)
    assert abs((estimate + away) / peak(network, given, plan) - 1) < 0.15


def peak(network, given: dict, plan) -> int:
    options = {step_plan.OPTION: plan, "optimized_attention_override": attention_without_numbers}
    with torch.no_grad(), LiveBytes(*given.values(), *network.parameters()) as live:
        network(**given, transformer_options=options)
    return live.peak


def token_bytes(network, given: dict) -> int:
    return given["x"][:, 0].numel() // 4 * network.config.width * 2


def wide_step(release: str, device: torch.device):
    """A shallow network of the released proportions, in bfloat16, and its inputs of 2048 tokens."""
    made = {
        "V3": lambda: motion_dit_step(width=512, depth=7, skips=motion_dit.LongSkips(3, 4)),
        "V4": lambda: v4_step(width=512, depth=10, heads=16, inner=2234),
        "V5.1": lambda: mmdit_step(width=512, heads=32),
    }
    network, given = made[release]()
    given["x"] = torch.zeros(1, given["x"].shape[1], 8, 32, 32)
    timesteps = given["timesteps"][:1].to(device)
    given = {name: tensor[:1].to(device, torch.bfloat16) for name, tensor in given.items()}
    return network.to(device, torch.bfloat16), {**given, "timesteps": timesteps}


def attention_without_numbers(function, q, *_, skip_reshape=False, **__):
    return torch.empty_like(q.transpose(1, 2)).flatten(2) if skip_reshape else torch.empty_like(q)


GPU = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """What the host says of a GPU: `gpu(bytes)` sets how much of it is free, and how much there is."""
    monkeypatch.setattr(mm, "get_torch_device", lambda: GPU)
    monkeypatch.setattr(mm, "pytorch_attention_flash_attention", lambda: True)

    def has(free: float, total: float = 2**60) -> None:
        monkeypatch.setattr(mm, "get_free_memory", lambda *_: free)
        monkeypatch.setattr(mm, "get_total_memory", lambda *_: total)

    return has


@pytest.mark.parametrize("tiny", [tiny_transformer, lambda: tiny_hunyuan_dit(depth=10)], ids=["V3", "V4"])
def test_skips_go_to_ram_where_they_do_not_fit(tiny, gpu):
    model = tiny().model
    model.model_loaded_weight_memory = 1
    shape = (2, 4, 8, 64, 64)
    on_device, in_ram = (model.diffusion_model.step_bytes(shape, 4, StepPlan(skips_in_ram=r)) for r in (False, True))
    assert in_ram < on_device
    for free, plan, takes in [(2 * on_device, StepPlan(), on_device), (on_device, StepPlan(skips_in_ram=True), in_ram)]:
        gpu(free)
        assert model.step_plan(shape) == plan
        assert model.memory_required(shape) == takes


def test_weights_that_are_still_to_be_loaded_count(gpu):
    model, shape = tiny_transformer().model, (1, 4, 2, 8, 8)
    model.model_loaded_weight_memory = 0
    gpu(1.6 * model.diffusion_model.step_bytes(shape, 4, StepPlan()))
    assert model.step_plan(shape).skips_in_ram
    model.model_loaded_weight_memory = 1
    assert not model.step_plan(shape).skips_in_ram


@pytest.mark.parametrize("tiny", [tiny_transformer, tiny_hunyuan_dit, tiny_mmdit])
def test_parts_are_larger_where_weights_are_streamed(tiny, gpu):
    """Each part has the weights sent again."""
    model, shape = tiny().model, (1, 16, 32, 256, 256)
    step = model.diffusion_model.step_bytes(shape, 4, StepPlan())
    needed = mm.module_size(model.diffusion_model) + step + mm.extra_reserved_memory()
    for total, part_bytes in (
        (needed, AT_ONCE.part_bytes),
        (needed - 1, part("easyanimate_models.model_base").STREAMED_PART),
    ):
        gpu(needed, total)
        assert model.step_plan(shape).part_bytes == part_bytes
        assert model.memory_required(shape) == model.diffusion_model.step_bytes(shape, 4, model.step_plan(shape))
    assert model.memory_required(shape) > step


@pytest.mark.parametrize(("room", "batches"), [(2, {2}), (1, {1})])
def test_prompts_run_apart_where_both_do_not_fit(room, batches, gpu, monkeypatch):
    patcher, seen = tiny_transformer(), set()
    model = patcher.model
    monkeypatch.setattr(model, "model_loaded_weight_memory", 1, raising=False)
    need = model.diffusion_model.step_bytes((1, 4, 2, 4, 4), 4, StepPlan(skips_in_ram=True))
    gpu(1.6 * room * need)
    monkeypatch.setattr(model, "_apply_model", lambda x, *_, **__: (seen.add(len(x)), torch.zeros_like(x))[1])
    text = [[random(1, 5, 16), {}], [random(1, 5, 16, seed=1), {}]]
    conds = [
        [{"model_conds": model.extra_conds(cross_attn=c, noise=NOISE, device="cpu"), "uuid": i}]
        for i, (c, _) in enumerate(text)
    ]
    model.current_patcher = patcher
    comfy.samplers.calc_cond_batch(model, conds, NOISE, torch.tensor([1.0]), {"transformer_options": {}})
    assert seen == batches
