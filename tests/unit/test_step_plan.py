"""Steps in small parts, with long skips in RAM, are steps at once; and models plan what fits."""

import pytest
import torch

from support.pack import part
from support.tiny_networks import motion_module, random, tiny_transformer

skip_store = part("easyanimate_models.dit.skip_store")
step_plan = part("easyanimate_models.dit.step_plan")
StepPlan = step_plan.StepPlan
AT_ONCE = StepPlan()
PLANS = [StepPlan(part_bytes, in_ram) for part_bytes in (1, 1000, 5000) for in_ram in (False, True)]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=str)


def motion_dit_step(**changed):
    network = tiny_transformer(**changed).model.diffusion_model
    given = {"x": random(2, 4, 3, 6, 10), "timesteps": torch.tensor([100.0, 900.0]), "context": random(2, 5, 16)}
    return network, given


def v1_step():
    return motion_dit_step(motion=(motion_module.MotionConfig(("grid", "grid"), 2),), skips=None)


STEPS = {"V1": v1_step, "V3": motion_dit_step}
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
        predicted(network, given, plan).square().sum().backward()
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 10
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


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
